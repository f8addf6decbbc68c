"""The 3D view: what goes into the page, and that a browser shows it, offline and under its policy."""

from __future__ import annotations

import base64
import gzip
import importlib.metadata
import io
import json
import math
import re
import time

import nibabel as nib
import numpy as np
import pytest
from browser import CHROMIUM, WEBGL, Browser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ragsam.cli import main
from ragsam.data.cards.load import Card, Organ
from ragsam.errors import InputError
from ragsam.evaluation.score_cases import CasePair, evaluate_cases
from ragsam.report.figures import DIFFERENCE_COLOURS
from ragsam.report.page import write_report
from ragsam.report.viewer import viewer_choice
from ragsam.report.viewer_code import as_global, load_viewer_code
from ragsam.report.viewer_volumes import (
    SIDE,
    VOXELS,
    fitting_shape,
    labelled_box,
    nifti_gz,
    reduced_image,
    reduced_labels,
    start_place,
    still_png,
)

EVIL = "<script>alert(1)<script>"
LIVER, SPLEEN = (200, 80, 60), (60, 80, 200)
pytestmark = pytest.mark.usefixtures("full_pictures")
CARD = Card(
    name="tiny", title="Tiny study", modality="CT",
    organs=(Organ("liver", 1, LIVER, 1.0), Organ("left_<b>spleen", 2, SPLEEN, 1.0)),
    window=None, orientation="RAS", left_right=(), licence="none", source="made", citation="none",
)  # fmt: skip
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


# What goes into the page


def test_the_box_holds_all_labels_of_both_volumes_and_a_margin_in_mm():
    first, second = np.zeros((50, 40, 10), int), np.zeros((50, 40, 10), int)
    first[20:30, 20, 5], second[25:35, 2, 5] = 1, 2
    assert labelled_box([first, second], (2.0, 1.0, 5.0), 10) == (slice(15, 40), slice(0, 31), slice(3, 8))
    assert labelled_box([first * 0], (1.0, 1.0, 1.0)) == (slice(0, 50), slice(0, 40), slice(0, 10))


def test_small_volumes_keep_their_shape_and_long_axes_shrink():
    assert fitting_shape((150, 140, 60), (1.0, 1.0, 5.0)) == (150, 140, 60)
    assert fitting_shape((320, 200, 4), (0.5, 1.0, 5.0)) == (160, 160, 4)


@given(st.tuples(*[st.integers(1, 2000)] * 3), st.tuples(*[st.floats(0.1, 10)] * 3))
def test_the_shape_fits_and_no_axis_grows(shape, spacing_mm):
    fitting = fitting_shape(shape, spacing_mm)
    assert math.prod(fitting) <= VOXELS
    assert all(1 <= new <= min(old, SIDE) for new, old in zip(fitting, shape, strict=True))


def test_thin_organs_stay_in_every_slice():
    """A tube of one voxel covers a sixteenth of a coarser one, and a plate of one slice half of it."""
    labels = np.zeros((40, 40, 8), np.uint8)
    labels[5, 5], labels[20:36, 20:36, 3] = 1, 2
    coarse = reduced_labels(labels, (10, 10, 8))
    assert [(coarse[:, :, z] == 1).sum() for z in range(8)] == [1] * 8
    assert coarse[1, 1].tolist() == [1] * 8
    assert ((coarse == 2).sum(), (coarse[5:9, 5:9, 3] == 2).all()) == (16, True)
    flat = reduced_labels(labels, (40, 40, 2))
    assert (flat[5, 5] == 1).all()
    assert (flat == 2).any()
    assert np.array_equal(reduced_labels(labels, labels.shape), labels)


def test_the_image_is_windowed_and_averaged():
    image = np.array([-100.0, 0.0, 100.0, 500.0, np.nan, 0.0]).reshape(6, 1, 1)
    assert reduced_image(image, (0.0, 100.0), (6, 1, 1)).ravel().tolist() == [0, 0, 63, 63, 0, 0]
    assert reduced_image(image, (0.0, 100.0), (3, 1, 1)).ravel().tolist() == [0, 63, 0]
    assert reduced_image(image, (0.0, 100.0), (2, 1, 1)).ravel().tolist() == [21, 21]


