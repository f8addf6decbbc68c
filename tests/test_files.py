"""Files written whole or not at all, whatever kills the writer, and read with one clear line."""

import errno
import hashlib
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ragsam.errors import InputError
from ragsam.files import atomic_write, file_names, sha256_file, write_json_atomic, write_text_atomic
from ragsam.io.documents import read_json

LETTERS = b"ab"
PIECE, PIECES = 4096, 64
#: Writes files of one letter for ever, in pieces, so that a kill nearly always lands inside a write.
WRITER = f"""
import sys, time
from ragsam.files import atomic_write
print("ready", flush=True)
turn = 0
while True:
    letter = {LETTERS!r}[turn % 2 : turn % 2 + 1]
    with atomic_write(sys.argv[1]) as temporary, temporary.open("wb", buffering=0) as file:
        for _ in range({PIECES}):
            file.write(letter * {PIECE})
            time.sleep(0.0002)
    turn += 1
"""


@contextmanager
def largest_file(size):
    """The kernel refuses writes past `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_appears_whole_in_a_folder_made_for_it(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    write_text_atomic(target, "größe\n")
    assert target.read_bytes() == "größe\n".encode()
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_the_target_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert target.read_text() == "new"


def test_the_temporary_file_keeps_every_suffix(tmp_path):
    with atomic_write(tmp_path / "case.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")


def test_permissions_follow_the_umask(tmp_path):
    umask = os.umask(0o027)
    try:
        write_text_atomic(tmp_path / "a.txt", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_file_alone(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_halfway():
        with atomic_write(target) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fills_up_is_told_and_leaves_the_old_file(tmp_path, monkeypatch, function):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        write_text_atomic(target, "new")
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_the_kernel_refuses_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with largest_file(1000), pytest.raises(InputError, match="cannot be written"):
        write_text_atomic(target, "x" * 5000)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another output folder"):
        write_text_atomic(tmp_path / "file" / "a.txt", "x")


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    target, draw, interrupted = tmp_path / "a.bin", random.Random(0), 0
    target.write_bytes(LETTERS[:1] * PIECE * PIECES)
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(draw.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        content = target.read_bytes()
        assert len(content) == PIECE * PIECES
        assert len(set(content)) == 1
        for left in tmp_path.glob(".tmp-*"):
            interrupted += 1
            left.unlink()
    assert interrupted > 0, "no kill landed inside a write: the test showed nothing"


def test_json_round_trip(tmp_path):
    content = {"organ": "Leber ü", "values": [1, 2.5, None, True]}
    write_json_atomic(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert (tmp_path / "a.json").read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a.json", {"dice": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe{}", b"{'a': 1}"])
def test_broken_json_is_told(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(path)


def test_a_missing_file_or_a_folder_is_no_json(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, example 1
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "b").write_bytes(bytes(3_000_000))
    assert sha256_file(tmp_path / "b") == hashlib.sha256(bytes(3_000_000)).hexdigest()


def test_sha256_of_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        sha256_file(tmp_path / "a")


def test_names_that_clean_alike_become_different_file_names():
    """`lobe 1/2` and `lobe 1.2` both clean to lobe_1_2; é is one letter or two, and capitals are told apart nowhere."""
    names = ["spleen", "lobe 1/2", "lobe 1.2", "Spleen", "lobe 1_2_2", "肝臓", "caf\u00e9", "cafe\u0301", "x" * 300]
    expected = ["spleen", "lobe_1_2", "lobe_1_2_2", "Spleen_2", "lobe_1_2_2_2", "肝臓", "caf\u00e9", "caf\u00e9_2"]
    assert file_names(names) == [*expected, "x" * 60]
    assert file_names([]) == []
