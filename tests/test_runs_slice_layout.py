"""Slices as files store them, from training through the bank to the label volumes, and what does not go together."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from small_study import QUICK

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.file_orientation import common_orientation
from ragsam.data.slices import SliceDataset
from ragsam.errors import InputError
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.io.documents import read_json
from ragsam.networks.checkpoints import load_weights
from ragsam.runs.templates import fitting_image_size
from ragsam.transforms import preprocessing


@pytest.fixture(scope="module")
def file_run(study, tmp_path_factory):
    options = {**QUICK, "slice_layout": "file", "epochs": 1, "steps_per_epoch": 20}
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("file") / "run", options)
    index_run(run)
    return run


def test_a_run_keeps_its_layout_and_its_masks_lie_on_the_inputs_own_grid(file_run, study, tmp_path):
    about = load_weights(file_run / "models" / "model.safetensors")[1]
    assert about["preparation"]["slice_layout"] == "file"
    case = load_datalist(study).section("test")[0]
    segment_with_run(file_run, [case.image], tmp_path)
    name = case.image.name
    found, label = nib.load(tmp_path / name), nib.load(case.label)
    np.testing.assert_allclose(found.affine, label.affine, atol=1e-5)
    ours, theirs = (np.asarray(volume.dataobj) > 0 for volume in (found, label))
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.5


def test_files_stored_in_other_directions_are_not_voted_on(file_run, study, tmp_path):
    """Their slices are mirrored against the bank's; without the bank they are segmented."""
    flipped = load_datalist(study).section("test")[1]
    with pytest.raises(
        InputError, match=r"its file's slices are laid out as \w{3}, those of the bank as ARS; store it"
    ):
        segment_with_run(file_run, [flipped.image], tmp_path / "a")
    segment_with_run(file_run, [flipped.image], tmp_path / "b", retrieval=False)
    assert (tmp_path / "b" / flipped.image.name).is_file()


def test_a_bank_serves_its_own_layout_alone(file_run, run, study, tmp_path):
    fit = read_json(file_run / "bank" / "manifest.json")["fit"]
    assert (fit["slice_layout"], fit["orientation"]) == ("file", "ARS")
    with pytest.raises(InputError, match=r"bank bank: made for a different slice_layout \(file, not ras\)"):
        segment_with_run(run, [study], tmp_path, bank=file_run / "bank")
    with pytest.raises(InputError, match=r"bank bank: made for a different slice_layout \(ras, not file\)"):
        segment_with_run(file_run, [study], tmp_path, bank=run / "bank")


def test_a_run_of_an_earlier_version_takes_no_bank_of_another_layout(file_run, run, study, tmp_path):
    """Its config does not name the layout: slices were [X, Y] of RAS."""
    earlier = tmp_path / "earlier"
    shutil.copytree(run, earlier)
    config = earlier / "configs" / "inference.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "slice_layout" not in line))
    case = load_datalist(study).section("test")[0]
    segment_with_run(earlier, [case.image], tmp_path / "a")
    segment_with_run(run, [case.image], tmp_path / "b")
    ours, theirs = (np.asarray(nib.load(tmp_path / name / case.image.name).dataobj) for name in "ab")
    assert np.array_equal(ours, theirs)
    with pytest.raises(InputError, match=r"bank bank: made for a different slice_layout \(file, not ras\)"):
        segment_with_run(earlier, [study], tmp_path / "c", bank=file_run / "bank")


def saved_case(folder, name, steps):
    affine = np.diag([*steps, 1.0])
    image, label = np.zeros((4, 3, 6), np.float32), np.zeros((4, 3, 6), np.uint8)
    image[..., 0], label[1, 1, 0] = 1, 1
    for kind, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}-{kind}.nii")
    return Case(name, name, folder / f"{name}-image.nii", folder / f"{name}-label.nii")


def test_slices_are_numbered_from_feet_to_head_however_they_are_stored(tmp_path):
    case = saved_case(tmp_path, "a", (-1, -1, -1))  # LPI: the first slice of the file is the highest
    card = load_card("hippocampus")
    dataset = SliceDataset([case], card, preprocessing(slice_layout="file"), image_size=16, context_slices=0)
    (item,) = (dataset[index] for index in range(6) if dataset[index]["label"].any())
    assert (item["slice"], item["height"]) == (5, 1.0)
    assert "sides_axis" not in item
    heights = []
    volume = MetaTensor(torch.zeros(1, 3, 4, 6), affine=torch.diag(torch.tensor([-1.0, -1, -1, 1])))
    inferer = VolumeInferer(16, context_slices=0)

    class Supports:
        needs_embedding = False

        def require_orientation(self, volume):
            """Any will do."""

        def __call__(self, image, embedding, height):
            heights.extend(height.tolist())

    list(inferer.slabs(volume, lambda image, supports: image[:, :2], Supports()))
    assert heights == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])


def test_a_bank_needs_files_of_one_orientation(tmp_path):
    one, other = saved_case(tmp_path, "a", (1, 1, 1)), saved_case(tmp_path, "b", (-1, 1, 1))
    assert common_orientation([one, one]) == "ARS"
    with pytest.raises(InputError, match="b: its file's slices are laid out as ALS, those of a as ARS; for retrieval"):
        common_orientation([one, other])


def test_the_slice_fits_the_files_own_axes(tmp_path):
    array = np.zeros((8, 20, 40), np.float32)
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # S, A, R
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii")
    case = Case("a", "a", tmp_path / "a.nii", None)
    assert fitting_image_size([case], None, 2, "file") == 32  # 8 x 20
    assert fitting_image_size([case], None, 2, "ras") == 48  # 40 x 20
    assert fitting_image_size([case], [0.1, 1.0], 2, "file") == 80