def test_the_header_is_fresh():
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    read = nib.Nifti1Image.from_bytes(gzip.decompress(nifti_gz(volume, (2.0, 1.0, 5.0))))
    assert np.array_equal(np.asarray(read.dataobj), volume)
    assert np.array_equal(read.affine, np.diag([2.0, 1.0, 5.0, 1.0]))
    assert {read.header[key].item() for key in ("descrip", "aux_file", "db_name", "intent_name")} == {b""}
    assert nifti_gz(volume, (2.0, 1.0, 5.0)) == nifti_gz(volume, (2.0, 1.0, 5.0))


def test_the_view_starts_amid_the_largest_error():
    reference, prediction = np.zeros((10, 10, 4), int), np.zeros((10, 10, 4), int)
    reference[2:5, 4, 1], prediction[8, 8, 3] = 1, 1
    assert start_place(reference, prediction) == (0.35, 0.45, 0.375)
    assert start_place(reference, reference) == (0.35, 0.45, 0.375)
    assert start_place(reference * 0, reference * 0) == (0.5, 0.5, 0.5)


def test_a_still_shows_the_front_and_the_patients_left_on_the_right():
    labels = np.zeros((40, 40, 20), int)
    labels[5:35, 10:15], labels[20:35, 30:35] = 1, 2  # the second in front, to the patient's right, over half of it
    with Image.open(io.BytesIO(still_png(labels, (1.0, 1.0, 2.0), {1: LIVER, 2: SPLEEN}, pixels=400))) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (400, 400, 3)
    assert pixels[200, 100].tolist() == list(SPLEEN)
    assert pixels[200, 300].tolist() == list(LIVER)
    assert not pixels[200, 380].any()


def test_which_cases_are_asked_for():
    cases = ["a", "b", "7"]
    assert viewer_choice(None, cases) == 0
    assert viewer_choice([], cases) == 3
    assert viewer_choice(["5"], cases) == 5
    assert viewer_choice(["7"], cases) == ("7",)
    assert viewer_choice(["b", "a", "b"], cases) == ("b", "a")
    with pytest.raises(InputError, match="--viewer c: no such case among the 3"):
        viewer_choice(["a", "c"], cases)


# NiiVue's code


def test_the_widgets_module_becomes_one_that_sets_the_class():
    widget = 'var Q={go(){console.log("Creating new Niivue instance");let b=1;v=new $t2(b)}};export{Q as default};\n'
    assert as_global(widget).endswith(
        'v=new $t2(b)}};globalThis.Niivue=$t2;document.dispatchEvent(new Event("niivue"));\n'
    )
    assert as_global("export{Q as default};") is None
    assert as_global(widget.replace("export", "")) is None


