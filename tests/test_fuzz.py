"""Damaged inputs: 300 of those that `benchmarks/fuzz.py` draws, and that it tells each failure from the others."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from forked import run_python

from ragsam.api.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent


def test_300_damaged_inputs_are_refused_in_words_or_read_as_others_read_them(study, run, segmented, tmp_path):
    evaluate(study, segmented, tmp_path / "evaluated", section="test")
    for name, made in {"study": study.parent, "run": run, "segmented": segmented}.items():
        (tmp_path / name).symlink_to(made)
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "fuzz.py"),
        "--inputs=300",
        "--jobs=1",
        "--limit=60",
        f"--output={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    accepted = dict(re.findall(r"^\| ([^|]+) \| \d+ \| (\d+) \|", done.stdout, re.MULTILINE))
    assert int(accepted["NIfTI headers"]) > 5  # were compared with nibabel's reading
    assert int(accepted["DICOM"]) > 5


def fails():
    raise KeyError("x")


TRIALS = [
    (["cards", "btcv"], None, "accepted"),
    (["cards", "nobody"], None, "refused"),
    (["cards", "--what"], None, "refused"),
    (["cards"], lambda: "voxels differ", "differs"),
    (["cards"], fails, "traceback"),
    (["cards"], lambda: max(count()), "hang"),
    (["cards"], lambda: str(np.ones(2_200_000_000, np.uint8)[-1])[1:], "memory"),
]


@pytest.fixture(scope="module")
def results():
    """What each trial comes to, in a process of its own: a fork of one that ran other tests begins with its memory."""
    paths = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
    code = f"import sys; sys.path[:0] = {paths}; from fuzz import Trial, run_forked; from test_fuzz import TRIALS\n"
    code += "for command, judge, _ in TRIALS: print(run_forked(Trial(command, judge), limit_s=10)[0])"
    done = run_python(["-c", code])
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("number", range(len(TRIALS)), ids=[result for *_, result in TRIALS])
def test_each_failure_is_told_from_the_others(results, number):
    assert results[number] == TRIALS[number][-1]
