"""The largest batch that fits: by hand, and of a real training."""

from types import SimpleNamespace

import pytest
import torch

from ragsam.api import fit_batch as batch_size
from ragsam.api.fit_batch import LARGEST, largest_that_fits
from ragsam.cli import main
from ragsam.console.memory import memory_limit, peak_memory
from ragsam.errors import InputError


def machine(fixed, each, holds=None, *, gpu=True):
    """What a batch takes on a machine, which holds so much, and the sizes that were tried."""
    tried = []

    def attempt(size):
        tried.append(size)
        if holds is not None and fixed + each * size > holds:
            raise InputError("training: the GPU's memory does not hold it") from torch.OutOfMemoryError("CUDA")
        used = fixed + each * size
        return SimpleNamespace(gpu_bytes=used if gpu else 0, memory_bytes=1 if gpu else used)

    return attempt, tried


def test_the_next_one_is_foretold_and_not_tried():
    """Of 1000 bytes 900 may be taken: 100 + 90 x 8 are 820, and 16 would be 1540."""
    for gpu in (True, False):
        attempt, tried = machine(100, 90, gpu=gpu)
        assert largest_that_fits(attempt, 1000) == 8
        assert tried == [1, 2, 4, 8]


def test_memory_that_runs_out_ends_the_search():
    attempt, tried = machine(100, 90, holds=300)
    assert largest_that_fits(attempt, 10**9) == 2
    assert tried == [1, 2, 4]


def test_one_that_was_tried_and_takes_too_much_is_not_taken():
    attempt, _ = machine(100, 500)
    assert largest_that_fits(attempt, 1000) == 1
    with pytest.raises(InputError, match="not one slice fits the memory"):
        largest_that_fits(machine(100, 900)[0], 1000)
    with pytest.raises(InputError, match="not one slice fits the memory"):
        largest_that_fits(machine(100, 900, holds=500)[0], 10**9)


def test_there_is_an_end_to_it():
    attempt, tried = machine(0, 0)
    assert largest_that_fits(attempt, 1000) == LARGEST == tried[-1]


def test_another_fault_is_passed_on():
    def attempt(size):
        raise InputError("img0001: damaged")

    with pytest.raises(InputError, match="damaged"):
        largest_that_fits(attempt, 1000)


def test_the_limit_is_more_than_is_taken():
    assert memory_limit() > peak_memory()[0] > 0


def test_a_training_finds_its_own(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch_size, "LARGEST", 2)
    arguments = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "run"), "--fit-batch", "--check"]
    assert main([*arguments, "--set", "image_size=32"]) == 0
    out = capsys.readouterr().out
    assert "batch_size: 2, the largest power of two that the memory holds" in out
    assert "4 batches of 2 slices" in out
    assert not (tmp_path / "run").exists()
    assert main([*arguments[:-1], "--resume"]) == 2
    assert "--fit-batch: not with --resume" in capsys.readouterr().err
