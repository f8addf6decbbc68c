"""Fixtures: a small study, and a run trained on it once for all tests."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_study import QUICK, write_study

from ragsam.data.datalist import load_datalist
from ragsam.report import figures, plots
from ragsam.retrieval import bank_rows

#: The files that take longest, and begin first, so that workers end together.
_LONGEST = (
    "test_fuzz.py",
    "test_tutorials.py",
    "test_docs.py",
    "test_bundle_monai.py",
    "test_api_export_torchscript.py",
    "test_training_distributed.py",
    "test_training_checkpoints.py",
    "test_monailabel.py",
    "test_monailabel_access.py",
    "test_packaging.py",
    "test_first_layout.py",
    "test_cli.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the longest files first; skip slow tests unless the command line chooses by marker."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes more than a minute; run with -m slow"))


@pytest.fixture(autouse=True)
def _log_as_found() -> Iterator[None]:
    """Undo what a run does to logging: its handlers hold the stderr of one test, and hide the log from caplog."""
    yield
    logging.getLogger("ragsam").propagate = True
    logging.getLogger("ragsam").setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    for logger in (logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        logger.handlers = [handler for handler in logger.handlers if type(handler) is not logging.StreamHandler]


#: What the folders of fixtures that serve the whole session are called first.
_SESSION = "session-"


@pytest.fixture(autouse=True, scope="module")
def _written_goes_with_its_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove what a file's fixtures wrote once its tests have run: with many files of tests it comes to gigabytes."""
    base = tmp_path_factory.getbasetemp()
    before = set(base.iterdir())
    yield
    for folder in set(base.iterdir()) - before:
        if not folder.is_symlink() and not folder.name.startswith((_SESSION, "test_")):
            shutil.rmtree(folder)


@pytest.fixture(autouse=True, scope="session")
def _quick_pseudonyms() -> Iterator[None]:
    """Hash patients' keys quickly: tests make many banks."""
    cost, bank_rows.COST = bank_rows.COST, 4
    yield
    bank_rows.COST = cost


@pytest.fixture(autouse=True, scope="session")
def _small_pictures() -> Iterator[None]:
    """Draw the plots and slices of reports with a tenth of their pixels: tests write many reports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", 50)
        patch.setattr(figures, "MIN_PIXELS", 96)
        yield


#: As the package draws them.
_FULL_DPI, _FULL_PIXELS = plots.DPI, figures.MIN_PIXELS


@pytest.fixture(scope="module")
def full_pictures(_small_pictures: None) -> Iterator[None]:
    """Draw plots and slices as a user gets them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", _FULL_DPI)
        patch.setattr(figures, "MIN_PIXELS", _FULL_PIXELS)
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datalist of the small study; not to be written to."""
    return write_study(tmp_path_factory.mktemp(f"{_SESSION}study"))


@pytest.fixture(scope="session")
def run(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and indexed run; not to be written to."""
    from ragsam.api.index import index_run
    from ragsam.api.train import train_run

    folder = train_run("sam_lora", study, tmp_path_factory.mktemp(f"{_SESSION}trained") / "run", QUICK)
    index_run(folder)
    return folder


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """The trained run again, in a folder that a test may change by replacing files (they are hard links)."""
    return shutil.copytree(run, tmp_path / "run", copy_function=os.link)


@pytest.fixture(scope="session")
def segmented(run: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the test cases' label volumes and their retrieval.json."""
    from ragsam.api.segment import segment_with_run

    folder = tmp_path_factory.mktemp(f"{_SESSION}segmented")
    segment_with_run(run, [study], folder)
    return folder


@pytest.fixture
def edited_study(study: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Return a function that writes the study's datalist with a change made to its content, paths made absolute."""

    def write(change: Callable[[dict[str, Any]], None]) -> Path:
        sections = load_datalist(study).sections
        content: dict[str, Any] = {"card": "hippocampus"}
        for name, cases in sections.items():
            content[name] = [
                {"case": c.case, "patient": c.patient, "image": str(c.image), "label": str(c.label)} for c in cases
            ]
        change(content)
        path = tmp_path / "edited" / "datalist.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many bytes gzip unpacked of each file, by its path."""
    count: dict[str, int] = {}
    read = gzip._GzipReader.read

    def counted(self: Any, size: int = -1) -> bytes:
        found = read(self, size)
        name = self._fp.file.name
        count[name] = count.get(name, 0) + len(found)
        return found

    monkeypatch.setattr(gzip._GzipReader, "read", counted)
    return count
