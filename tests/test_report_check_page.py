"""The page of a data check: what it shows, what it must never show, and that a browser draws it without complaint."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import pytest
from faulty_study import labels, save, voxels, write_faulty_study
from PIL import Image

from ragsam.data.cards.load import load_card
from ragsam.data.checks.survey import survey
from ragsam.data.datalist import Case, Datalist, read_datalist
from ragsam.report.check_page import write_check_page
from ragsam.report.check_plots import body_axes

pytestmark = pytest.mark.usefixtures("full_pictures")
CARD = load_card("hippocampus")
EVIL = "<script>alert(1)"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The faulty study in a folder with a name, nine sound cases more, one of them evil and unlike the others."""
    folder = tmp_path_factory.mktemp("check") / "jane doe"
    path = write_faulty_study(folder)
    content = json.loads(path.read_text())
    for i in range(9):
        label = labels()
        if i == 4:
            label[0, :, 5:] = 1
        save(folder / f"more{i}.nii.gz", voxels(200 + i))
        save(folder / f"more{i}-label.nii.gz", label)
        entry = {"case": EVIL if i == 4 else f"more{i}", "patient": f"p{i}"}
        content["training"].append({**entry, "image": f"more{i}.nii.gz", "label": f"more{i}-label.nii.gz"})
    path.write_text(json.dumps(content))
    datalist, faults = read_datalist(path)
    summary = survey(datalist, CARD, faults=faults)
    write_check_page(summary, folder.parent / "check.html", card=CARD, datalist=datalist)
    return folder.parent / "check.html", summary, datalist


def text_of(path):
    return re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))


def test_the_page_is_one_file_under_a_strict_policy(page):
    text = text_of(page[0])
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "<script" not in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert "url(" not in text


def test_names_are_text_and_folders_are_not_told(page):
    text = text_of(page[0])
    assert "&lt;script&gt;alert(1)" in text
    assert "jane" not in text


def test_everything_found_is_there(page):
    text, summary = text_of(page[0]), page[1]
    assert f"<strong>{len(summary['faults'])} faults</strong>" in text
    assert "nan: 4 voxels are NaN or infinite" in text
    assert "two-forms: qform and sform differ" in text
    assert "<h3>sound and twin</h3>" in text
    assert "One volume under two patients: every voxel is the same." in text
    assert "anterior of &lt;script&gt;" in text
    assert f"{len(summary['cases']) - 11} cases measured, 11 could not be read" in text


def test_every_picture_is_a_sound_png(page):
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text_of(page[0]))
    assert len(pictures) == 5 + 2 * 3  # the plots; two pairs that join three cases and an outlier
    for data in pictures:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            picture.load()
            assert max(picture.size) >= 300


def test_the_same_input_gives_the_same_bytes(page, tmp_path):
    path, summary, datalist = page
    write_check_page(summary, tmp_path / "again.html", card=CARD, datalist=datalist)
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_a_study_in_which_nothing_can_be_read_still_has_a_page(tmp_path):
    datalist = Datalist("hippocampus", tmp_path / "d.json", {"test": (Case("c", "p", tmp_path / "none.nii.gz"),)})
    write_check_page(survey(datalist, CARD), tmp_path / "check.html", card=CARD, datalist=datalist)
    assert "0 cases measured, 1 could not be read" in text_of(tmp_path / "check.html")


def test_axes_are_those_of_the_body():
    """A sagittal volume: slices from left to right, rows to the front, columns to the feet."""
    assert body_axes({"orientation": "AIL", "shape": [10, 20, 30]}, "shape") == [30, 10, 20]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_the_page_without_complaint(page, tmp_path, width):
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --v=0"
    )
    shot = tmp_path / "shot.png"
    extra = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},4000", f"--screenshot={shot}"]
    done = subprocess.run(
        [CHROMIUM, *flags.split(), *extra, page[0].as_uri()], capture_output=True, timeout=120, check=True
    )
    assert b"CONSOLE" not in done.stderr
    with Image.open(shot) as picture:
        assert picture.width == width
        found = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert found.get((244, 246, 248), 0) > 1000  # the style's background
    assert found.get(CARD.organs[0].colour, 0) > 100  # the plots
