"""Retrieval on whole volumes: what is found, what is written of it, and which banks are refused."""

import gzip
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from small_study import HEADER_NAME, TRAINING, affine_of, anatomy, files_below, save_volume, with_numbers

import ragsam
from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.inference.novelty_ranking import rank_volumes
from ragsam.io.documents import read_json
from ragsam.retrieval import Bank
from ragsam.retrieval.bank import pseudonym
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run

SHORT = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "validate_every": 1}


def trace_of(folder):
    return read_json(folder / "retrieval.json")


def masks_of(folder):
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


def test_bank_holds_every_training_slice_under_pseudonyms(run):
    bank = Bank.open(run / "bank")
    assert len(bank) == 5 * 6
    assert len(set(bank.patients)) == 4
    assert set(bank.patients) == {pseudonym(patient, bank.salt, "p") for patient in TRAINING.values()}
    assert sorted(bank.slices) == sorted(list(range(6)) * 5)
    assert bank.labels.shape == (30, 32, 32)


def test_trace_tells_the_neighbours_of_every_slice(run, segmented):
    trace, bank = trace_of(segmented), Bank.open(run / "bank")
    assert set(trace) == {"bank", "cases"}
    assert trace["bank"]["slices"] == 30
    assert trace["bank"]["patients"] == 4
    assert re.fullmatch(r"[0-9a-f]{16}", trace["bank"]["fingerprint"])
    assert list(trace["cases"]) == ["case-te-ras", "case-te-flipped", "case-te-oblique"]
    for entry in trace["cases"].values():
        assert (entry["orientation"], entry["axis"]) == ("RAS", 2)
        assert list(entry["slices"]) == [str(z) for z in range(6)]
        for neighbours in entry["slices"].values():
            assert len(neighbours) == 8
            assert sum(near["weight"] for near in neighbours) == pytest.approx(1, abs=1e-3)
            weights = [near["weight"] for near in neighbours]
            assert weights == sorted(weights, reverse=True)
            assert all(-1 <= near["similarity"] <= 1 for near in neighbours)
            for near in neighbours:
                assert set(near) == {"patient", "case", "slice", "similarity", "weight", "row"}
                row = near["row"]
                assert (near["patient"], near["case"]) == (bank.patients[row], bank.cases[row])
                assert near["slice"] == bank.slices[row]


def test_neighbours_lie_at_about_the_height_of_the_slice(segmented):
    """The descriptor knows the height, so what is found is not far up or down; two slices drawn blindly: 1.94."""
    slices = [item for entry in trace_of(segmented)["cases"].values() for item in entry["slices"].items()]
    apart = [abs(int(z) - near["slice"]) for z, found in slices for near in found[:3]]
    assert np.mean(apart) < 1.3


def test_no_training_key_and_no_header_text_comes_out(run, segmented):
    keys = [*TRAINING, *TRAINING.values(), HEADER_NAME, "DOE^JANE"]
    for folder in (segmented, run / "bank"):
        for name in files_below(folder):
            content = (folder / name).read_bytes()
            if name.endswith(".gz"):
                content = gzip.decompress(content)
            assert not [key for key in keys if key.encode() in content], name


def test_a_training_case_never_finds_its_own_patient(run, study, tmp_path):
    """By its datalist, and as a bare file whose name is the case's: its other volume is left out as well."""
    bank = Bank.open(run / "bank")
    section = load_datalist(study).section("training")
    segment_with_run(run, [study], tmp_path / "by datalist", section="training")
    segment_with_run(run, [case.image for case in section], tmp_path / "by file")
    for folder in ("by datalist", "by file"):
        cases = trace_of(tmp_path / folder)["cases"]
        assert set(cases) == set(TRAINING)
        for case, entry in cases.items():
            own = pseudonym(TRAINING[case], bank.salt, "p")
            found = {near["patient"] for neighbours in entry["slices"].values() for near in neighbours}
            assert own in bank.patients
            assert found
            assert own not in found


