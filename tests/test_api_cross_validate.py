"""Cross-validation: every patient is scored by the one run that never saw them."""

import json
from dataclasses import replace

import pytest
from small_study import TRAINING, files_below

from ragsam.api import cross_validate as cross_validation
from ragsam.api.cross_validate import cross_validate, fold_sections, folds_of
from ragsam.cli import main
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.io.documents import read_json

QUICK = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "image_size": 32, "board": None}
OPTIONS = [f"--set={name}={'null' if value is None else value}" for name, value in QUICK.items()]


def test_two_folds_score_every_patient_once_by_the_run_that_never_saw_them(study, tmp_path, capsys, monkeypatch):
    """Stopped while the second fold trains, and resumed: the first is not trained again."""
    train, trained = cross_validation.train_run, []

    def train_once(bundle, datalist, output, *args, **options):
        trained.append(output.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(bundle, datalist, output, *args, **options)

    monkeypatch.setattr(cross_validation, "train_run", train_once)
    command = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "cv"), "--folds", "2", *OPTIONS]
    assert main(command) == 130
    before = (tmp_path / "cv" / "fold-0" / "models" / "model.safetensors").stat().st_mtime_ns
    assert main([*command, "--resume"]) == 0
    assert (tmp_path / "cv" / "fold-0" / "models" / "model.safetensors").stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert "(n = 5 patients, each by the run that never saw them)" in said
    assert f"--ensemble {tmp_path}/cv/fold-1\n" in said
    metrics = read_json(tmp_path / "cv" / "evaluation" / "metrics.json")
    people = {**TRAINING, "case-va0": "patient-emil"}
    assert {case["case"] for case in metrics["cases"]} == set(people)
    for fold in range(2):
        sections = load_datalist(tmp_path / "cv" / f"fold-{fold}.json").sections
        seen, scored = ({case.patient for case in sections[name]} for name in ("training", "validation"))
        assert seen | scored == set(people.values())
        assert not seen & scored
        segmented = [name for name in files_below(tmp_path / "cv" / f"predictions-fold-{fold}") if name.endswith(".gz")]
        assert segmented == sorted(f"{case.case}.nii.gz" for case in sections["validation"])
        assert [case.case for case in sections["test"]] == ["case-te-ras", "case-te-flipped", "case-te-oblique"]


def test_folds_of_the_datalist_are_taken_and_wrong_ones_refused(study):
    data = load_datalist(study)

    def with_folds(number):
        sections = {
            name: tuple(replace(case, extra={"fold": number(case)}) for case in cases)
            for name, cases in data.sections.items()
        }
        return replace(data, sections=sections)

    by_patient = {"patient-anna": 0, "patient-bert": 1, "patient-cleo": 0, "patient-dora": 1, "patient-emil": 2}
    assert folds_of(with_folds(lambda case: by_patient.get(case.patient, 0)), 3) == by_patient
    with pytest.raises(InputError, match="--folds 2: the datalist has 3 folds"):
        folds_of(with_folds(lambda case: by_patient.get(case.patient, 0)), 2)
    with pytest.raises(InputError, match="case-tr0: in a different fold from its patient's other cases"):
        folds_of(with_folds(lambda case: int(case.case == "case-tr1")), 2)


def test_dealt_folds_are_the_same_each_time_and_hold_everybody_once(study):
    data = load_datalist(study)
    dealt = folds_of(data, 3)
    assert dealt == folds_of(data, 3)
    validated = [case.case for fold in range(3) for case in fold_sections(data, dealt, fold)["validation"]]
    assert sorted(validated) == sorted([*TRAINING, "case-va0"])


def test_what_cannot_be_dealt_is_told(study, tmp_path, capsys):
    for folds in (1, 6):
        with pytest.raises(InputError, match=f"--folds: {folds} asked for 5 patients"):
            cross_validate("sam_lora", study, tmp_path / "cv", QUICK, folds=folds)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.json").write_text(json.dumps("mine"))
    with pytest.raises(InputError, match="is not empty"):
        cross_validate("sam_lora", study, tmp_path / "full", QUICK, folds=2)
    command = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "cv"), "--folds", "2", "--check"]
    assert main(command) == 2
    assert "--check: not with" in capsys.readouterr().err
