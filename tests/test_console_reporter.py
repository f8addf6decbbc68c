"""The reporter: bars on a terminal, lines elsewhere, and another one in its place."""

import logging
import sys
import time

import pytest

from ragsam.console.case_progress import CaseProgress
from ragsam.console.reporter import begin, set_reporter
from ragsam.console.slice_progress import slice_progress


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
        (1, "check: case 1 of 2, 0 s passed", {}),
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


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed, in a list of one."""
    now = [1e6]
    monkeypatch.setattr("ragsam.console.reporter.time.monotonic", lambda: now[0])
    return now


def test_elsewhere_quick_work_is_its_first_and_its_last_line(capsys, caplog, clock):
    """145 volumes in 1.45 s."""
    caplog.set_level(logging.INFO, logger="ragsam")
    shown = begin("bank", 145, "volume")
    for done in range(1, 146):
        clock[0] += 0.01
        shown.advance(done, f"bank: volume {done} of 145")
    shown.end()
    assert caplog.messages == ["bank: volume 1 of 145", "bank: volume 145 of 145"]
    assert capsys.readouterr() == ("", "")


def test_elsewhere_slow_work_is_a_line_in_ten_seconds(caplog, clock):
    """A volume in 4 s: told of at 4, then from 14 s on at 16, then from 26 s on at 28 s."""
    caplog.set_level(logging.INFO, logger="ragsam")
    shown = begin("segment", 8, "volume")
    for done in range(1, 9):
        clock[0] += 4
        shown.advance(done, f"volume {done}")
    assert caplog.messages == ["volume 1", "volume 4", "volume 7", "volume 8"]


def test_elsewhere_work_that_ends_early_tells_where(caplog, clock):
    caplog.set_level(logging.INFO, logger="ragsam")
    shown = begin("train", 100, "step")
    for done in (1, 2, 3):
        shown.advance(done, f"epoch {done}")
    shown.end()
    shown.end()
    assert caplog.messages == ["epoch 1", "epoch 3"]


def test_elsewhere_a_long_volume_is_told_of_by_slices_and_batches(caplog, clock):
    """Four batches of 6 s in a volume of 20 slices: after 12 s 0 slices are done, after 24 s all but four."""
    caplog.set_level(logging.INFO, logger="ragsam")
    volumes = begin("segment", 1, "volume")
    with slice_progress(20) as progress:
        for reached in (None, None, None, 16):
            clock[0] += 6
            progress.batch()
            if reached:
                progress.reach(reached)
        clock[0] += 1
        progress.reach(20)
    volumes.advance(1, "segment: volume 1 of 1")
    assert caplog.messages == [
        "this volume: slice 0 of 20, batch 2",
        "this volume: slice 0 of 20, batch 4",
        "segment: volume 1 of 1",
    ]


def test_elsewhere_nothing_is_told_of_slices_while_volumes_are(caplog, clock):
    caplog.set_level(logging.INFO, logger="ragsam")
    volumes = begin("segment", 3, "volume")
    for done in (1, 2, 3):
        with slice_progress(2) as progress:
            for slices in (1, 2):
                clock[0] += 4.5
                progress.reach(slices)
        volumes.advance(done, f"volume {done}")
    assert caplog.messages == ["volume 1", "volume 3"]


def test_a_bar_within_another_appears_only_where_it_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    volumes = begin("segment", 1, "volume")
    with slice_progress(4) as progress:
        progress.batch()
        progress.reach(4)
    volumes.advance(1)
    volumes.end()
    bars = capsys.readouterr().err
    assert "1/1" in bars
    assert "this volume" not in bars


def test_a_bar_within_another_that_takes_long_is_seen_and_taken_away(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("ragsam.console.reporter._BAR_AFTER_S", 0.1)
    volumes = begin("segment", 1, "volume")
    with slice_progress(4) as progress:
        time.sleep(0.3)
        progress.batch()
    volumes.end()
    bars = capsys.readouterr().err
    assert "this volume:   0%" in bars
    assert "0/4" in bars
    assert "batch=1" in bars
