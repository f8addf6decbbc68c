"""Segmenting by a bank alone: no run, no training."""

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from small_dicom import write_series
from small_study import SPACING_MM, affine_of, anatomy, files_below, log_lines, with_numbers

from ragsam.api.index import index_run
from ragsam.cli import main
from ragsam.data.cards.load import card_text
from ragsam.data.datalist import load_datalist, write_datalist
from ragsam.inference.provenance import provenance_rows
from ragsam.io.documents import read_json
from ragsam.metrics.overlap import dice
from ragsam.retrieval import Bank


@pytest.fixture(scope="module")
def bank(study, tmp_path_factory):
    """A bank of the training patients, made without a run; not to be written to."""
    return index_run(None, tmp_path_factory.mktemp("free") / "bank", data=study)[0]


@pytest.fixture
def own_bank(bank, tmp_path):
    return shutil.copytree(bank, tmp_path / "bank")


@pytest.fixture
def call(capsys):
    """Return a function that runs a command, and gives its exit code, what it says, and its log or line of error."""

    def run_command(*arguments):
        code = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run_command


def test_a_new_organ_from_labelled_volumes_on_the_inputs_own_grid(study, tmp_path, call, capsys):
    """Volumes that are flipped and oblique come back as they lie, their organs where the reference has them."""
    folder, cases = tmp_path / "my bank", load_datalist(study).section("test")
    code, told, _ = call("index", "--data", study, "--output", folder)
    assert (code, told.splitlines()) == (
        0,
        [
            f"bank: {folder}, 30 slices of 4 patients",
            f"next: ragsam segment --card hippocampus --bank {folder} INPUT --output DIR",
        ],
    )
    images = [case.image for case in cases]
    first, *others = images
    out = tmp_path / "out"
    code, told, _ = call("segment", "--card", "hippocampus", "--bank", folder, first, "--output", out, *others)
    assert (code, told) == (0, f"label volumes: 3 in {out}\n")
    for case in cases:
        image, made, truth = (nib.load(path) for path in (case.image, out / f"{case.case}.nii.gz", case.label))
        assert np.allclose(made.affine, image.affine, atol=1e-5)
        assert made.get_data_dtype() == np.uint8
        voxels, reference = np.asarray(made.dataobj), np.asarray(truth.dataobj)
        assert min(dice(reference == organ, voxels == organ) for organ in (1, 2)) > 0.9
    found = read_json(out / "provenance.json")
    assert (found["card"], found["weights_sha256"], found["bank"]["patients"]) == ("hippocampus", None, 4)
    rows = provenance_rows(out)
    assert (rows["weights"], rows["network"]) == (
        "none, without training",
        "the vote of the bank, slices of 32 pixels",
    )
    assert sorted(read_json(out / "retrieval.json")["cases"]) == sorted(case.case for case in cases)


def test_the_own_patient_never_votes(study, bank, tmp_path, call):
    """The volumes of the bank itself, by the datalist that names their patients: two are of one patient."""
    code, _, _ = call(
        "segment", "--card", "hippocampus", "--bank", bank, study, "--section", "training", "--output", tmp_path
    )
    assert code == 0
    opened, traces = Bank.open(bank), read_json(tmp_path / "retrieval.json")["cases"]
    for case in load_datalist(study).section("training"):
        own = opened.own_patients(case.patient, None)
        used = {one["patient"] for found in traces[case.case]["slices"].values() for one in found}
        assert own
        assert used
        assert not used & own


def test_a_bank_with_nobody_else_in_it_is_told(study, tmp_path, call, caplog):
    data = load_datalist(study)
    write_datalist(tmp_path / "one.json", "hippocampus", {"training": data.section("training")[:2]})
    index_run(None, tmp_path / "bank", data=tmp_path / "one.json")
    free = ("segment", "--card", "hippocampus", "--bank", tmp_path / "bank")
    code, _, _ = call(*free, tmp_path / "one.json", "--section", "training", "--output", tmp_path / "out")
    assert code == 0
    assert "case-tr0: the bank has no slice of another patient; no label votes" in caplog.text
    assert not np.asarray(nib.load(tmp_path / "out" / "case-tr0.nii.gz").dataobj).any()


