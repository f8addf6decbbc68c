"""Warnings of libraries reach the log once, without places in the source."""

import logging
import warnings

import pytest

from ragsam.console import library_warnings
from ragsam.console.library_warnings import told_once
from ragsam.report.training import write_curves


@pytest.fixture
def told(caplog, monkeypatch):
    """A function that gives the lines of the log, all filters off as by `python -W always`."""
    monkeypatch.setattr(library_warnings, "_told", set())
    caplog.set_level(logging.DEBUG, logger="ragsam")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield lambda: [record.getMessage() for record in caplog.records]


@told_once()
def warn(text, category=UserWarning):
    warnings.warn(text, category, stacklevel=1)
    with warnings.catch_warnings():  # Python forgets what it has shown
        pass
    warnings.warn(text, category, stacklevel=1)


def test_a_warning_is_told_once_in_a_process_and_names_no_source(told, capsys):
    for _ in range(9):
        warn("an odd\n  value")
    assert told() == ["python warns: an odd value"]
    assert capsys.readouterr().err == ""


def test_the_package_that_warns_is_named(told):
    with told_once():
        warnings.warn_explicit("slow", RuntimeWarning, "/env/lib/python3.11/site-packages/monai/data/a.py", 7)
    assert told() == ["monai warns: slow"]


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning, PendingDeprecationWarning])
def test_what_developers_are_told_is_not_for_users(told, capsys, category):
    warn("will go", category)
    assert told() == []
    assert capsys.readouterr().err == ""


def test_behind_the_block_warnings_are_as_before(told):
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)
    before = warnings.showwarning
    with pytest.raises(KeyError), told_once():
        raise KeyError
    assert warnings.showwarning is before


def test_letters_that_the_font_lacks_are_one_line_for_all_of_them(told, tmp_path):
    """matplotlib warns of each of the four letters by itself."""
    row = {"epoch": 1.0, "loss": 1.0, "loss_dice": 0.5, "score": 0.5, "learning_rate": 0.1}
    with told_once():
        write_curves([{**row, "dice_肝臓": 0.5, "dice_脾右": 0.6}], tmp_path / "curves.png")
    assert told() == ["plots: the font here lacks letters of the organs' names, boxes stand for them"]
