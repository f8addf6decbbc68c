"""The names of the first layout: a run whose configs call them is trained, served and segments as one of today."""

import re
import shutil
from types import SimpleNamespace

import pytest
from ignite.engine import Engine

from ragsam import workflows
from ragsam.api.segment import segment_with_run
from ragsam.bundle import prepare_volumes
from ragsam.errors import InputError
from ragsam.inference.inferer_retrieval import InfererRetrieval
from ragsam.io.documents import read_json
from ragsam.retrieval import Retriever
from ragsam.runs.earlier_names import WORKFLOWS

#: By name of today, the module and the name in the first layout.
EARLIER = {name: (module, name) for module, names in WORKFLOWS.items() for name in names}
EARLIER["InfererRetrieval"] = ("own_retrieval", "OwnRetrieval")
PREPARE = re.compile(r" +prepare_batch:\n +_target_: ragsam\.bundle\.prepare_volumes\n +_mode_: callable\n")


def earlier(text):
    """Return a config of today as the first layout wrote it, where it differs in what it hands over."""
    text = PREPARE.sub("", text)
    for name, (module, old) in EARLIER.items():
        text = text.replace(f"_target_: ragsam.bundle.{name}\n", f"_target_: ragsam.workflows.{module}.{old}\n")
    text = text.replace("  _disabled_: $not @ensemble\n", "  _disabled_: $not @ensemble\n  inferer: '@inferer'\n")
    return text.replace("  weigh: $", "  memory: $'memory' in str(@steered_by)\n  weigh: $")


@pytest.fixture(scope="module")
def earlier_run(run, tmp_path_factory):
    folder = shutil.copytree(run, tmp_path_factory.mktemp("earlier") / "run")
    config = folder / "configs" / "inference.yaml"
    config.write_text(earlier(config.read_text()))
    assert "prepare_batch" not in config.read_text()
    assert "ragsam.workflows.retrieval_handler.VolumeRetrieval" in config.read_text()
    return folder


def test_a_run_of_before_retrieves_as_one_of_today(earlier_run, study, segmented, tmp_path):
    segment_with_run(earlier_run, [study], tmp_path)
    assert read_json(tmp_path / "retrieval.json") == read_json(segmented / "retrieval.json")
    for path in segmented.glob("*.nii.gz"):
        assert (tmp_path / path.name).read_bytes()[10:] == path.read_bytes()[10:]  # past gzip's time


def test_a_run_of_before_is_averaged_with_another(earlier_run, run, study, tmp_path):
    segment_with_run(earlier_run, [study], tmp_path / "earlier", ensemble=[run])
    segment_with_run(run, [study], tmp_path / "today", ensemble=[earlier_run])
    for path in (tmp_path / "today").glob("*.nii.gz"):
        assert (tmp_path / "earlier" / path.name).read_bytes()[10:] == path.read_bytes()[10:]


@pytest.mark.parametrize("name", ["retrieval_handler.VolumeRetrieval", "gathered_retrieval.GatheredRetrieval"])
def test_a_handler_of_before_says_how_its_batches_are_prepared(name):
    module, name = name.split(".")
    engine = Engine(lambda engine, batch: None)
    getattr(getattr(workflows, module), name)(
        network=None, retriever=Retriever(descriptor="thumbnail", neighbours=8, carry=False)
    ).attach(engine)
    assert engine.prepare_batch is prepare_volumes
    engine.run([{"patient": ["p"], "case": ["x"]}])
    assert engine.state.batch["supports"] is None  # without a bank


def test_what_is_called_otherwise_today():
    made = workflows.own_retrieval.OwnRetrieval(retriever=None, bank="bank", preparation={})
    assert isinstance(made, InfererRetrieval)
    options = {"network": None, "retriever": None, "dataset": None, "preparation": {}, "withheld": 0.5}
    assert workflows.retrieval_handler.TrainingRetrieval(**options, first_epoch=1).withheld == 0.5
    with pytest.raises(InputError, match="retrieval_from: 3; this was removed"):
        workflows.retrieval_handler.TrainingRetrieval(**options, first_epoch=3)
    board = workflows.board.Board(
        folder="x",
        validator=SimpleNamespace(),
        colours={},
        retriever=Retriever(descriptor="thumbnail", neighbours=8, carry=False),
    )
    assert board.folder.name == "x"
    assert not hasattr(workflows, "nowhere")
