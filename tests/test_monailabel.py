"""MONAI Label's real server on a real run: upload, labels with retrieval, prompts, the next image, training, again."""

import csv
import json
import urllib.error
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from label_server import INSTALLED, ask, infer, label_server
from small_study import QUICK

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.segment_prompts import segment_prompted
from ragsam.api.train import train_run
from ragsam.data.datalist import load_datalist
from ragsam.inference.novelty_ranking import rank_volumes
from ragsam.retrieval.bank import Bank

pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.skipif(not INSTALLED, reason="MONAI Label is not installed; run `make monailabel-env`"),
]


@pytest.fixture(scope="module")
def served(study, tmp_path_factory):
    """The address of a server that `ragsam serve` started on a run that answers prompts, and its folder."""
    folder = tmp_path_factory.mktemp("served")
    index_run(train_run("sam_lora", study, folder / "run", {**QUICK, "prompts": "trained"}))
    (folder / "studies").mkdir()
    with label_server(folder / "run", str(folder / "studies"), folder) as address:
        yield {"address": address, "folder": folder}


def read(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_run_is_served_trained_and_served_again(served, study, tmp_path):
    cases, address, run = load_datalist(study).section("test"), served["address"], served["folder"] / "run"
    info = json.loads(ask(f"{address}/info/", method="GET"))
    assert info["models"]["ragsam"]["labels"] == {"anterior": 1, "posterior": 2}
    assert info["models"]["ragsam_prompts"]["type"] == "deepgrow"
    assert "ragsam" in info["trainers"]
    assert "novelty" in info["strategies"]
    upload(address, cases)

    # Voxel by voxel what `ragsam segment` writes, and that is what `monai.bundle run` writes (test_bundle_monai.py).
    segment_with_run(run, [case.image for case in cases], tmp_path / "ours")
    for case in cases:
        labels, affine = infer(address, case.case, tmp_path / f"{case.case}.nii.gz")
        assert labels.dtype == np.uint8
        assert labels.any()
        assert np.array_equal(labels, read(tmp_path / "ours" / f"{case.case}.nii.gz"))
        assert np.allclose(affine, nib.load(case.image).affine, atol=1e-5)

    # The images that `ragsam rank` puts first, until they are labelled; each label is in the copy's bank at once.
    copy = served["folder"] / "run-monailabel" / "monaibundle" / "model" / "ragsam"
    slices, left = len(Bank.open(copy / "bank")), list(cases)
    while left:
        ranking, _ = rank_volumes(copy, [case.image for case in left])
        chosen = json.loads(ask(f"{address}/activelearning/novelty", body={}))
        assert (chosen["id"], chosen["novelty"]) == (ranking[0]["case"], pytest.approx(ranking[0]["score"]))
        (case,) = (case for case in left if case.case == chosen["id"])
        left.remove(case)
        labelled = len(cases) - len(left)
        assert save_label(address, case)["bank"] == f"learnt; {slices + 6 * labelled} slices of {4 + labelled} patients"
        if labelled == 1:
            with refused("validation: no case; label another volume"):
                train(address)
            segment_with_run(copy, [left[0].image], tmp_path / "grown")
            labels, _ = infer(address, left[0].case, tmp_path / "grown.nii.gz")
            assert np.array_equal(labels, read(tmp_path / "grown" / f"{left[0].case}.nii.gz"))
    assert json.loads(ask(f"{address}/activelearning/novelty", body={})) == {}
    assert len(Bank.open(run / "bank")) == slices

    # The copy trains on the labels that came back; the run itself stays as it is.
    before = torch.load(copy / "models" / "model.pt", weights_only=True)
    masks = check_prompts(address, run, cases[0], tmp_path / "before")
    train(address)
    with (copy / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)][-1] == "2"
    after = torch.load(copy / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    untouched = torch.load(run / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(before[key], tensor) for key, tensor in untouched.items())
    seen = json.loads((copy / "configs" / "metadata.json").read_text())["data_fingerprint"]
    assert (seen["training"]["volumes"], seen["validation"]["volumes"]) == (2, 1)

    # The next answers are those of the new weights.
    segment_with_run(copy, [cases[0].image], tmp_path / "trained")
    labels, _ = infer(address, cases[0].case, tmp_path / "again.nii.gz")
    assert np.array_equal(labels, read(tmp_path / "trained" / f"{cases[0].case}.nii.gz"))
    assert not np.array_equal(check_prompts(address, copy, cases[0], tmp_path / "after"), masks)

    # A label that is removed is out of the bank.
    ask(f"{address}/datastore/label?id={cases[0].case}&tag=final", method="DELETE")
    assert len(Bank.open(copy / "bank")) == slices + 6 * (len(cases) - 1)


def upload(address, cases):
    for case in cases:
        url = f"{address}/datastore/image?image={case.case}"
        ask(url, method="PUT", fields={"params": "{}"}, files={"file": case.image})


def save_label(address, case):
    url = f"{address}/datastore/label?image={case.case}&tag=final"
    return json.loads(ask(url, method="PUT", fields={"params": "{}"}, files={"label": case.label}))


def train(address):
    body = {"max_epochs": 2, "val_split": 0.34, "device": "cpu", "multi_gpu": False}
    ask(f"{address}/train/ragsam?run_sync=true", body=body)


@contextmanager
def refused(words):
    """Expect the answer 400 with some words."""
    with pytest.raises(urllib.error.HTTPError) as answer:
        yield
    assert answer.value.code == 400
    assert words in answer.value.read().decode()


def check_prompts(address, run, case, folder):
    """Compare a click and a box from a viewer with `ragsam segment --prompts`; return the mask."""
    folder.mkdir()
    i, j, k = (int(index) for index in np.argwhere(read(case.label) == 1).mean(0).round())
    point, box = {"i": i, "j": j, "k": k}, {"i": [i - 5, i + 5], "j": [j - 7, j + 7], "k": [k, k]}
    asked = {case.case: [{"organ": "anterior", "points": [point], "box": box, "propagate": True}]}
    (folder / "prompts.json").write_text(json.dumps(asked))
    segment_prompted(run, [case.image], folder / "prompts.json", folder / "ours")
    params = {"label": "Anterior", "foreground": [[i, j, k]], "background": [], "propagate": True}
    roi = [end for axis in "ijk" for end in box[axis]]
    mask, affine = infer(address, case.case, folder / "mask.nii.gz", "ragsam_prompts", roi=roi, **params)
    assert mask.any()
    assert np.array_equal(mask, read(folder / "ours" / f"{case.case}.nii.gz"))
    assert np.allclose(affine, nib.load(case.image).affine, atol=1e-5)
    with refused("no prompt; send foreground or background clicks"):
        infer(address, case.case, folder / "none.nii.gz", "ragsam_prompts", label="anterior")
    return mask


def test_only_this_machine_is_listened_to(served):
    port = int(served["address"].rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A" and int(row[1].partition(":")[2], 16) == port}
    assert listening == {f"0100007F:{port:04X}"}  # 127.0.0.1, as the kernel writes it
