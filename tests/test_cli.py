"""The command line: the whole job, and one clear line with exit code 2 for every bad input."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forked import run_python
from small_study import (
    HEADER_NAME,
    QUICK,
    affine_of,
    anatomy,
    files_below,
    save_volume,
    with_numbers,
    write_study,
)

from ragsam import __version__
from ragsam.cli import main
from ragsam.commands.terminal import complain
from ragsam.data.cards.load import card_text, list_cards
from ragsam.data.datalist import load_datalist

PROGRESS = re.compile(r"\d\d:\d\d:\d\d (train: |segment: |bank: |val_mean_dice |base weights: )")
COMMANDS = ("demo", "cards", "prepare", "check", "train", "index", "segment", "evaluate", "compare", "import", "export")
FAST = ("--set", "epochs=1", "--set", "steps_per_epoch=2", "--set", "batch_size=4")


def only_line(stderr):
    """Return the one line of a stderr that is not the log's progress."""
    lines = [line for line in stderr.splitlines() if not PROGRESS.match(line)]
    assert len(lines) == 1, stderr
    return lines[0]


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command that must be refused, and gives the line that says why."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        line = only_line(capsys.readouterr().err)
        assert code == 2
        assert line.startswith("ragsam: ")
        return line.removeprefix("ragsam: ")

    return call


def command(*arguments):
    """Run a command in a process of its own."""
    return run_python(["-m", "ragsam.cli", *arguments])


def first(content, section="training"):
    return content[section][0]


# The whole job


def test_help_answers_without_the_heavy_packages():
    heavy = ("torch", "monai", "numpy", "faiss", "SimpleITK", "itk", "matplotlib", "nibabel", "pydicom", "highdicom")
    code = "import sys\nfrom ragsam.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n"
    code += f"    sys.stderr.write(repr((end.code, [name for name in {heavy} if name in sys.modules])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "(0, [])"
    assert all(re.search(rf"^ +{name}  ", done.stdout, re.MULTILINE) for name in COMMANDS)


def test_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"ragsam {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: ragsam {name}" in capsys.readouterr().out


