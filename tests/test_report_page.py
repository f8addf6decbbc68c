"""The page: what it shows, what it must never show, and that a browser draws it."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ragsam.data.cards.load import Card, Organ
from ragsam.data.datalist import Case
from ragsam.evaluation.score_cases import CasePair, evaluate_cases
from ragsam.report.page import write_report

pytestmark = pytest.mark.usefixtures("full_pictures")
EVIL = "<script>alert(1)<\\script>"
LIVER, SPLEEN = (200, 80, 60), (60, 80, 200)
CARD = Card(
    name="tiny", title="Tiny <b>study</b>", modality="CT",
    organs=(Organ("liver", 1, LIVER, 1.0), Organ("spleen", 2, SPLEEN, 1.0), Organ("left_kidney", 3, (9, 99, 9), 1.0)),
    window=None, orientation="RAS", left_right=(), licence="none", source="made", citation="none",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _study(folder, *, shift, cases=4):
    """Volumes of 24 x 20 x 8 voxels; the first case has an evil name, the last no prediction."""
    pairs = []
    for i in range(cases):
        labels = np.zeros((24, 20, 8), np.uint8)
        labels[3:11, 4:14, 2:6], labels[15:20, 6:11, 1 + i % 3 : 5] = 1, 2
        image = np.random.default_rng(i).normal(0, 40, labels.shape) + 300 * (labels > 0)
        affine = np.diag([-2.0, 2.0, 5.0, 1.0])
        paths = {n: folder / "jane doe" / f"{n}{i}_{shift}.nii.gz" for n in ("image", "reference", "prediction")}
        paths["image"].parent.mkdir(exist_ok=True)
        volumes = {"image": image.astype(np.float32), "reference": labels, "prediction": np.roll(labels, shift + i, 0)}
        for name, volume in volumes.items():
            nifti = nib.Nifti1Image(volume, affine)
            nifti.header["descrip"] = b"DOE^JANE 1970"
            nib.save(nifti, paths[name])
        case = EVIL if i == 0 else f"case{i}"
        prediction = None if i == cases - 1 else paths["prediction"]
        pairs.append(CasePair(case, f"p{i}", paths["reference"], prediction, paths["image"]))
    return pairs


def _novelty(flagged):
    return {"score": 0.3456 if flagged else 0.0123, "percentile": 97.0, "p_value": 0.0002, "flagged": flagged}


def _trace(pairs):
    neighbours = [
        {"patient": "paaa111", "case": case, "slice": 3, "similarity": 0.934, "weight": weight, "row": 7}
        for case, weight in (("cbbb222", 0.25), ("cddd333", 0.5))
    ]
    slices = {str(z): neighbours for z in range(8)}
    return {
        "bank": {"slices": 860, "patients": 24, "fingerprint": "f"},
        "cases": {
            pair.case: {"orientation": "RAS", "axis": 2, "novelty": _novelty(number == 1), "slices": slices}
            for number, pair in enumerate(pairs)
        },
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    pairs, other = _study(folder, shift=0), _study(folder, shift=2)
    support = Case("secret_case", "secret_patient", pairs[1].image, pairs[1].reference, None, {})
    options = {
        "card": CARD,
        "pairs": pairs,
        "trace": _trace(pairs),
        "baseline": evaluate_cases(other, CARD),
        "support_cases": {"cbbb222": support},
        "provenance": {"weights": "/home/jane doe/run/model.safetensors", "command": "evaluate /home/jane/x.json"},
    }
    write_report(evaluate_cases(pairs, CARD), folder / "report.html", **options)
    return folder / "report.html", options


def _text(path):
    return re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))


def _pictures(text):
    return [base64.b64decode(data) for data in re.findall(r"data:image/(?:png|webp);base64,([A-Za-z0-9+/=]+)", text)]


def test_the_page_is_one_file_under_a_strict_policy(report):
    text = _text(report[0])
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "<script" not in text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "url(" not in text
    assert "@import" not in text


def test_a_case_unlike_the_bank_is_told_at_the_top_and_at_the_case(report):
    text = _text(report[0])
    assert "<strong>Unlike the bank's volumes</strong> case1: retrieval has little to say" in text
    assert text.count("<strong>Unlike the bank's volumes</strong> (p = 0.0002). Its nearest slices in the bank") == 1
    assert "lie at a mean distance of 0.346, farther than for 97 % of the bank's own volumes." in text
    assert "lie at a mean distance of 0.012, farther" in text


def test_names_are_shown_as_text(report):
    """Row 32."""
    text = _text(report[0])
    assert "&lt;script&gt;alert(1)" in text
    assert "Tiny &lt;b&gt;study&lt;/b&gt;" in text


def test_nothing_from_headers_folders_or_support_cases_is_shown(report):
    """Row 31: only study keys and pseudonyms."""
    text = _text(report[0])
    for secret in ("jane", "DOE^JANE", "/home", "secret_case", "secret_patient", str(report[0].parent)):
        assert secret not in text
    assert "model.safetensors" in text


def test_the_findings_are_there(report):
    text = _text(report[0])
    assert "4 cases of 4 patients, 3 organs, CT" in text
    assert "case3: no prediction; scored as missed" in text
    assert "In no reference, so left out: left kidney." in text
    assert "every organ</strong>: case3" not in text  # its kidney is absent, so not every organ is missed
    assert "<strong>liver</strong>: case3" in text
    assert "the patient&#39;s left on the right of the picture" in text
    assert re.search(r"Dice: better with retrieval\.|Dice: no clear difference\.", text)
    assert "With retrieval minus without retrieval: +" in text
    assert text.index("<h3>case3</h3>") < text.index("<h3>case2</h3>") < text.index("<h3>&lt;script")


def test_neighbours_of_other_slices_than_axial_ones_are_not_shown(report, tmp_path):
    """Pictures are axial: slice 3 of a coronal trace is another one."""
    options = report[1] | {"pairs": report[1]["pairs"][1:2], "baseline": None}
    for entry in (trace := _trace(options["pairs"]))["cases"].values():
        entry["axis"] = 1
    write_report(evaluate_cases(options["pairs"], CARD), tmp_path / "r.html", **options | {"trace": trace})
    assert "cddd333" not in _text(tmp_path / "r.html")
    assert "No neighbour was used" not in _text(tmp_path / "r.html")


def test_neighbours_are_shown_the_heaviest_first_and_as_text_without_their_volume(report):
    text = _text(report[0])
    assert text.index("cddd333") < text.index("cbbb222")
    assert "similarity 0.934" in text
    assert "weight 0.500" in text
    assert "volume not at hand" in text
    assert "neighbour cbbb222, slice 3" in text
    assert "860 slices of 24 patients" in text


def test_every_picture_is_sound_and_without_loss_and_the_labels_have_the_cards_colours(report):
    pictures = _pictures(_text(report[0]))
    assert len(pictures) > 20
    colours = set()
    for data in pictures:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.format == "PNG" or data[12:16] == b"VP8L"  # WebP without loss
            colours |= {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert {LIVER, SPLEEN} <= colours


def test_the_page_shows_what_the_protocol_scores_and_its_rules(report, tmp_path):
    pages = {}
    for protocol in ("clinical", "samed", "flare22"):
        metrics = evaluate_cases(report[1]["pairs"], CARD, protocol=protocol)
        write_report(metrics, tmp_path / "r.html", card=CARD, pairs=report[1]["pairs"])
        pages[protocol] = _text(tmp_path / "r.html")
        assert f"<h2>Protocol {protocol}</h2>" in pages[protocol]
        assert html.escape(metrics["protocol_rules"][0]).replace("&#x27;", "&#39;") in pages[protocol]
    assert "<th>ASSD</th>" in pages["clinical"]
    assert "<th>ASSD</th>" not in pages["samed"]
    assert "<th>HD95 in voxels</th>" in pages["samed"]
    assert "Before reading a figure" in pages["samed"]
    assert "Before reading a figure" not in pages["clinical"]
    assert ["metrics.csv has further metrics" in page for page in pages.values()] == [True, False, False]
    assert ["Distances that could not be" in page for page in pages.values()] == [True, True, False]
    assert "bias +0.00 ml" in pages["clinical"]  # what is shifted keeps its volume
    assert 'Missed: <strong class="count">2</strong> of 8' in pages["clinical"]


def test_the_same_input_gives_the_same_bytes(report, tmp_path):
    """Row 35."""
    path, options = report
    write_report(evaluate_cases(options["pairs"], CARD), tmp_path / "again.html", **options)
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_the_bare_page_needs_neither_trace_nor_images_nor_baseline(tmp_path):
    pairs = [CasePair(p.case, None, p.reference, p.prediction) for p in _study(tmp_path, shift=1)]
    write_report(evaluate_cases(pairs, CARD), tmp_path / "report.html", card=CARD, pairs=pairs, max_cases=1)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "one per case: no patient table was given" in text
    assert "Drawn without the image." in text
    assert "Retrieved neighbours" not in text
    assert "minus without retrieval" not in text
    assert text.count('<article class="card case">') == 1


def test_a_run_in_which_nothing_can_be_scored_still_has_a_page(tmp_path):
    pairs = _study(tmp_path, shift=1, cases=2)
    for pair in pairs:
        pair.reference.write_bytes(b"broken")
    metrics = evaluate_cases(pairs, CARD)
    assert metrics["summary"]["mean"]["dice"]["mean"] is None
    write_report(metrics, tmp_path / "report.html", card=CARD, pairs=pairs)
    assert "Not scored at all: &lt;script&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")


def _chromium(profile, page, *extra):
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", *extra, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_the_page(report, tmp_path, width):
    """The colours of the labels are on the screen: the policy lets the pictures and the style through."""
    shot = tmp_path / "shot.png"
    _chromium(tmp_path / "profile", report[0], f"--window-size={width},7000", f"--screenshot={shot}")
    with Image.open(shot) as picture:
        assert picture.width == width
        found = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert found.get(LIVER, 0) > 100
    assert found.get(SPLEEN, 0) > 100
    assert found.get((244, 246, 248), 0) > 1000  # the style's background


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_runs_nothing_and_sees_the_name_as_text(report, tmp_path):
    dom = _chromium(tmp_path / "profile", report[0], "--dump-dom").stdout.decode("utf-8")
    assert "<script" not in dom
    assert "&lt;script&gt;alert(1)" in dom
    assert "<h2>Cases, the worst first</h2>" in dom


def test_volumes_that_do_not_fit_are_noted_and_the_page_goes_on(tmp_path):
    """An image and a prediction on another grid, a reference that broke since, a neighbour that cannot be read."""
    pairs = _study(tmp_path, shift=1)
    metrics = evaluate_cases(pairs, CARD)
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.float32), np.eye(4)), pairs[1].image)
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), pairs[1].prediction)
    pairs[2].reference.write_bytes(b"broken")
    support = {"cbbb222": Case("s", "s", pairs[2].reference, None, None, {})}
    path = tmp_path / "report.html"
    write_report(metrics, path, card=CARD, pairs=pairs, trace=_trace(pairs), support_cases=support)
    text = _text(path)
    assert "The prediction is on a different grid and is not shown." in text
    assert "The image is on a different grid and is not shown." in text
    assert "case2: the file is damaged" in text
    assert "neighbour cbbb222, slice 3" not in text
