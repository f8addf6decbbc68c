"""A run's metadata: the versions, the data and the score of the weights that were kept, and of no others."""

import json
import shutil
from types import SimpleNamespace

import monai
import numpy as np
import pytest
import torch

from ragsam import __version__
from ragsam.data.data_fingerprint import data_fingerprint
from ragsam.data.datalist import load_datalist
from ragsam.networks.checkpoints import load_weights
from ragsam.training.metadata_handler import RunMetadata


def test_metadata_name_the_versions_the_data_and_what_the_weights_were_worth(run, study):
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    assert metadata["monai_version"] == monai.__version__
    assert metadata["pytorch_version"] == torch.__version__.partition("+")[0]
    assert metadata["numpy_version"] == np.__version__
    assert metadata["required_packages_version"]["ragsam"] == __version__
    scores = metadata["eval_metrics"]
    assert scores["val_mean_dice"] == load_weights(run / "models" / "model.safetensors")[1]["val_mean_dice"]
    by_organ = [scores["val_dice_anterior"], scores["val_dice_posterior"]]
    assert np.mean(by_organ) == pytest.approx(scores["val_mean_dice"], abs=1e-6)
    assert metadata["data_fingerprint"] == {
        name: data_fingerprint(load_datalist(study).section(name)) for name in ("training", "validation")
    }
    assert metadata["data_fingerprint"]["training"]["patients"] == 4


def test_metadata_stay_where_worse_weights_another_process_or_another_folder_come(own_run, study, monkeypatch):
    path, weights = own_run / "configs" / "metadata.json", own_run / "models" / "model.safetensors"
    before = path.read_bytes()
    kept = json.loads(before)["eval_metrics"]["val_mean_dice"]
    dice = SimpleNamespace(by_organ=[0.5, None])
    cases = load_datalist(study).section("validation")
    names = {"metric": "val_mean_dice", "organs": ["anterior", "posterior"], "training": cases, "validation": cases}

    def write(score, file=weights):
        engine = SimpleNamespace(state=SimpleNamespace(metrics={"val_mean_dice": score}))
        RunMetadata(path, file, dice, **names).write(engine)

    write(kept - 0.1)  # its weights were not kept
    write(kept, shutil.copy(weights, own_run / "model.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr("ignite.distributed.get_rank", lambda: 1)
        write(kept)
    assert path.read_bytes() == before
    write(kept)
    assert json.loads(path.read_text())["eval_metrics"] == {"val_mean_dice": kept, "val_dice_anterior": 0.5}