def test_a_bank_of_a_run_serves_too_and_is_the_same(run, bank, study, tmp_path, call):
    """But for how often its votes count: the run asked it with fewer neighbours; saved anew, its user asks."""
    copied = tmp_path / "bank"
    Bank.open(run / "bank").save(copied)
    ours, theirs = Bank.open(bank), Bank.open(copied)
    assert ours.fit == theirs.fit
    assert np.array_equal(ours.descriptors, theirs.descriptors)
    for name, folder in (("ours", bank), ("theirs", copied)):
        free = ("segment", "--card", "hippocampus", "--bank", folder, study, "--output", tmp_path / name)
        assert call(*free)[0] == 0
    first, second = (np.asarray(nib.load(tmp_path / n / "case-te-ras.nii.gz").dataobj) for n in ("ours", "theirs"))
    assert np.array_equal(first, second)


def test_it_grows_and_is_pruned_without_a_run(study, own_bank, call):
    code, told, _ = call("index", "--output", own_bank, "--add", study, "--section", "validation")
    assert (code, told) == (0, f"bank: {own_bank}, 36 slices of 5 patients\n")
    code, told, _ = call("index", "--output", own_bank, "--remove", "patient-anna")
    assert (code, told) == (0, f"bank: {own_bank}, 24 slices of 4 patients\n")


def test_a_bank_says_how_slices_are_prepared(study, tmp_path, call):
    """Coarser slices, along another axis, with thumbnails: what segments and what is added are prepared alike."""
    data, folder = load_datalist(study), tmp_path / "bank"
    write_datalist(tmp_path / "two.json", "hippocampus", {"training": data.section("training")[1:3]})
    options = ("spacing_mm=[2, 3]", "slice_axis=1", "image_size=32", "descriptor=thumbnail", "carry=false")
    code, *_ = call(
        "index", "--data", tmp_path / "two.json", "--output", folder, *(f"--set={option}" for option in options)
    )
    assert code == 0
    assert call("index", "--output", folder, "--add", study, "--section", "validation")[0] == 0
    fit = Bank.open(folder).fit
    assert [fit[name] for name in ("spacing_mm", "slice_axis", "image_size")] == [[2, 3], 1, 32]
    free = ("segment", "--card", "hippocampus", "--bank", folder, data.section("test")[0].image)
    assert call(*free, "--output", tmp_path / "out", "--uncertainty", "--set", "test_shift=1")[0] == 0
    assert nib.load(tmp_path / "out" / "case-te-ras.nii.gz").shape == (32, 32, 6)
    assert (tmp_path / "out" / "uncertainty" / "case-te-ras.nii.gz").is_file()


def test_a_card_of_ones_own_by_its_path(bank, study, tmp_path, call, monkeypatch):
    (tmp_path / "new.yaml").write_text(card_text("hippocampus"))
    monkeypatch.chdir(tmp_path)
    image = load_datalist(study).section("test")[0].image
    assert call("segment", "--card", "new.yaml", "--bank", bank, image, "--output", "out")[0] == 0
    assert (tmp_path / "out" / "case-te-ras.nii.gz").is_file()