def test_another_name_is_another_patient(run, study, tmp_path):
    """A renamed copy cannot be known by its name: its own slices are found. The README says to keep the names."""
    case = load_datalist(study).section("training")[0]
    shutil.copyfile(case.image, tmp_path / "renamed.nii.gz")
    segment_with_run(run, [tmp_path / "renamed.nii.gz"], tmp_path / "out")
    bank = Bank.open(run / "bank")
    first = [near[0] for near in trace_of(tmp_path / "out")["cases"]["renamed"]["slices"].values()]
    assert {near["case"] for near in first} == {pseudonym(case.case, bank.salt, "c")}
    assert [near["slice"] for near in first] == list(range(6))
    assert first[2]["similarity"] == pytest.approx(1, abs=1e-3)


def test_retrieval_off_leaves_no_trace_and_other_masks(run, study, segmented, tmp_path):
    segment_with_run(run, [study], tmp_path / "off", retrieval=False)
    assert files_below(tmp_path / "off") == with_numbers([*masks_of(segmented), "provenance.json"])
    on, off = masks_of(segmented), masks_of(tmp_path / "off")
    assert any((on[name] != off[name]).any() for name in on)


@pytest.mark.parametrize("why", ["no bank", "trained without retrieval", "both"])
def test_a_run_without_bank_or_trained_without_retrieval_segments_without_and_says_so_once(
    own_run, study, tmp_path, caplog, why
):
    """Row 48: the masks are those of `--no-retrieval`, by the command, by the Python API and by a server's inferer."""
    caplog.set_level("INFO", logger="ragsam")
    segment_with_run(own_run, [study], tmp_path / "off", retrieval=False)
    assert "without retrieval" not in caplog.text
    off = masks_of(tmp_path / "off")
    if why != "trained without retrieval":
        shutil.rmtree(own_run / "bank")
    if why != "no bank":
        config = own_run / "configs" / "inference.yaml"
        text = config.read_text()
        config.unlink()
        config.write_text(text.replace("retrieval: true", "retrieval: false"))
    segment_with_run(own_run, [study], tmp_path / "on")
    assert caplog.text.count("segments without retrieval") == 1
    on = masks_of(tmp_path / "on")
    assert files_below(tmp_path / "on") == files_below(tmp_path / "off")
    assert all((on[name] == off[name]).all() for name in off)
    assert read_json(tmp_path / "on" / "provenance.json")["bank"] is None
    case = load_datalist(study).section("test")[0]
    labels = ragsam.load(own_run).segment(case.image).labels.dataobj
    assert (np.asarray(labels) == off[f"{case.case}.nii.gz"]).all()


def test_a_run_without_bank_is_evaluated_without_and_ranks_nothing(own_run, study, tmp_path, caplog):
    shutil.rmtree(own_run / "bank")
    caplog.set_level("INFO", logger="ragsam")
    places = {"output_dir": str(tmp_path / "out"), "evaluation_dir": str(tmp_path / "evaluation")}
    run_config(own_run, "evaluate", datalist=str(study), **places)
    assert caplog.text.count("segments without retrieval") == 1
    assert len(read_json(tmp_path / "evaluation" / "metrics.json")["cases"]) == len(
        load_datalist(study).section("test")
    )
    assert not (tmp_path / "out" / "retrieval.json").exists()
    with pytest.raises(InputError, match=r"bank bank: no manifest.json in it; make a bank with `ragsam index`"):
        rank_volumes(own_run, [study])  # by how unlike the bank they are


def test_what_is_left_of_a_bank_is_an_error(own_run, study, tmp_path):
    (own_run / "bank" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"bank bank: no manifest.json in it; make a bank with `ragsam index`"):
        segment_with_run(own_run, [study], tmp_path / "on")
    assert files_below(tmp_path / "on") == []


def test_a_bank_of_more_patients_is_searched_too(run, study, tmp_path):
    """The bank grows without training: `--bank` takes any that fits."""
    data = json.loads(study.read_text())
    data["training"] += data.pop("validation")
    for entries in data.values():
        for entry in entries if isinstance(entries, list) else []:
            for key in ("image", "label"):
                entry[key] = str(study.parent / entry[key])
    (tmp_path / "more.json").write_text(json.dumps(data))
    larger = shutil.copytree(run, tmp_path / "run")
    config = larger / "configs" / "train.yaml"
    config.write_text(config.read_text().replace(str(study), str(tmp_path / "more.json")))
    assert index_run(larger, tmp_path / "bank")[1:] == (36, 5)
    segment_with_run(run, [study], tmp_path / "out", bank=tmp_path / "bank")
    assert trace_of(tmp_path / "out")["bank"]["patients"] == 5


