"""Ctrl-C and SIGTERM in every long command: one line that says what is kept, and the command goes on from there."""

import multiprocessing
import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file
from small_study import QUICK, files_below, log_lines

from ragsam.cli import COMMANDS, build_parser, main
from ragsam.console.reporter import Shown, set_reporter


class Interrupting(Shown):
    """A reporter whose process gets a signal once so much of a work is done."""

    def __init__(self, name, done, number=signal.SIGINT):
        self.name, self.done, self.number = name, done, number
        self.works = []

    def begin(self, name, total, unit, done=0):
        self.works.append((name, done))
        return self if name == self.name else Shown()

    def advance(self, done, line=None, **beside):
        if done == self.done:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def interrupted(capsys):
    """Return a function that runs a command until a signal comes, and gives its line."""

    def call(reporter, *arguments, code=130):
        before = set_reporter(reporter)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            found = main([str(argument) for argument in arguments])
        finally:
            signal.signal(signal.SIGINT, handler)
            set_reporter(before)
        lines = log_lines(capsys.readouterr().err)
        assert found == code, reporter.works
        assert len(lines) == 1
        assert lines[0].startswith("ragsam: interrupted; ")
        return lines[0].removeprefix("ragsam: interrupted; ")

    return call


def test_every_command_knows_what_it_keeps():
    parsers = build_parser()._subparsers._group_actions[0].choices
    assert len(parsers) >= len(COMMANDS)
    assert all(callable(parser.get_default("kept")) for parser in parsers.values())


def test_training_keeps_finished_epochs(interrupted, run, study, tmp_path):
    command = ["train", "sam_lora", "--data", study, "--output", tmp_path / "run"]
    for name, value in QUICK.items():
        command += ["--set", f"{name}={value}"]
    line = interrupted(Interrupting("train", 3), *command)
    assert line == "no epoch was finished, nothing is kept; to continue, run the command again"
    assert files_below(tmp_path) == []
    line = interrupted(Interrupting("train", 13, signal.SIGTERM), *command, code=143)
    assert line.endswith("run keeps the epochs finished; to continue after them, add --resume to the command")
    assert main([*map(str, command), "--resume"]) == 0
    found, whole = (load_file(folder / "models" / "model.safetensors") for folder in (tmp_path / "run", run))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_indexing_goes_on_after_finished_volumes(interrupted, own_run, tmp_path, capsys):
    command = ["index", own_run, "--output", tmp_path / "bank"]
    line = interrupted(Interrupting("bank", 3), *command)
    finished = int(line.partition(" volumes are finished and kept; ")[0])
    assert finished >= 2
    reporter = Interrupting("bank", 5)
    assert interrupted(reporter, *command) == line
    assert reporter.works == [("bank", finished)]
    assert main([*map(str, command)]) == 0
    assert capsys.readouterr().out.endswith("30 slices of 4 patients\n")


def test_segmenting_keeps_finished_label_volumes(interrupted, run, study, segmented, tmp_path):
    command = ["segment", run, study, "--output", tmp_path / "out"]
    line = interrupted(Interrupting("segment", 2), *command)
    assert line.startswith(f"label volumes that were finished are kept in {tmp_path / 'out'}; to continue, ")
    for thread in threading.enumerate():  # what is being written is finished, as before a process ends
        if thread.name.startswith("volume-writer"):
            thread.join()
    kept = [name for name in files_below(tmp_path / "out") if name.endswith(".nii.gz")]
    assert 1 <= len(kept) < 3
    for name in kept:
        assert (tmp_path / "out" / name).read_bytes() == (segmented / name).read_bytes()
    assert main([*map(str, command)]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_evaluating_and_its_processes_end(interrupted, study, segmented, tmp_path, number, code):
    command = ["evaluate", "--reference", study, "--prediction", segmented, "--output", tmp_path / "out", "--jobs", "2"]
    line = interrupted(Interrupting("evaluate", 1, number), *command, code=code)
    assert line == "no file is left half-written; to continue, run the command again"
    assert multiprocessing.active_children() == []
    assert files_below(tmp_path) == []
    assert main([*map(str, command)]) == 0


def test_sigterm_is_python_s_own_again_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["describe", str(tmp_path)]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