def test_a_dicom_series_gets_its_segmentation_and_its_patient_is_told_to_nobody(bank, tmp_path, call):
    corner = affine_of() @ (31, 31, 0, 1)
    image, origin = anatomy(91)[0][::-1, ::-1], (-corner[0], -corner[1], corner[2])
    write_series(tmp_path / "scan", image, origin=origin, spacing_mm=SPACING_MM)
    free = ("segment", "--card", "hippocampus", "--bank", bank, tmp_path / "scan", "--output", tmp_path / "out")
    code, told, log = call(*free, "--dicom-seg")
    assert code == 0
    assert files_below(tmp_path / "out") == with_numbers(
        ["provenance.json", "retrieval.json", "scan.nii.gz", "scan.seg.dcm"]
    )
    texts = [told, log, *((tmp_path / "out" / f"{name}.json").read_text() for name in ("provenance", "retrieval"))]
    assert not [text for text in texts if "Doe" in text or "JD-0815" in text]
    segments = pydicom.dcmread(tmp_path / "out" / "scan.seg.dcm").SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["anterior", "posterior"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "index --output {out}",
            "index: no RUN; name one, or give the cases of a bank without a run by --data DATALIST",
        ),
        ("index --data {study}", "--output: needed without a RUN; name the folder of the bank"),
        ("index --add {study}", "--output: needed without a RUN; name the folder of the bank"),
        ("index --remove somebody", "--output: needed without a RUN; name the folder of the bank"),
        ("index {run} --data {study}", "--data: makes a bank without a RUN; to add cases to a bank, use "),
        ("index {run} --set image_size=64", "--set: only with --data; slices are prepared as the run or the bank has"),
        (
            "index --data {study} --output {out} --set epochs=2",
            "--set epochs: no option of a bank; there are image_size, ",
        ),
        (
            "index --data {study} --output {out} --set descriptor=embedding",
            "--set descriptor: 'embedding'; without a run choose one of centred, thumbnail",
        ),
        ("index --data {study} --output {out} --set slice_axis=3", "--set slice_axis: 3 is not one of 0, 1, 2; the d"),
        (
            "index --data {study} --output {out} --set image_size=8",
            "--set image_size: 8 is not a whole number from 16 to",
        ),
        ("index --add {study} --output {out}", "bank out: no manifest.json in it; make a bank with `ragsam index`"),
        ("segment {study} --output {out}", "{study}: RUN or INPUT is missing; give both, or --card"),
        ("segment --card hippocampus {study} --output {out}", "--card: segments by a bank alone; name one with --bank"),
        (
            "segment --card hippocampus --bank {bank} {run} {study} --output {out}",
            "--card: segments without a run, and {run} is one; leave one of them out",
        ),
        (
            "segment --card hippocampus --bank {bank} {study} --output {out} --no-retrieval",
            "--no-retrieval: not with --card; there is no run",
        ),
        (
            "segment --card btcv --bank {bank} {study} --output {out}",
            "bank bank: of anterior, posterior, and card btcv has spleen, ",
        ),
        ("segment --card none --bank {bank} {study} --output {out}", "'none': no such card; choose one of "),
        ("segment --card hippocampus --bank {out} {study} --output {out}", "bank out: no manifest.json in it; make a "),
        (
            "segment --card hippocampus --bank {bank} {study} --output {out} --set epochs=1",
            "--set epochs: no option of s",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, line, run, study, bank, tmp_path, call):
    places = {"run": run, "study": study, "bank": bank, "out": tmp_path / "out"}
    code, told, error = call(*(word.format(**places) for word in arguments.split(" ")))
    (error,) = log_lines(error)
    assert (code, told) == (2, "")
    assert error.startswith("ragsam: " + line.format(**places))
    assert not (tmp_path / "out").exists()


def test_a_bank_that_looks_at_an_encoder_needs_its_run(study, own_bank, tmp_path, call):
    from ragsam.retrieval.bank_manifest import read_manifest, write_manifest

    manifest = read_manifest(own_bank)
    manifest["fit"] |= {"descriptor": "embedding", "encoder": "0" * 64}
    write_manifest(own_bank, manifest)
    line = "ragsam: bank bank: needs the encoder of a run; "
    code, _, error = call("segment", "--card", "hippocampus", "--bank", own_bank, study, "--output", tmp_path / "out")
    assert (code, error.startswith(line + "make one without a run with `ragsam index --data")) == (2, True)
    code, _, error = call("index", "--output", own_bank, "--add", study, "--section", "validation")
    assert (code, error) == (2, line + "name the RUN that it was made with\n")


def test_a_bank_of_empty_labels_is_refused(study, edited_study, tmp_path, call):
    label = nib.load(load_datalist(study).section("training")[0].label)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), tmp_path / "empty.nii.gz")

    def empty(content):
        content["training"] = [{**content["training"][0], "label": str(tmp_path / "empty.nii.gz")}]

    code, _, told = call("index", "--data", edited_study(empty), "--output", tmp_path / "bank")
    assert code == 2
    assert "ragsam: bank: no case has a labelled voxel of any organ; are the label numbers the card's" in told
    assert not (tmp_path / "bank" / "manifest.json").exists()
