"""Runs compared: differences, tests, won and lost cases by hand; the page, its policy and what a browser draws."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small_study import files_below

from ragsam.cli import main
from ragsam.data.cards.load import Card, Organ
from ragsam.errors import InputError
from ragsam.evaluation.compare_runs import compare_runs, read_runs
from ragsam.evaluation.paired_comparison import compare_metrics
from ragsam.evaluation.score_cases import CasePair, evaluate_cases
from ragsam.metrics.protocols import METRICS
from ragsam.report.compare_page import claim, write_comparison
from ragsam.report.tables import write_metrics_json

EVIL = "<script>alert(1)<\\script>"
pytestmark = pytest.mark.usefixtures("full_pictures")
CARD = Card(
    name="tiny", title="Tiny", modality="CT",
    organs=(Organ("liver", 1, (200, 80, 60), 1.0), Organ("spleen", 2, (60, 80, 200), 1.0)),
    window=None, orientation="RAS", left_right=(), licence="none", source="made", citation="none",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENTS = 8


def bar(length):
    """A liver of `length` of 12 voxels, and a spleen of 4 beside it."""
    labels = np.zeros((14, 4, 3), np.uint8)
    labels[1 : 1 + length, 1, 1] = 1
    labels[1:5, 3, 1] = 2
    return labels


def evaluation(folder, lengths, **options):
    """Evaluate livers of so many voxels against one of 12, a patient each; the first has an evil name."""
    pairs = []
    for i, length in enumerate(lengths):
        paths = [folder / f"{name}{i}.nii.gz" for name in ("reference", "prediction")]
        folder.mkdir(exist_ok=True, parents=True)
        for path, labels in zip(paths, (bar(12), bar(length)), strict=True):
            nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
        pairs.append(CasePair(EVIL if i == 0 else f"case{i}", f"p{i}", *paths))
    return evaluate_cases(pairs, CARD, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Livers cut to 8 voxels; to 9 or more, but for one of 4; and as the first but for two that are missed."""
    folder = tmp_path_factory.mktemp("runs")
    lengths = {"plain": [8] * PATIENTS, "ours": [9, 10, 11, 12, 9, 10, 4, 8], "worst": [8] * (PATIENTS - 2) + [0, 0]}
    return {name: evaluation(folder / name, several) for name, several in lengths.items()}


def liver_dice(length):
    return 2 * length / (length + 12)


def test_a_run_against_the_first_by_hand(runs):
    found = compare_runs({name: runs[name] for name in ("plain", "ours")})
    (ours,) = found["comparisons"]
    assert (found["baseline"], ours["run"], found["metrics"]) == ("plain", "ours", list(METRICS))
    assert (ours["won"], ours["lost"], ours["tied"], ours["n_cases"], ours["n_patients"]) == (6, 1, 1, 8, 8)
    gains = [liver_dice(n) - liver_dice(8) for n in (9, 10, 11, 12, 9, 10, 4, 8)]
    liver, spleen = (ours["organs"][organ]["dice"] for organ in ("liver", "spleen"))
    assert liver["mean_difference"] == pytest.approx(np.mean(gains))
    assert (liver["wins"], liver["losses"], liver["ties"]) == (6, 1, 1)
    # Without the tie seven are ranked; the loss is the largest but for none: ranks 1.5 1.5 3.5 3.5 5 6 and 7 against.
    assert liver["p"] == pytest.approx(2 * sum_at_most([1.5, 1.5, 3.5, 3.5, 5, 6, 7], 7) / 2**7)
    assert (spleen["p"], spleen["mean_difference"], spleen["ties"]) == (None, 0.0, 8)
    assert liver["p_holm"] == liver["p"]  # the spleen has no difference to test
    first, last = ours["cases"][0], ours["cases"][-1]
    assert (first["case"], first["outcome"]) == ("case6", "worse")
    assert first["organs"] == {"liver": pytest.approx(gains[6]), "spleen": 0.0}
    assert first["difference"] == pytest.approx(gains[6] / 2)
    assert first["dice"] == pytest.approx([(liver_dice(4) + 1) / 2, (liver_dice(8) + 1) / 2])
    assert (last["case"], last["outcome"]) == ("case7", "equal")


def sum_at_most(ranks, limit):
    """Count the ways to choose some of the ranks that sum to the limit at most."""
    return sum(
        sum(rank for bit, rank in enumerate(ranks) if choice >> bit & 1) <= limit for choice in range(2 ** len(ranks))
    )


def test_three_runs_are_each_compared_with_the_first_and_corrected_together(runs):
    found = compare_runs(runs)
    assert [one["run"] for one in found["comparisons"]] == ["ours", "worst"]
    assert {name: run["n_cases"] for name, run in found["runs"].items()} == dict.fromkeys(runs, PATIENTS)
    ours, worst = found["comparisons"]
    alone = compare_metrics(runs["ours"], runs["plain"])
    p_ours, p_worst = (one["organs"]["liver"]["dice"]["p"] for one in (ours, worst))
    assert p_worst == pytest.approx(2 / 4)
    assert alone["organs"]["liver"]["dice"]["p_holm"] == p_ours
    assert ours["organs"]["liver"]["dice"]["p_holm"] == pytest.approx(min(1, 2 * p_ours))
    assert ours["mean"]["dice"]["p_holm"] == pytest.approx(min(1, 2 * ours["mean"]["dice"]["p"]))
    json.dumps(found, allow_nan=False)


