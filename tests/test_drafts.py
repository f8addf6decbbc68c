"""A killed writer's drafts are removed by the next one; those of a living writer stay."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragsam.drafts import draft_file, draft_folder, remove_drafts

HOLDS = """
import sys
from pathlib import Path
from ragsam.drafts import draft_file, draft_folder
with draft_file(Path(sys.argv[1]), ".nii.gz") as file, draft_folder(Path(sys.argv[1])) as folder:
    file.write_text("half")
    (folder / "a.txt").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer_in(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a draft of each kind in a folder."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_drafts_of_a_killed_writer_go_with_the_next_write(tmp_path):
    with writer_in(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == 3  # a file, a folder, and the folder's lock
    with draft_file(tmp_path) as path:
        assert names(tmp_path) == [path.name]
    assert names(tmp_path) == []


def test_drafts_of_a_living_writer_stay(tmp_path):
    with writer_in(tmp_path) as process:
        before = names(tmp_path)
        with draft_file(tmp_path), draft_folder(tmp_path):
            pass
        assert names(tmp_path) == before
        process.stdin.close()
        assert process.wait() == 0
    assert names(tmp_path) == []


def test_a_folder_that_became_its_target_stays(tmp_path):
    with draft_folder(tmp_path) as folder:
        (folder / "a.txt").write_text("whole")
        folder.rename(tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(("below", "left"), [(False, [".tmp-k3_v9abz"]), (True, [])])
def test_drafts_below_go_when_asked(tmp_path, below, left):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".tmp-k3_v9abz").write_text("half")
    remove_drafts(tmp_path, below=below)
    assert names(tmp_path / "models") == left


def test_what_only_begins_like_a_draft_is_nobodys_to_remove(tmp_path):
    for name in (".tmp-mine", ".tmp-my-notes.txt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("kept")
    remove_drafts(tmp_path, below=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-mine", ".tmp-my-notes.txt"]
    assert (tmp_path / ".tmp-mine" / "kept").read_text() == "kept"
