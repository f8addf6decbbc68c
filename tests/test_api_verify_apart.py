"""Verification runs in a process that is shut in and ended in time; ensemble members are read before they run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ragsam.api.segment import segment_with_run
from ragsam.api.verify_apart import verify_apart
from ragsam.errors import InputError

#: What a process that is shut in tries, and whether it may.
ATTEMPTS = {
    "open(place + '/own.txt', 'w').write('x')": True,
    "os.mkdir(place + '/own'); os.rmdir(place + '/own')": True,
    "open(os.devnull, 'w').write('x')": True,
    "open(other + '/kept.txt').read()": True,
    "open(other + '/new.txt', 'w')": False,
    "open(other + '/kept.txt', 'r+')": False,
    "os.open(other + '/new.txt', os.O_WRONLY | os.O_CREAT)": False,
    "os.remove(other + '/kept.txt')": False,
    "os.rename(other + '/kept.txt', place + '/taken.txt')": False,
    "os.symlink(other, place + '/way'); open(place + '/way/new.txt', 'w')": False,
    "os.link(other + '/kept.txt', place + '/hard.txt')": False,
    "shutil.rmtree(other)": False,
    "os.system('true')": False,
    "subprocess.run(['true'])": False,
    "socket.create_connection(('127.0.0.1', 9), 1)": False,
    "socket.socket()": False,
    "sqlite3.connect(other + '/new.db')": False,
}
_SCRIPT = """
import os, shutil, socket, sqlite3, subprocess, sys
from ragsam.api.contained import leave_network, shut_in
place, other, *attempts = sys.argv[1:]
leave_network()
shut_in(place)
for attempt in attempts:
    try:
        exec(attempt)
        print("may")
    except PermissionError as error:
        print(error)
"""


def test_a_process_that_is_shut_in_neither_writes_elsewhere_nor_connects_nor_starts_programs(tmp_path):
    for name in ("place", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "kept.txt").write_text("kept")
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "place"), str(tmp_path / "other"), *ATTEMPTS]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert dict(zip(ATTEMPTS, (line == "may" for line in told), strict=True)) == ATTEMPTS
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["kept.txt"]
    assert (tmp_path / "other" / "kept.txt").read_text() == "kept"


def test_a_verification_that_does_not_end_is_ended(own_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = verify_apart(own_run, time_limit_s=0.01)
    assert found.faults == ["verification: not done within 0.01 s (it said nothing); the bundle does not pass"]
    with pytest.raises(InputError, match="--time-limit"):
        verify_apart(own_run, time_limit_s=0)


@pytest.fixture
def hostile(run, tmp_path):
    """A run whose config names a second one in its own folder, whose config would run code."""
    folder = shutil.copytree(run, tmp_path / "hostile", copy_function=os.link)
    inner = shutil.copytree(run, folder / "docs" / "inner", copy_function=os.link)
    rewrite(inner / "configs" / "inference.yaml", weights=f"$open('{tmp_path / 'ran'}', 'w')")
    return folder


def rewrite(path, **values):
    content = yaml.safe_load(path.read_text())
    path.unlink()
    path.write_text(yaml.safe_dump({**content, **values}, sort_keys=False))


def test_a_bundle_within_the_bundle_is_read_as_data_before_anything_runs(hostile, tmp_path):
    rewrite(hostile / "configs" / "inference.yaml", ensemble=["$@bundle_root + '/docs/inner'"])
    found = verify_apart(hostile)
    assert [fault.split(": $")[0] for fault in found.faults] == ["docs/inner/configs/inference.yaml: weights"]
    assert not (tmp_path / "ran").exists()


def test_a_member_of_an_ensemble_runs_no_code_of_its_own(hostile, study, tmp_path):
    with pytest.raises(InputError, match=r"ensemble: inner: configs/inference\.yaml: weights: .* a call of open"):
        segment_with_run(hostile, [study], tmp_path / "out", ensemble=[hostile / "docs" / "inner"])
    assert not (tmp_path / "ran").exists()


def test_the_record_of_what_segmented_runs_no_code_of_a_member_either(hostile, study, tmp_path):
    """With the handler that averages switched off, the one that writes the provenance still names the members."""
    config = Path(hostile / "configs" / "inference.yaml")
    handlers = yaml.safe_load(config.read_text())["handlers"]
    handlers = [handler for handler in handlers if not handler["_target_"].endswith("Ensemble")]
    rewrite(config, handlers=handlers)
    with pytest.raises(InputError, match="ensemble: inner"):
        segment_with_run(hostile, [study], tmp_path / "out", ensemble=[hostile / "docs" / "inner"])
    assert not (tmp_path / "ran").exists()