def test_a_claim_needs_the_corrected_p_and_knows_which_way_is_better():
    paired = {"mean_difference": 0.1, "p_holm": 0.04}
    assert claim(paired, "dice") == "better"
    assert claim(paired, "hd95_mm") == claim(paired, "hd95_voxels") == "worse"
    assert claim(paired | {"mean_difference": -0.1}, "hd95_mm") == "better"
    assert claim(paired | {"p_holm": 0.05}, "dice") == claim(paired | {"p_holm": None}, "dice") == "unclear"


def test_cases_and_scores_that_one_run_lacks_are_named(runs, tmp_path):
    short = evaluation(tmp_path / "short", [9] * 3)
    (found,) = compare_runs({"plain": runs["plain"], "short": short})["comparisons"]
    assert found["n_cases"] == 3
    assert found["cases_in_one_run"] == [f"case{i}" for i in range(3, PATIENTS)]


def test_samed_compares_what_is_in_voxels(tmp_path):
    runs = {n: evaluation(tmp_path / n, [length] * 3, protocol="samed") for n, length in (("a", 8), ("b", 12))}
    found = write_comparison(runs, tmp_path / "out")
    assert found["metrics"] == ["dice", "hd95_voxels"]
    # Pooled: 12 distances of which the last are 1 2 3 4, and 8 of 0; the 95th percentile of these 20 is 3.05.
    difference = found["comparisons"][0]["organs"]["liver"]["hd95_voxels"]["mean_difference"]
    assert difference == pytest.approx(-np.percentile([0] * 16 + [1, 2, 3, 4], 95))
    text = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert found["protocol_caveat"] in text
    assert "HD95 in voxels" in text


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    renamed = runs["ours"] | {"summary": runs["ours"]["summary"] | {"organs": {"heart": {}}}}
    for other, message in [
        (runs["ours"] | {"protocol": "btcv"}, "ours against plain: the runs' protocol differs"),
        (renamed, "organs differ"),
    ]:
        with pytest.raises(InputError, match=message):
            compare_runs({"plain": runs["plain"], "ours": other})


# Files and the command


@pytest.fixture
def folders(runs, tmp_path):
    for name, metrics in runs.items():
        write_metrics_json(metrics, tmp_path / name / "evaluation" / "metrics.json")
    return tmp_path


def test_runs_are_named_by_as_much_of_their_path_as_tells_them_apart(folders):
    paths = [folders / "plain" / "evaluation", folders / "ours" / "evaluation" / "metrics.json"]
    assert list(read_runs(paths)) == ["plain/evaluation", "ours/evaluation"]
    (folders / "ours" / "evaluation").rename(folders / "ours" / "again")
    assert list(read_runs([paths[0], folders / "ours" / "again"])) == ["evaluation", "again"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such evaluation"), ("{}", "not an evaluation's"), ("[1", "not valid JSON")]
)
def test_what_is_no_evaluation_is_refused_in_one_line(folders, content, message, capsys):
    (folders / "other").mkdir()
    if content is not None:
        (folders / "other" / "metrics.json").write_text(content)
    code = main(
        ["compare", str(folders / "plain" / "evaluation"), str(folders / "other"), "--output", str(folders / "o")]
    )
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (folders / "o").exists()


def test_one_run_and_the_same_run_twice_are_refused(folders):
    with pytest.raises(InputError, match="name two or more"):
        read_runs([folders / "plain" / "evaluation"])
    with pytest.raises(InputError, match="is there twice"):
        read_runs([folders / "plain" / "evaluation"] * 2)


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The command's output folder and what it printed."""
    folder, said = tmp_path_factory.mktemp("compared"), io.StringIO()
    for name, metrics in runs.items():
        write_metrics_json(metrics, folder / name / "evaluation" / "metrics.json")
    paths = [str(folder / name / "evaluation") for name in runs]
    with redirect_stdout(said):
        assert main(["compare", *paths, "--output", str(folder / "out ä")]) == 0
    return folder / "out ä", said.getvalue()


def test_the_command_writes_three_files_and_a_line_a_run(page):
    folder, said = page
    assert files_below(folder) == ["compare.html", "compare.json", "compare.md"]
    assert "ours/evaluation minus plain/evaluation: mean Dice +0.0" in said
    assert "6 cases won, 1 lost, 1 equal" in said
    content = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    assert content["comparisons"][0]["won"] == 6
    markdown = (folder / "compare.md").read_text(encoding="utf-8")
    assert "## ours/evaluation against plain/evaluation" in markdown
    assert r"| &lt;script&gt;alert(1)&lt;\\script&gt; |" in markdown
    assert "<script" not in markdown
    assert re.search(r"\| liver \| \+0\.\d{3} \| .* \| 6 \| 1 \| 1 \|", markdown)


def test_the_page_is_one_file_under_a_strict_policy_with_names_as_text(page):
    """Row 32; and no folder above the runs is told (row 31)."""
    text = (page[0] / "compare.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert "url(" not in text
    assert str(page[0].parent) not in text
    assert text.count("data:image/png") == 4 + 1 + 2 * 2 + 4


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    """Row 35."""
    several = {name: runs[name] for name in ("plain", "ours")}
    for name in ("one", "two"):
        write_comparison(several, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_the_page(page, tmp_path, width):
    shot = tmp_path / "shot.png"
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},6000",
               f"--screenshot={shot}", Path(page[0] / "compare.html").as_uri()]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    with Image.open(shot) as picture:
        assert picture.width == width
        found = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert found.get((0x5E, 0x3C, 0x99), 0) > 300  # patients for whom the run is better
    assert found.get((0xD5, 0x5E, 0x00), 0) > 100  # the second run
    assert found.get((244, 246, 248), 0) > 1000  # the style's background