def test_without_the_package_the_error_names_the_way_out(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(InputError, match=r"ipyniivue.*pip install 'ragsam\[viewer\]'"):
        load_viewer_code()


# The page


def _save(path, volume, affine):
    nifti = nib.Nifti1Image(volume, affine)
    nifti.header["descrip"] = b"DOE^JANE 1970"
    path.parent.mkdir(exist_ok=True, parents=True)
    nib.save(nifti, path)
    return path


def _study(folder):
    """Three cases of 64 x 36 x 20 voxels: an evil name, one without image, one without prediction."""
    pairs = []
    for i, case in enumerate((EVIL, "bare", "unsegmented")):
        labels = np.zeros((64, 36, 20), np.uint8)
        labels[6:18, 8:26, 4:16], labels[24:32, 10:20, 4:14] = 1, 2
        image = np.random.default_rng(i).normal(0, 20, labels.shape) + 200 * (labels > 0)
        volumes = {"image": image.astype(np.float32), "reference": labels, "prediction": np.roll(labels, 2 + i, 0)}
        affine = np.diag([-2.0, 2.0, 3.0, 1.0])
        paths = {name: _save(folder / "jane doe" / name / f"{case}.nii.gz", v, affine) for name, v in volumes.items()}
        image_path = None if case == "bare" else paths["image"]
        prediction = None if case == "unsegmented" else paths["prediction"]
        pairs.append(CasePair(case, f"p{i}", paths["reference"], prediction, image_path))
    return pairs


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    pairs = _study(folder)
    names = [pair.case for pair in pairs]
    write_report(evaluate_cases(pairs, CARD), folder / "report.html", card=CARD, pairs=pairs, viewer=names)
    return folder / "report.html"


def _volumes(text):
    """Return {number of the case: its data} of a page."""
    found = re.findall(r'<script type="application/json" id="viewer-case-(\d+)">(.*?)</script>', text, re.DOTALL)
    return {int(number): json.loads(content) for number, content in found}


def test_scripts_run_by_their_hash_alone_and_the_licence_is_there(page):
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert re.fullmatch(r"default-src 'none'; .*; script-src( 'sha256-[\w+/]{43}='){2}", policy)
    assert "Redistribution and use in source and binary forms" in text
    assert "more than 160 voxels along an axis or 2 million in all" in text


def test_every_library_that_niivue_names_has_its_notice(page):
    """NiiVue's own list of them is in its code."""
    code = load_viewer_code()
    (listed,) = re.findall(r'"https://github.com/niivue/niivue#readme",dependencies:\{([^}]*)\}', code.module)
    names = [name.strip('"') for name in re.findall(r'("[^"]+"|[\w-]+):"', listed)]
    assert {"fflate", "gl-matrix", "@ungap/structured-clone"} <= set(names)
    for name in names:
        assert re.search(rf"(^|, ){re.escape(name)}(,|: Copyright)", code.licence, re.MULTILINE), name
    assert "The above copyright notice and this permission notice shall be included" in page.read_text("utf-8")


def test_names_in_the_view_are_text_and_no_header_or_folder_is_in_the_page(page):
    """Rows 31 and 32, in what is packed too."""
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "left_<b>" not in text
    packed = [base64.b64decode(v) for content in _volumes(text).values() for v in content["volumes"].values()]
    assert len(packed) == 3 + 2 + 2
    plain = re.sub(r"[A-Za-z0-9+/=]{200,}", "", text)  # by chance, what is packed may read as anything
    for content in (plain.encode(), *map(gzip.decompress, packed)):
        assert not re.search(rb"DOE|JANE|jane|viewer0", content)


def test_the_volumes_are_the_cases_own_cropped(page):
    """20 mm about the labels (6 to 34 stored, so 30 to 58) are 10 voxels; the stored left-right flip is undone."""
    content = _volumes(page.read_text(encoding="utf-8"))[0]
    read = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content["volumes"]["reference"])))
    labels = np.asarray(read.dataobj)
    assert content["size"] == "44 x 36 x 20 voxels of 2 x 2 x 3 mm, cropped from 64 x 36 x 20"
    assert labels.shape == (44, 36, 20)
    assert [int((labels == value).sum()) for value in (1, 2)] == [12 * 18 * 12, 8 * 10 * 10]
    assert np.argwhere(labels == 2)[:, 0].max() < np.argwhere(labels == 1)[:, 0].min()


def test_a_count_takes_the_worst_and_none_leaves_the_page_without_script(tmp_path):
    pairs = _study(tmp_path)
    metrics = evaluate_cases(pairs, CARD)
    write_report(metrics, tmp_path / "one.html", card=CARD, pairs=pairs, viewer=1)
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert list(_volumes(text)) == [0]
    assert set(_volumes(text)[0]["volumes"]) == {"reference", "image"}  # unsegmented: every organ missed
    write_report(metrics, tmp_path / "none.html", card=CARD, pairs=pairs)
    assert "<script" not in (tmp_path / "none.html").read_text(encoding="utf-8")


def test_the_command_takes_cases_and_refuses_unknown_ones(tmp_path, capsys):
    _study(tmp_path)
    folders = [f"--{name}={tmp_path / 'jane doe' / name}" for name in ("reference", "prediction", "image")]
    command = ["evaluate", *folders, "--card", "hippocampus", "--output", str(tmp_path / "out"), "--viewer"]
    assert main([*command, "nobody"]) == 2
    assert "--viewer nobody: no such case among the 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "bare"]) == 0
    assert list(_volumes((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))) == [0]


# The browser