def test_whole_job_in_folders_with_spaces_and_foreign_letters(tmp_path, capsys, monkeypatch):
    """Trains, indexes, segments and evaluates by relative paths, the data in a folder that is read-only."""
    place = tmp_path / "Müller & Søn, 日本 @1 $2 %3"
    place.mkdir()
    datalist = write_study(place / "my data")
    for folder in ("image", "label", "."):
        (datalist.parent / folder).chmod(0o555)
    before = files_below(datalist.parent)
    monkeypatch.chdir(place)
    assert main(["train", "sam_lora", "--data", "my data/datalist.json", "--output", "a run", *FAST]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["best", "last"]
    assert said[-3:] == ["run: a run", "curves: a run/curves.png", "next: ragsam index a run"]
    assert main(["index", "a run"]) == 0
    assert capsys.readouterr().out == f"bank: {place}/a run/bank, 30 slices of 4 patients\n"
    assert main(["segment", "a run", "my data/datalist.json", "--output", "my masks"]) == 0
    assert capsys.readouterr().out == "label volumes: 3 in my masks\n"
    evaluate = ["evaluate", "--reference", "my data/datalist.json", "--prediction", "my masks", "--output", "ein Maß"]
    assert main([*evaluate, "--bank", "a run/bank"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"mean Dice 0\.\d{4} \(n = 3 patients; as the datalist or table names them\)", lines[-2])
    assert lines[-1] == "report: ein Maß/report.html"
    assert files_below(place / "ein Maß") == [f"metrics.{kind}" for kind in ("csv", "json", "md", "tex")] + [
        "report.html"
    ]
    assert sorted(os.listdir(place)) == ["a run", "ein Maß", "my data", "my masks"]
    assert files_below(datalist.parent) == before  # nothing is written beside the input, which root could do
    for folder in ("image", "label", "."):
        (datalist.parent / folder).chmod(0o755)


def test_segment_takes_files_too_and_evaluate_folders(run, study, tmp_path, capsys):
    cases = load_datalist(study).section("test")
    assert main(["segment", str(run), *(str(case.image) for case in cases), "--output", str(tmp_path / "out")]) == 0
    evaluate = ["evaluate", "--reference", str(tmp_path / "labels"), "--prediction", str(tmp_path / "out")]
    (tmp_path / "labels").mkdir()
    for case in cases:
        shutil.copy(case.label, tmp_path / "labels")
    assert main([*evaluate, "--card", "hippocampus", "--output", str(tmp_path / "measured")]) == 0
    metrics = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    assert [case["case"] for case in metrics["cases"]] == sorted(case.case for case in cases)
    assert "one per case: no patient table was given" in capsys.readouterr().out


def test_segmenting_again_gives_the_same_bytes_of_trace_and_metrics(run, study, tmp_path):
    for name in ("one", "two"):
        out = tmp_path / name
        assert main(["segment", str(run), str(study), "--output", str(out)]) == 0
        evaluate = ["evaluate", "--reference", str(study), "--prediction", str(out)]
        assert main([*evaluate, "--output", str(tmp_path / f"{name}-measured")]) == 0
    for name in ("one/retrieval.json", "one-measured/metrics.json", "one-measured/metrics.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("one", "two")).read_bytes()


def test_baseline_is_compared_with(run, study, segmented, tmp_path):
    main(["segment", str(run), str(study), "--no-retrieval", "--output", str(tmp_path / "off")])
    evaluate = ["evaluate", "--reference", str(study), "--prediction"]
    assert main([*evaluate, str(tmp_path / "off"), "--output", str(tmp_path / "a")]) == 0
    baseline = ["--baseline", str(tmp_path / "a" / "metrics.json")]
    assert main([*evaluate, str(segmented), "--output", str(tmp_path / "b"), *baseline]) == 0
    page = (tmp_path / "b" / "report.html").read_text()
    assert "without retrieval" in page
    assert "without retrieval" not in (tmp_path / "a" / "report.html").read_text()


def test_prepare_writes_a_datalist_by_patient(study, tmp_path, capsys):
    for number in range(1, 9):
        for kind, array in zip(("imagesTr", "labelsTr"), anatomy(number), strict=True):
            save_volume(tmp_path / "raw" / kind / f"hippocampus_{number:03d}.nii.gz", array, affine_of())
    output = tmp_path / "lists" / "datalist.json"
    arguments = ["prepare", "hippocampus", str(tmp_path / "raw"), "--output", str(output)]
    assert main([*arguments, "--validation", "1", "--test", "1", "--seed", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "training: 4 volumes of 2 patients",
        "validation: 2 volumes of 1 patients",
        "test: 2 volumes of 1 patients",
    ]
    assert lines[3] == f"next: ragsam train sam_lora --data {output} --output RUN"
    assert {case.patient for case in load_datalist(output).section("test")}.isdisjoint(
        case.patient for case in load_datalist(output).section("training")
    )


def test_prepare_deals_folds_and_tells_the_layout(tmp_path, capsys, caplog):
    for kind in ("img", "label"):
        for number in range(1, 7):
            array = anatomy(number)[kind == "label"]
            save_volume(tmp_path / "RawData" / kind / f"{kind}{number:04d}.nii.gz", array, affine_of())
    arguments = ["prepare", "btcv", str(tmp_path / "RawData"), "--output", str(tmp_path / "datalist.json")]
    assert main([*arguments, "--folds", "3", "--fold", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "training: 4 volumes of 4 patients",
        "validation: 2 volumes of 2 patients",
        "test: 0 volumes of 0 patients",
    ]
    assert "prepare: 6 label files are read for the organs in them" in caplog.messages
    assert "prepare: layout btcv, 6 cases" in caplog.messages
    assert {case.extra["fold"] for case in load_datalist(tmp_path / "datalist.json").section("validation")} == {1}


def test_cards_are_listed_and_shown(tmp_path, capsys):
    assert main(["cards"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["card", *list_cards()]
    assert main(["cards", "flare22"]) == 0
    assert capsys.readouterr().out.startswith("flare22: FLARE 2022")
    (tmp_path / "my card.yaml").write_text(card_text("hippocampus").replace("name: hippocampus", "name: mine"))
    assert main(["cards", str(tmp_path / "my card.yaml")]) == 0
    assert capsys.readouterr().out.startswith("mine: Medical")


def test_demo_prints_where_the_report_is(study, tmp_path, capsys):
    code = main(["demo", "--output", str(tmp_path / "demo"), "--data", str(study), *FAST, "--set", "retrieval=true"])
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"report: {tmp_path / 'demo' / 'evaluation-with-retrieval' / 'report.html'}"
    assert Path(lines[-1].removeprefix("report: ")).is_file()
    assert sum(bool(re.match(r"mean Dice with(| retrieval switched off)", line)) for line in lines) == 2


def test_names_in_headers_come_out_nowhere(run, study, tmp_path, capsys, caplog):
    """The inputs' headers name a person in every text field; neither outputs nor messages may."""
    assert main(["segment", str(run), str(study), "--output", str(tmp_path / "out")]) == 0
    assert main(["evaluate", "--reference", str(study), "--prediction", str(tmp_path / "out"), "--output",
                 str(tmp_path / "measured"), "--bank", str(run / "bank")]) == 0  # fmt: skip
    case = load_datalist(study).section("test")[0]
    assert HEADER_NAME.encode() in gzip.decompress(case.image.read_bytes())
    outputs = [path for path in [*tmp_path.rglob("*"), *run.rglob("*")] if path.is_file()]
    assert len(outputs) > 15
    for path in outputs:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert b"DOE^" not in content, path
    told = capsys.readouterr()
    assert "segment: volume 3 of 3" in caplog.text
    assert "DOE" not in told.out + told.err + caplog.text


# Bad data


def _missing(content, folder):
    first(content)["image"] = str(folder / "none.nii.gz")
    return "case-tr0: no such file; check the path"


def _truncated(content, folder):
    whole = Path(first(content)["image"]).read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    first(content)["image"] = str(folder / "cut.nii.gz")
    return "case-tr0: the file is cut short (gzip ends early); copy it again"


def _other_label(content, folder):
    label = anatomy(0)[1]
    label[3, 4, 2], label[5, 5, 5] = 7, 9
    first(content)["label"] = str(save_volume(folder / "label.nii.gz", label, affine_of()))
    return "case-tr0: label 7, 9 is not on card hippocampus (0-2); set a label_map or choose another card"


def _other_shape(content, folder):
    label = np.ascontiguousarray(anatomy(0)[1][:, :, :5])
    first(content)["label"] = str(save_volume(folder / "label.nii.gz", label, affine_of()))
    shape = "its shape is (32, 32, 5), not (32, 32, 6)"
    return f"case-tr0: the label is not on the image's grid, {shape}; export it on the image's"


def _other_place(content, folder):
    label = save_volume(folder / "label.nii.gz", anatomy(0)[1], affine_of(origin=(0, 0, 0)))
    first(content)["label"] = str(label)
    return "case-tr0: the label is not on the image's grid, it is up to 24.4 mm away; export it on the image's"


def _no_patient(content, folder):
    del first(content)["patient"]
    return "case-tr0: patient is None; give each case its patient as a text, splits go by patient"


def _two_sections(content, folder):
    first(content, "test")["patient"] = "patient-anna"
    return (
        "case-te-ras: in test, but case-tr0 of the same patient is in training of datalist.json; "
        "keep all of a patient's cases in one section"
    )


def _no_card(content, folder):
    content["card"] = "liver"
    return f"'liver': no such card; choose one of {', '.join(list_cards())}, or the path of a card's .yaml file"


def _no_validation(content, folder):
    del content["validation"]
    return "datalist.json: no cases under 'validation'; sections with cases: training, test"


def _no_label(content, folder):
    del content["validation"][0]["label"]
    return "case-va0: no label; validation needs one"


def _not_finite(content, folder):
    image = anatomy(0)[0].astype(np.float32)
    image[0, 0, :3] = np.nan
    first(content)["image"] = str(save_volume(folder / "image.nii.gz", image, affine_of()))
    way = "export the volume again, or let the datalist fill them (fill_nonfinite)"
    return f"case-tr0: 3 voxels are NaN or infinite; {way}"


def _four_dimensions(content, folder):
    image = save_volume(folder / "image.nii.gz", np.zeros((32, 32, 6, 2), np.int16), affine_of())
    first(content, "validation")["image"] = str(image)
    return "case-va0: shape (32, 32, 6, 2) is not three-dimensional; give one volume of one channel"


FAULTS = [_missing, _truncated, _other_label, _other_shape, _other_place, _no_patient, _two_sections, _no_card]
FAULTS += [_no_validation, _no_label, _not_finite, _four_dimensions]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_training_on_bad_data_is_one_line_and_leaves_nothing(fault, edited_study, refused, tmp_path):
    lines = []
    (tmp_path / "bad").mkdir()
    datalist = edited_study(lambda content: lines.append(fault(content, tmp_path / "bad")))
    line = refused("train", "sam_lora", "--data", datalist, "--output", tmp_path / "run", *FAST)
    assert line.startswith(lines[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("epoch=3", "--set epoch: no such option; did you mean epochs? `ragsam train --options` lists them"),
        ("epochs", "--set epochs: write it as KEY=VALUE"),
        ("epochs=many", "--set epochs: 'many' is not a whole number from 1 on; the default is 20"),
        ("base=$__import__('os').getcwd()", "--set base: expressions and mappings are not taken here"),
        ("spacing_mm=['$1', 2]", "--set spacing_mm: expressions and mappings are not taken here"),
        ("base=none.pth", "{cwd}/none.pth: no such weights file; check the path"),
    ],
)
def test_bad_knob_is_one_line_and_leaves_nothing(option, line, study, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = refused("train", "sam_lora", "--data", study, "--output", tmp_path / "run", "--set", option)
    assert got.startswith(line.format(cwd=tmp_path))
    assert not (tmp_path / "run").exists()


def test_bad_places_are_one_line(run, study, refused, tmp_path):
    datalist = ("--data", study)
    line = refused("train", "sam_nothing", *datalist, "--output", tmp_path / "run")
    assert line == (
        "sam_nothing: no bundle there (no configs/train.yaml); take a bundle's folder or one of "
        "sam_adapter, sam_frequency, sam_lora"
    )
    line = refused("train", "sam_lora", "--data", tmp_path / "none.json", "--output", tmp_path / "run")
    assert line == f"{tmp_path}/none.json: no such file; check the path"
    (tmp_path / "broken.json").write_text('{"card": ')
    line = refused("train", "sam_lora", "--data", tmp_path / "broken.json", "--output", tmp_path / "run")
    assert line.startswith(f"{tmp_path}/broken.json: not valid JSON")
    assert refused("train", "sam_lora", *datalist, "--output", run) == (
        f"{run}: is a run already; choose another output, or remove it, or resume its training with --resume"
    )
    (tmp_path / "file").write_text("")
    assert "is not empty" in refused("train", "sam_lora", *datalist, "--output", tmp_path / "file")
    assert "cannot be written" in refused("train", "sam_lora", *datalist, "--output", tmp_path / "file" / "run")
    line = refused("train", "sam_lora", *datalist, "--output", tmp_path / "run #2")
    assert line == f"{tmp_path}/run #2: MONAI's configs take # for a separator; choose a folder without one"
    assert "take # for a separator" in refused("segment", run, study, "--output", tmp_path / "#")
    assert "not a run" in refused("index", tmp_path)
    assert "not a run" in refused("segment", tmp_path, study, "--output", tmp_path / "out")
    assert "cannot be written" in refused("segment", run, study, "--output", tmp_path / "file")
    assert files_below(tmp_path) == ["broken.json", "file"]


def test_demo_over_something_else_is_one_line(study, refused, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    line = refused("demo", "--output", tmp_path, "--data", study)
    assert line == f"{tmp_path}: holds something other than an earlier demo; choose another --output"


def test_prepare_of_a_wrong_folder_is_one_line(refused, tmp_path):
    arguments = ("--output", tmp_path / "datalist.json")
    assert "no folder imagesTr" in refused("prepare", "hippocampus", tmp_path, *arguments)
    assert "no such card" in refused("prepare", "spine", tmp_path, *arguments)
    assert "no such layout" in refused("prepare", "btcv", tmp_path, *arguments, "--layout", "zip")
    assert "no such card" in refused("cards", "spine")
    assert files_below(tmp_path) == []
    (tmp_path / "my.yaml").write_text("organs: 3")
    assert "my.yaml: 2 faults: missing name, modality" in refused("cards", tmp_path / "my.yaml")
    assert "my.yaml: 2 faults: missing name, modality" in refused("prepare", tmp_path / "my.yaml", tmp_path, *arguments)


# Bad input to segment


def _not_there(folder):
    return folder / "gone.nii.gz", "gone: no such file; check the path"


def _cut(folder):
    whole = save_volume(folder / "whole.nii.gz", anatomy(5)[0], affine_of()).read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[:-9])
    return folder / "cut.nii.gz", "cut: the file is cut short (gzip ends early); copy it again"


def _bit_flipped(folder):
    whole = bytearray(save_volume(folder / "flip.nii.gz", anatomy(5)[0], affine_of()).read_bytes())
    whole[-6] ^= 4  # in the checksum
    (folder / "flip.nii.gz").write_bytes(whole)
    return folder / "flip.nii.gz", "flip: the file is damaged or not packed by gzip; copy it again"


def _picture(folder):
    (folder / "photo.png").write_bytes(b"\x89PNG")
    kinds = "not a volume (.nii.gz, .nii, .mha, .mhd, .nrrd), a DICOM folder or a datalist (.json)"
    return folder / "photo.png", f"photo.png: {kinds}; convert it first"


def _text(folder):
    (folder / "notes.nii").write_text("not a volume\n" * 99)
    return folder / "notes.nii", "notes: the file cannot be read as a volume; convert it to NIfTI"


def _empty(folder):
    (folder / "empty.nii.gz").write_bytes(b"")
    return folder / "empty.nii.gz", "empty: the file is empty; export or copy it again"


def _promising(folder):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    nib.save(image, folder / "huge.nii")
    content = bytearray((folder / "huge.nii").read_bytes())
    content[42:48] = np.array([32000] * 3, "<i2").tobytes()
    (folder / "huge.nii").write_bytes(content)
    return folder / "huge.nii", "huge: the header promises (32000, 32000, 32000) voxels, above 2**31"


INPUTS = [_not_there, _cut, _bit_flipped, _picture, _text, _empty, _promising]


@pytest.mark.parametrize("make", INPUTS, ids=lambda make: make.__name__.strip("_"))
def test_segmenting_a_bad_file_is_one_line_and_writes_nothing(make, run, refused, tmp_path):
    path, line = make(tmp_path)
    assert refused("segment", run, path, "--output", tmp_path / "out").startswith(line)
    assert files_below(tmp_path / "out") == []


def test_segment_goes_on_with_the_other_cases(run, refused, tmp_path):
    good = [save_volume(tmp_path / f"good{n}.nii.gz", anatomy(n)[0], affine_of()) for n in (1, 2)]
    bad = [_cut(tmp_path)[0], _text(tmp_path)[0]]
    line = refused("segment", run, good[0], *bad, good[1], "--output", tmp_path / "out")
    assert line == "cut: the file is cut short (gzip ends early); copy it again (1 more at fault, 2 segmented)"
    assert files_below(tmp_path / "out") == with_numbers(
        ["good1.nii.gz", "good2.nii.gz", "provenance.json", "retrieval.json"]
    )
    assert list(json.loads((tmp_path / "out" / "retrieval.json").read_text())["cases"]) == ["good1", "good2"]


def test_two_inputs_of_one_name_are_refused(run, refused, tmp_path):
    paths = [save_volume(tmp_path / folder / "scan.nii.gz", anatomy(1)[0], affine_of()) for folder in ("a", "b")]
    line = refused("segment", run, *paths, "--output", tmp_path / "out")
    assert line == "scan: two inputs of this name; segment them into two folders"
    assert not (tmp_path / "out").exists()


def test_a_bank_that_is_named_and_is_none_is_one_line(run, study, refused, tmp_path):
    line = refused("segment", run, study, "--bank", tmp_path / "bank", "--output", tmp_path / "out")
    assert line == "bank bank: no manifest.json in it; make a bank with `ragsam index`"
    assert not (tmp_path / "out").exists()


def test_segment_with_a_damaged_bank_is_one_line(run, study, refused, tmp_path):
    bank = shutil.copytree(run / "bank", tmp_path / "bank")
    (labels,) = bank.glob("labels-*")
    labels.write_bytes(labels.read_bytes()[:-1])
    line = refused("segment", run, study, "--bank", bank, "--output", tmp_path / "out")
    assert line == "bank bank: labels is missing or damaged; make it again with `ragsam index`"
    assert not (tmp_path / "out").exists()


def test_segment_needs_the_section(run, study, refused, tmp_path):
    line = refused("segment", run, study, "--section", "holdout", "--output", tmp_path / "out")
    assert line == "datalist.json: no cases under 'holdout'; sections with cases: training, validation, test"


# Bad input to evaluate


def test_missing_prediction_is_told_and_the_rest_measured(study, segmented, tmp_path, capsys):
    predictions = shutil.copytree(segmented, tmp_path / "masks")
    (predictions / "case-te-flipped.nii.gz").unlink()
    evaluate = ["evaluate", "--reference", str(study), "--prediction", str(predictions)]
    assert main([*evaluate, "--output", str(tmp_path / "out")]) == 2
    line = only_line(capsys.readouterr().err)
    assert line == ("ragsam: case-te-flipped: no prediction; scored as missed, segment the case and evaluate again")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    status = {case["case"]: {o["status"] for o in case["organs"].values()} for case in metrics["cases"]}
    assert status == {"case-te-ras": {"ok"}, "case-te-flipped": {"missed"}, "case-te-oblique": {"ok"}}
    assert metrics["missed"] == {"anterior": 1, "posterior": 1}
    assert (tmp_path / "out" / "report.html").is_file()


def test_evaluate_of_bad_places_is_one_line(study, segmented, refused, tmp_path):
    reference = ("evaluate", "--reference", study)
    output = ("--output", tmp_path / "out")
    assert refused(*reference, "--prediction", tmp_path / "none", *output) == (
        f"{tmp_path}/none: no such folder; check the path"
    )
    folder = ("evaluate", "--reference", study.parent / "label", "--prediction", segmented)
    assert refused(*folder, *output) == "--card: needed with a folder of references; name a card or its .yaml file"
    assert "no such card" in refused(*folder, *output, "--card", "spine")
    line = refused(*reference, "--prediction", segmented, *output, "--baseline", tmp_path / "none.json")
    assert line == f"{tmp_path}/none.json: no such file; check the path"
    assert "no cases under 'holdout'" in refused(*reference, "--prediction", segmented, *output, "--section", "holdout")
    assert files_below(tmp_path / "out") == []


# The same from outside, as a process


def test_as_a_process_bad_input_is_exit_code_2_without_a_traceback(run, edited_study, tmp_path):
    path, line = _cut(tmp_path)
    done = command("segment", run, path, "--output", tmp_path / "out")
    assert (done.returncode, only_line(done.stderr)) == (2, f"ragsam: {line}")
    lines = []
    datalist = edited_study(lambda content: lines.append(_other_label(content, tmp_path)))
    done = command("train", "sam_lora", "--data", datalist, "--output", tmp_path / "run", *FAST)
    assert (done.returncode, only_line(done.stderr)) == (2, f"ragsam: {lines[0]}")
    assert files_below(tmp_path / "out") == []
    assert not (tmp_path / "run").exists()


def test_unknown_option_is_exit_code_2():
    full = [sys.executable, "-m", "ragsam.cli", "segment", "--fast"]
    done = subprocess.run(full, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert QUICK  # the options of the study, which the fixtures train with


def test_a_line_that_quotes_a_hostile_text_stays_one(capsys):
    complain("x: made for a\n\x1b[2Jb\r\x07c, the run has d")
    assert capsys.readouterr().err == "ragsam: x: made for a  [2Jb  c, the run has d\n"