@pytest.mark.parametrize("stem", ["descriptors", "labels", "slices"])
def test_a_damaged_bank_is_refused(run, study, tmp_path, stem):
    bank = shutil.copytree(run / "bank", tmp_path / "bank")
    (path,) = bank.glob(f"{stem}-*")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # one bit
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"bank bank: {stem} is missing or damaged; make it again"):
        segment_with_run(run, [study], tmp_path / "out", bank=bank)
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match="is missing or damaged"):
        segment_with_run(run, [study], tmp_path / "out", bank=bank)
    path.unlink()
    with pytest.raises(InputError, match="is missing or damaged"):
        segment_with_run(run, [study], tmp_path / "out", bank=bank)
    assert files_below(tmp_path / "out") == []


def test_a_bank_made_for_something_else_is_refused(run, study, tmp_path):
    other = train_run("sam_lora", study, tmp_path / "other", {**SHORT, "image_size": 48, "neighbours": 2})
    index_run(other)
    with pytest.raises(InputError, match=r"bank bank: made for a different image_size \(48, not 32\); make it again"):
        segment_with_run(run, [study], tmp_path / "out", bank=other / "bank")
    assert files_below(tmp_path / "out") == []
    segment_with_run(other, [study], tmp_path / "out")
    assert all(len(near) == 2 for near in trace_of(tmp_path / "out")["cases"]["case-te-ras"]["slices"].values())


def test_a_bank_of_embeddings_belongs_to_its_encoder(study, tmp_path):
    options = {**SHORT, "descriptor": "embedding"}
    ours, theirs = (train_run("sam_lora", study, tmp_path / f"run{seed}", {**options, "seed": seed}) for seed in (1, 2))
    for run in (ours, theirs):
        index_run(run)
    segment_with_run(ours, [study], tmp_path / "out")
    assert trace_of(tmp_path / "out")["bank"]["slices"] == 30
    with pytest.raises(InputError, match="bank bank: made for a different encoder"):
        segment_with_run(ours, [study], tmp_path / "refused", bank=theirs / "bank")
    assert files_below(tmp_path / "refused") == []


def test_one_patient_alone_finds_nobody(edited_study, tmp_path):
    """Where the bank has only the query's own patient there are no supports, and the masks are those without a bank."""

    def anna_only(content):
        content["training"] = content["training"][:2]

    run = train_run("sam_lora", edited_study(anna_only), tmp_path / "run", SHORT)
    assert index_run(run)[1:] == (12, 1)
    path = save_volume(tmp_path / "case-tr0.nii.gz", anatomy(0)[0], affine_of())
    for name, retrieval in (("on", True), ("off", False)):
        segment_with_run(run, [path], tmp_path / name, retrieval=retrieval)
    assert set(map(len, trace_of(tmp_path / "on")["cases"]["case-tr0"]["slices"].values())) == {0}
    on, off = masks_of(tmp_path / "on"), masks_of(tmp_path / "off")
    assert np.array_equal(on["case-tr0.nii.gz"], off["case-tr0.nii.gz"])


def test_index_names_the_case_that_cannot_be_read(edited_study, tmp_path):
    def far_away(content):
        for entry in content["training"]:
            copy = tmp_path / f"{entry['case']}.nii.gz"
            shutil.copyfile(entry["image"], copy)
            entry["image"] = str(copy)

    run = train_run("sam_lora", edited_study(far_away), tmp_path / "run", SHORT)
    (tmp_path / "case-tr3.nii.gz").unlink()
    with pytest.raises(InputError, match="case-tr3: no such file"):
        index_run(run)
    assert not (run / "bank").exists()


def test_index_needs_a_trained_run(study, tmp_path):
    with pytest.raises(InputError, match=r"not a run \(no configs/train.yaml\)"):
        index_run(tmp_path)
    run = make_run("sam_lora", study, tmp_path / "run")
    with pytest.raises(InputError, match="no such weights file"):
        index_run(run)
    assert not (run / "bank").exists()