def _click_open(browser, page):
    browser.open(page)
    browser.run("document.getElementById('viewer-open').click()")
    browser.wait("document.getElementById('viewer-open').hidden || document.getElementById('viewer-stage').hidden")


def _choose(browser, name, value, event="change"):
    """Set a control as a hand would, and wait until the picture is drawn."""
    place = f"document.getElementById('viewer-{name}')"
    browser.run(f"{place}.value = {json.dumps(value)}; {place}.dispatchEvent(new Event('{event}'))")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _await_pixels(browser, wanted):
    """Look until a picture satisfies `wanted`: a busy machine's software renderer may be late, even by a whole one."""
    end = time.monotonic() + 60
    while not wanted(seen := browser.picture("#viewer-canvas").astype(int)):
        assert time.monotonic() < end, f"never drawn; last seen {np.unique(seen.reshape(-1, 3), axis=0)[:20].tolist()}"
        time.sleep(0.2)


def _count(seen, colour):
    return int((np.abs(seen - colour) <= 2).all(axis=2).sum())


@in_a_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_view_shows_the_labels_colours_and_asks_for_nothing(page, tmp_path, width):
    missed, added = DIFFERENCE_COLOURS["missed"], DIFFERENCE_COLOURS["added"]
    with Browser(tmp_path / "profile", *WEBGL, width=width) as browser:
        _click_open(browser, page)
        assert browser.run("document.getElementById('viewer-case').selectedOptions[0].text") == EVIL
        assert browser.run("document.documentElement.scrollWidth") == width
        _choose(browser, "strength", "100", "input")
        _choose(browser, "view", "0")  # axial
        _await_pixels(browser, lambda seen: _count(seen, LIVER) > 500 and _count(seen, SPLEEN) > 200)
        _choose(browser, "layer", "difference")
        _await_pixels(
            browser, lambda seen: min(_count(seen, missed), _count(seen, added)) > 100 and _count(seen, LIVER) == 0
        )
        _choose(browser, "layer", "none")  # the grey image is left
        _await_pixels(browser, lambda seen: _count(seen, missed) == 0 and (seen.min(axis=2) > 100).sum() > 500)
        _choose(browser, "layer", "prediction")
        _choose(browser, "view", "4")  # 3D: lit, so darker, but red over blue
        _await_pixels(browser, lambda seen: ((seen[..., 0] > 60) & (seen[..., 0] > 2 * seen[..., 2])).sum() > 500)
        place = browser.run("document.getElementById('viewer-place').textContent")
        assert re.fullmatch(r"At the crosshair: reference: [^;]+; prediction: [^;]+\.", place)
        assert browser.left_the_machine() == []
        assert browser.complaints == []


@in_a_browser
def test_another_case_is_shown_without_image_and_without_prediction(page, tmp_path):
    with Browser(tmp_path / "profile", *WEBGL) as browser:
        _click_open(browser, page)
        for number, layers, note in (
            ("1", ["reference", "prediction", "difference", "none"], "Drawn without the image."),
            ("2", ["reference", "none"], "No prediction for this case."),
        ):
            _choose(browser, "case", number)
            browser.wait(f"document.getElementById('viewer-state').textContent.includes({json.dumps(note)})")
            assert browser.run("[...document.getElementById('viewer-layer').options].map(o => o.value)") == layers
        assert browser.left_the_machine() + browser.complaints == []


@in_a_browser
def test_any_other_script_is_refused(page, tmp_path):
    with Browser(tmp_path / "profile", *WEBGL) as browser:
        browser.open(page)
        add = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.head.append(s);"
        assert browser.run(f"{add} window.ran") is None
        assert any("Content Security Policy" in told for told in browser.complaints)


@in_a_browser
def test_without_webgl_stills_stand_for_the_view(page, tmp_path):
    with Browser(tmp_path / "profile", "--disable-3d-apis") as browser:
        browser.open(page)
        assert browser.run("document.getElementById('viewer-open').hidden")
        assert "still pictures stand for it" in browser.run("document.getElementById('viewer-state').textContent")
        stills = browser.picture("#viewer-stills").reshape(-1, 3).tolist()
        assert min(stills.count(list(colour)) for colour in (LIVER, SPLEEN)) > 500
        assert browser.left_the_machine() + browser.complaints == []
