"""`ragsam check` from the command line; and what `ragsam evaluate` says of two folders."""

import json
import re

import numpy as np
import pytest
from faulty_study import FAULTS, labels, save, voxels, write_faulty_study
from small_study import files_below, log_lines

from ragsam.cli import main
from ragsam.data.cards.load import card_text

TIME = re.compile(r" in \d+\.\d s")


def test_faults_are_a_line_each_and_the_exit_code_tells(tmp_path, capsys):
    path = write_faulty_study(tmp_path / "data")
    before = files_below(tmp_path / "data")
    code = main(
        ["check", str(path), "--jobs", "2", "--output", str(tmp_path / "out"), "--json", str(tmp_path / "s.json")]
    )
    printed = capsys.readouterr()
    assert code == 2
    lines = log_lines(printed.err)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert lines[: len(FAULTS)] == [f"ragsam: {line}" for line in summary["faults"]]
    assert lines[len(FAULTS) :] == ["ragsam: warning: two-forms: qform and sform differ; the sform is used"]
    assert [TIME.sub("", line) for line in printed.out.splitlines()] == [
        f"checked: {summary['n_cases']} volumes of {summary['n_patients']} patients, "
        f"{len(FAULTS)} faults, 1 warnings, 0 notes",
        f"page: {tmp_path}/out/check.html",
        f"summary: {tmp_path}/s.json",
    ]
    assert files_below(tmp_path / "out") == ["check.html"]
    assert files_below(tmp_path / "data") == before


def test_a_sound_study_is_exit_code_0_with_another_card_too(study, capsys, tmp_path):
    assert main(["check", str(study)]) == 0
    out = TIME.sub("", capsys.readouterr().out)
    assert out == "checked: 9 volumes of 8 patients, 0 faults, 0 warnings, 0 notes\n"
    assert files_below(tmp_path) == []
    card = tmp_path / "own.yaml"
    card.write_text(card_text("hippocampus").replace("name: hippocampus", "name: own"), encoding="utf-8")
    assert main(["check", str(study), "--card", str(card), "--jobs", "1"]) == 0
    capsys.readouterr()
    assert main(["check", str(study), "--card", "phantom", "--jobs", "1"]) == 2  # of which most organs lack
    (told,) = log_lines(capsys.readouterr().err)
    assert told.startswith("ragsam: training: no case has a labelled voxel of left_kidney, gallbladder, ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.json"], "{cwd}/none.json: no such file; check the path"),
        (["{study}", "--card", "spine"], "'spine': no such card"),
        (["{study}", "--jobs", "0"], "--jobs 0: not a number of processes; give 1 or more"),
    ],
)
def test_what_cannot_be_checked_at_all_is_one_line(arguments, line, study, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["check", *(argument.format(study=study) for argument in arguments)]) == 2
    (told,) = log_lines(capsys.readouterr().err)
    assert told.startswith(f"ragsam: {line.format(cwd=tmp_path)}")


def test_evaluate_names_predictions_without_a_reference_and_takes_images(tmp_path, capsys):
    for folder in ("reference", "prediction", "image"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "a.nii.gz", voxels(1) if folder == "image" else labels())
    save(tmp_path / "prediction" / "extra.nii.gz", np.zeros((2, 2, 2), np.uint8))
    folders = [text for name in ("reference", "prediction", "image") for text in (f"--{name}", str(tmp_path / name))]
    assert main(["evaluate", *folders, "--card", "hippocampus", "--output", str(tmp_path / "out")]) == 0
    warning = "ragsam: warning: extra: a prediction without a reference; it is not evaluated"
    assert log_lines(capsys.readouterr().err) == [warning]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Drawn without the image." not in page
