"""From files to oriented volumes and back to the files' own grid."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ragsam.errors import InputError
from ragsam.transforms import postprocessing, preprocessing
from ragsam.transforms.in_plane import own_grid
from ragsam.transforms.restoring import ToImageGridd

CLASSES = 3
SHAPE = (9, 12, 7)
SPACING = np.array([0.8, 1.3, 3.0])


def rotation(degrees, axis):
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


DIRECTIONS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "LAI": np.diag([-1.0, 1.0, -1.0]),
    "sagittal": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "coronal flipped": np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "oblique": rotation(20, 0) @ rotation(-13, 2),
    "oblique LPS": rotation(17, 1) @ rotation(8, 0) @ np.diag([-1.0, -1.0, 1.0]),
    "oblique sagittal": rotation(12, 2) @ np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
}


def affine_of(direction, spacing=SPACING):
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS[direction] * spacing
    affine[:3, 3] = [-31.5, 12.25, 101.0]
    return affine


def write(folder, direction, shape=SHAPE, spacing=SPACING):
    """A smooth image and a label of balls, so that resampling can be judged."""
    draw = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij"))
    label = np.zeros(shape, np.uint8)
    label[np.linalg.norm(grid - np.array([0.4, 0.3, 0.0])[:, None, None, None], axis=0) < 0.5] = 1
    label[np.linalg.norm(grid + np.array([0.5, 0.4, 0.0])[:, None, None, None], axis=0) < 0.4] = 2
    image = (label * 60 + draw.normal(0, 20, shape)).astype(np.int16)
    affine = affine_of(direction, spacing)
    nib.save(nib.Nifti1Image(image, affine), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), folder / "label.nii.gz")
    return {"image": str(folder / "image.nii.gz"), "label": str(folder / "label.nii.gz")}


def back(item, **options):
    """Give the label back as an inferer does: classes chosen where the slices lay before they were resampled."""
    label, own = item["label"][0].as_tensor().long(), own_grid(item["image"])
    logits = torch.nn.functional.one_hot(label, CLASSES).permute(2, 3, 0, 1) * 8.0 - 4.0
    if own is not None and options.get("restore_grid", True):
        logits = own.restore(logits)
    labels = logits.argmax(1).movedim(0, -1)[None].to(torch.uint8)
    return postprocessing(**options)({"image": item["image"], "pred": labels})["pred"]


@pytest.fixture(params=DIRECTIONS)
def direction(request):
    return request.param


def test_volumes_are_oriented_to_ras_as_nibabel_does_it(tmp_path, direction):
    files = write(tmp_path, direction)
    item = preprocessing(window=(-125.0, 275.0))(files)
    for key in files:
        closest = nib.as_closest_canonical(nib.load(files[key]))
        expected = closest.get_fdata()
        if key == "image":
            expected = np.clip((expected + 125) / 400, 0, 1)
        assert isinstance(item[key], MetaTensor)
        assert item[key].shape == (1, *closest.shape)
        np.testing.assert_allclose(item[key][0].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(item[key].affine.numpy(), closest.affine, atol=1e-5)


@pytest.mark.parametrize("keys", [("image", "label"), ("image",)])
def test_a_label_comes_back_on_its_own_grid(tmp_path, direction, keys):
    """Also through a chain of the image alone, as inference has it."""
    files = write(tmp_path, direction)
    item = preprocessing()(files)
    chain = preprocessing(keys=keys)
    image = chain({key: files[key] for key in keys})
    restored = back({"image": image["image"], "label": item["label"]})
    original = nib.load(files["label"])
    assert restored.shape == (1, *original.shape)
    np.testing.assert_array_equal(restored[0].numpy(), original.get_fdata())
    np.testing.assert_allclose(restored.affine.numpy(), original.affine, atol=1e-5)


def test_the_chain_and_the_hand_agree_on_an_asymmetric_voxel(tmp_path):
    """One voxel at the patient's left, back and bottom, in a file stored from left to right: RAS turns it around."""
    label = np.zeros((4, 5, 6), np.uint8)
    label[3, 4, 0] = 1
    nib.save(nib.Nifti1Image(label, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "a.nii.gz")
    item = preprocessing(keys=("image",), window=(0, 1))({"image": str(tmp_path / "a.nii.gz")})
    assert torch.nonzero(item["image"][0].as_tensor()).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("spacing_mm", [(1.6, 1.6), (0.5, 0.9)])
def test_spacing_resamples_within_slices_alone(tmp_path, direction, spacing_mm):
    files = write(tmp_path, direction, shape=(21, 24, 17))
    plain, item = preprocessing()(files), preprocessing(spacing_mm=spacing_mm)(files)
    for key in files:
        before = np.linalg.norm(plain[key].affine[:3, :3].numpy(), axis=0)
        after = np.linalg.norm(item[key].affine[:3, :3].numpy(), axis=0)
        assert item[key].shape[-1] == plain[key].shape[-1]
        np.testing.assert_allclose(after, [*spacing_mm, before[2]], rtol=1e-5)
        for axis in (0, 1):
            extent_mm = (plain[key].shape[1 + axis] - 1) * before[axis]
            assert abs(item[key].shape[1 + axis] - (extent_mm / spacing_mm[axis] + 1)) <= 1
    assert item["label"].shape == item["image"].shape
    assert set(item["label"].unique().tolist()) == {0.0, 1.0, 2.0}
    assert 0 <= item["image"].min() <= item["image"].max() <= 1


def test_a_resampled_label_comes_back_on_its_own_grid(tmp_path, direction):
    files = write(tmp_path, direction, shape=(31, 34, 27))
    chain = preprocessing(spacing_mm=(1.0, 1.0))
    restored = back(chain(files))
    original = nib.load(files["label"])
    assert restored.shape == (1, *original.shape)
    np.testing.assert_allclose(restored.affine.numpy(), original.affine, atol=1e-5)
    ours, theirs = restored[0].numpy(), original.get_fdata()
    for organ in (1, 2):
        both = 2 * np.sum((ours == organ) & (theirs == organ)) / (np.sum(ours == organ) + np.sum(theirs == organ))
        assert both > 0.9, organ


def test_without_restoring_the_grid_stays_the_working_one(tmp_path):
    chain = preprocessing(spacing_mm=(2.0, 2.0))
    item = chain(write(tmp_path, "LPS", shape=(20, 20, 6)))
    out = back(item, restore_grid=False)
    assert out.shape == item["label"].shape
    assert torch.equal(out.float(), item["label"].as_tensor().float())


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0)])
def test_a_volume_of_one_slice_goes_there_and_back(tmp_path, spacing_mm):
    files = write(tmp_path, "LPS", shape=(16, 18, 1))
    chain = preprocessing(spacing_mm=spacing_mm)
    item = chain(files)
    assert item["image"].shape[-1] == 1
    restored = back(item)
    assert restored.shape == (1, 16, 18, 1)
    if spacing_mm is None:
        np.testing.assert_array_equal(restored[0].numpy(), nib.load(files["label"]).get_fdata())


