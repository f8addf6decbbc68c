"""The commands and the code of README and docs: every block runs on a small study, or says why it does not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from small_dicom import write_series
from small_study import affine_of, anatomy, save_volume

from ragsam.cli import main

ROOT = Path(__file__).resolve().parent.parent
FIRST = [ROOT / "README.md", ROOT / "docs" / "get-started.md"]
HOW_TO = sorted((ROOT / "docs").glob("how-to/*.md"))
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.M | re.S,
)
#: Pages train for many minutes; here a few steps are enough.
SHORT = shlex.split("--set epochs=1 --set steps_per_epoch=2 --set batch_size=4 --set neighbours=8")


class Block(NamedTuple):
    reason: str | None
    language: str
    title: str | None  # the file that the reader makes of it
    text: str


def blocks_of(page):
    return [Block(**match.groupdict()) for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands_of(text):
    """Return the commands of a shell block, each as a list of words, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words for words in commands if words]


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """What the pages name: the Decathlon's folder, labelled volumes of one's own, a new volume, a DICOM series."""
    folder = tmp_path_factory.mktemp("materials")
    for number in range(1, 85, 2):  # 42 patients: 30 for testing, 8 for validation
        case = f"hippocampus_{number:03d}.nii.gz"
        for part, array in zip(("imagesTr", "labelsTr"), anatomy(number), strict=True):
            save_volume(folder / "Task04_Hippocampus" / part / case, array, affine_of())
    for seed, case in enumerate(("a.nii.gz", "b.nii.gz")):
        for part, array in zip(("images", "labels"), anatomy(seed), strict=True):
            save_volume(folder / "mine" / part / case, array, affine_of())
    for name, seed in (("mr.nii.gz", 7), ("new-ct.nii.gz", 8)):
        save_volume(folder / name, anatomy(seed)[0], affine_of())
    write_series(folder / "dicom", anatomy(9)[0])
    return folder


@pytest.fixture
def place(materials, tmp_path, monkeypatch):
    """The folder in which a page's commands run, with its materials."""
    shutil.copytree(materials, tmp_path / "place", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def trained(place, own_run, edited_study):
    """The run and the datalist that how-to pages take for given."""
    (place / "runs").mkdir()
    own_run.rename(place / "runs" / "hippocampus")
    edited_study(lambda content: None).rename(place / "runs" / "hippocampus.json")


def run_command(words):
    assert words[0] == "ragsam", f"{shlex.join(words)}: not a command of ragsam; mark its block as not run"
    words = [*words, *(SHORT if words[1] == "train" else [])]
    assert main(words[1:]) == 0, shlex.join(words)
    if words[1:3] == ["cards", "new"]:  # what the reader is asked to do by hand
        card = Path(words[words.index("--output") + 1])
        card.write_text(card.read_text().replace("# patient_rule:", "patient_rule:"))


def run_block(block, page):
    if block.title is not None:
        Path(block.title).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.text, str(page), "exec"), {})
    elif block.language == "bash":
        for words in commands_of(block.text):
            run_command(words)
    else:
        assert block.language in ("json", "text"), f"{page.name}: a block in {block.language or 'no language'}"


def run_page(page):
    blocks = blocks_of(page)
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks)
    for block in blocks:
        if block.reason is None:
            run_block(block, page)


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.stem)
def test_first_pages_run_from_the_data_on(page, place):
    run_page(page)


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_how_to_pages_run_on_a_trained_run(page, trained):
    run_page(page)


#: Words that CONTRIBUTING.md rules out, in prose; code and quoted names may have them.
_STIFF = re.compile(r"\b(is|are) told\b|\btells\b|\bknobs?\b|\bis none\b|\banother \w+ than\b", re.I)
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_pages_use_plain_words(page):
    text = re.sub(r"`[^`]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))
    assert [match.group() for match in _STIFF.finditer(text)] == []


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_pages_are_short(page):
    if page.parent.name != "reference":
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 250


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
