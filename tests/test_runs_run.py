"""A run's folder: what it must have is told once, and bad input is found among the errors that wrap it."""

import pytest

from ragsam.errors import InputError
from ragsam.runs.run import RunFolder, bad_input, root_cause
from ragsam.runs.templates import find_bundle


def test_folder_tells_what_it_is_not(tmp_path):
    with pytest.raises(InputError, match=r"not a run \(no configs/inference.yaml\); make one with `ragsam train`"):
        RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"not a run \(no configs/train.yaml\)"):
        RunFolder(tmp_path, "train")


def test_folder_of_a_bundle_has_its_configs():
    folder = RunFolder(find_bundle("sam_lora"), "train")
    assert folder.content("inference")["bundle_root"] == "."
    assert folder.parser("train", epochs=3).get_parsed_content("epochs") == 3
    assert not folder.card_path.exists()
    with pytest.raises(InputError, match=r"no configs/other\.yaml"):
        folder.text("other")


def test_a_path_that_monai_would_change_is_refused():
    with pytest.raises(InputError, match="take # for a separator"):
        RunFolder(find_bundle("sam_lora")).parser("inference", bank="a#b")


def test_root_cause_of_errors_that_refer_to_each_other_ends():
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert root_cause(first) is first
    itself = RuntimeError("itself")
    itself.__cause__ = itself
    assert root_cause(itself) is itself


def test_bad_input_is_raised_as_it_was():
    def wrapped(original):
        try:
            raise original
        except Exception as error:
            raise RuntimeError("of the parser") from error

    told = InputError("bad")
    with pytest.raises(InputError) as caught, bad_input():
        wrapped(told)
    assert caught.value is told
    assert told.__cause__ is None  # not the error that it caused itself


def test_other_errors_stay_and_are_not_their_own_cause():
    bug = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug") as caught, bad_input():
        raise bug
    assert caught.value is bug
    assert bug.__cause__ is None
