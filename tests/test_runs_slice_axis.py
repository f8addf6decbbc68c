"""Coronal slices with neighbours at a distance, from training through the bank to the label volumes."""

import json

import nibabel as nib
import numpy as np
import pytest
from small_study import QUICK

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.runs.templates import fitting_image_size, make_run


@pytest.fixture(scope="module")
def coronal_run(study, tmp_path_factory):
    options = {**QUICK, "slice_axis": 1, "context_distance_mm": 2.5, "epochs": 1, "steps_per_epoch": 20}
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("coronal") / "run", options)
    index_run(run)
    return run


def test_masks_lie_on_the_inputs_own_grid(coronal_run, study, tmp_path):
    """Learnt on coronal slices, the organs are found in files stored RAS, flipped and oblique."""
    segment_with_run(coronal_run, [study], tmp_path)
    for case in load_datalist(study).section("test"):
        found, label = nib.load(tmp_path / f"{case.case}.nii.gz"), nib.load(case.label)
        np.testing.assert_allclose(found.affine, label.affine, atol=1e-5)
        ours, theirs = (np.asarray(volume.dataobj) > 0 for volume in (found, label))
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.5, case.case
    trace = read_json(tmp_path / "retrieval.json")
    for entry in trace["cases"].values():
        assert entry["axis"] == 1
        assert list(entry["slices"]) == [str(y) for y in range(32)]


def test_a_bank_says_how_its_slices_were_cut(coronal_run, run, study, tmp_path):
    fit = json.loads((coronal_run / "bank" / "manifest.json").read_text())["fit"]
    assert (fit["slice_axis"], fit["context_slices"], fit["context_distance_mm"]) == (1, 1, 2.5)
    with pytest.raises(InputError, match=r"bank bank: made for a different slice_axis \(1, not 2\)"):
        segment_with_run(run, [study], tmp_path, bank=coronal_run / "bank")


def test_the_slice_fits_its_own_axes(study):
    """The study's volumes are 32 x 32 x 6 at 1 x 1 x 3 mm."""
    cases = load_datalist(study).section("training")
    assert [fitting_image_size(cases, None, axis) for axis in range(3)] == [32, 32, 32]
    assert fitting_image_size(cases, [1.0, 0.25], 0) == 80  # 32 mm at 1 mm and 18 mm at 0.25 mm
    assert fitting_image_size(cases, [1.0, 0.25], 2) == 128


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"slice_axis": 3}, "slice_axis: 3 is not one of 0, 1, 2; the default is 2"),
        ({"context_slices": 2}, "the network takes three channels; choose 0 or 1"),
        ({"context_slices": 0, "network_def.adapter.depth": True}, "the depth adapter needs neighbours"),
        (
            {"context_distance_mm": -1.0},
            "context_distance_mm: -1.0 is not a number above 0 or null; the default is null",
        ),
        ({"slice_axis": 0, "mirror": True}, "mirror: sagittal slices have no left and right"),
    ],
)
def test_what_cannot_be_is_told(study, tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        train_run("sam_lora", study, tmp_path / "run", {**QUICK, **options})
    assert not (tmp_path / "run" / "models").exists()


def test_a_mirrored_training_runs(study, tmp_path):
    run = make_run("sam_lora", study, tmp_path / "run", {"mirror": True, "elastic": 0.2, "low_resolution": 0.2})
    assert "mirror: true" in (run / "configs" / "train.yaml").read_text()
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "train.yaml"))
    parser["bundle_root"] = str(run)
    item = parser.get_parsed_content("train#dataset")[0]
    assert item["image"].shape == (3, 32, 32)
    assert len(parser.get_parsed_content("train#augmentation").transforms) == 7
