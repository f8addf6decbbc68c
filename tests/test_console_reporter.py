"""The reporter: bars on a terminal, lines elsewhere, and another one in its place."""

import logging
import sys

import pytest

from ragsam.console.case_progress import CaseProgress
from ragsam.console.reporter import begin, set_reporter


class Recorder:
    def __init__(self):
        self.told = []

    def begin(self, name, total, unit, done=0):
        self.told.append((name, total, unit, done))
        return self

    def advance(self, done, line=None, **beside):
        self.told.append((done, line, beside))

    def end(self):
        self.told.append("end")


@pytest.fixture
def recorder():
    recorder = Recorder()
    before = set_reporter(recorder)
    yield recorder
    set_reporter(before)


def test_work_is_told_to_the_reporter_that_is_set(recorder):
    with CaseProgress("check", 2) as progress:
        progress(1)
        progress(2)
    assert recorder.told == [
        ("check", 2, "case", 0),
        (1, None, {}),
        (2, "check: case 2 of 2, 0 s passed", {}),
        "end",
    ]


def test_none_shows_nothing(capsys, caplog, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = set_reporter(None)
    try:
        shown = begin("train", 2, "step")
        shown.advance(2, "a line", loss="0.5")
        shown.end()
    finally:
        set_reporter(before)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []


def test_a_bar_on_a_terminal_counts_what_was_done_before(capsys, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="ragsam")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = begin("bank", 4, "volume", 2)
    shown.advance(4, "a line", left="0 s")
    shown.end()
    bar = capsys.readouterr().err
    assert "bank: 100%" in bar
    assert "4/4" in bar
    assert "left=0 s" in bar
    assert caplog.messages == []


def test_lines_elsewhere(capsys, caplog):
    caplog.set_level(logging.INFO, logger="ragsam")
    shown = begin("bank", 4, "volume")
    shown.advance(1)
    shown.advance(2, "bank: volume 2 of 4")
    shown.end()
    assert caplog.messages == ["bank: volume 2 of 4"]
    assert "%" not in capsys.readouterr().err
