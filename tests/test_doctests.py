"""The examples in docstrings of the public API run as they stand, on the small study and its run."""

import doctest
import inspect
import sys

import pytest
from small_study import affine_of, anatomy, save_volume

import ragsam
from ragsam.api.bank import RunBank
from ragsam.data.cards.load import load_card
from ragsam.metrics.overlap import dice

EXAMPLES = [*(getattr(ragsam, name) for name in ragsam.__all__), RunBank, load_card, dice]


@pytest.fixture
def place(own_run, edited_study, tmp_path, monkeypatch):
    """The folder in which examples run, with the files that they name."""
    folder = tmp_path / "place"
    for number in range(1, 8, 2):
        for part, array in zip(("imagesTr", "labelsTr"), anatomy(number), strict=True):
            case = f"hippocampus_{number:03d}.nii.gz"
            save_volume(folder / "Task04_Hippocampus" / part / case, array, affine_of())
    image, label = anatomy(7)
    save_volume(folder / "mr.nii.gz", image, affine_of())
    save_volume(folder / "labels" / "mr.nii.gz", label, affine_of())
    (folder / "runs").mkdir()
    own_run.rename(folder / "runs" / "hippocampus")
    edited_study(lambda content: None).rename(folder / "runs" / "hippocampus.json")
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("documented", EXAMPLES, ids=lambda documented: documented.__name__)
def test_examples_run(documented):
    module = sys.modules[documented.__module__]
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(inspect.unwrap(documented), globs=dict(vars(module))):
        runner.run(example)
    assert (runner.failures, runner.tries > 0) == (0, True)