def test_without_a_window_percentiles_are_taken(tmp_path):
    files = write(tmp_path, "RAS")
    first = preprocessing()(files)["image"]
    image = nib.load(files["image"])
    louder = nib.Nifti1Image((image.get_fdata() * 5 + 1000).astype(np.int16), image.affine)
    nib.save(louder, tmp_path / "louder.nii.gz")
    second = preprocessing(keys=("image",))({"image": str(tmp_path / "louder.nii.gz")})["image"]
    torch.testing.assert_close(second.as_tensor(), first.as_tensor(), rtol=0, atol=1e-4)


def test_a_volume_that_is_not_on_the_slices_is_refused(tmp_path):
    item = preprocessing(spacing_mm=(2.0, 2.0))(write(tmp_path, "LPS", shape=(20, 20, 6)))
    with pytest.raises(ValueError, match=r"pred is \(8, 13, 6\), the image's slices are \(20, 20, 6\)"):
        ToImageGridd()({"image": item["image"], "pred": torch.zeros(1, 8, 13, 6)})
    with pytest.raises(ValueError, match="the image carries no affine"):
        ToImageGridd()({"image": torch.zeros(1, 20, 20, 6), "pred": torch.zeros(1, 20, 20, 6)})


def test_maps_are_told_apart():
    pred = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    chain = {flag: postprocessing(restore_grid=False, uncertainty=flag) for flag in (False, True)}
    alone = chain[False]({"pred": pred[:1]})
    assert set(alone) == {"pred"}
    both = {name: volume.flatten().tolist() for name, volume in chain[True]({"pred": pred}).items()}
    assert both == {"pred": [0], "uncertainty": [1], "probabilities": [2, 3]}
    assert chain[False]({"pred": pred})["probabilities"].flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("options", [{"pieces": {1: (1, 0.0)}}, {"fill_holes": True}])
def test_options_that_are_gone_are_off_in_configs_of_before_or_refused(options):
    postprocessing(**dict.fromkeys(options))
    with pytest.raises(InputError, match="keep_pieces and fill_holes are gone"):
        postprocessing(**options)
