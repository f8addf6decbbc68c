"""A volume, its slices, and back: the identity, whatever the orientation, the axis, the size and the windows."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.data.slices import SliceDataset
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.transforms import postprocessing, preprocessing
from ragsam.transforms.slicing import SLICE_AXCODES

CLASSES = 3  # the phantom card's first organs do for a label
SIDES = st.integers(1, 9)
#: The 48 ways in which a file's axes may lie along the body's.
ORIENTATIONS = [
    np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]


def tilted(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def write(path, array, orientation, degrees):
    affine = np.eye(4)
    affine[:3, :3] = tilted(degrees) @ orientation @ np.diag([0.7, 1.2, 2.5])
    affine[:3, 3] = [-12.5, 40.0, 3.25]
    nib.save(nib.Nifti1Image(array, affine), path)
    return affine


def recognise(windows):
    """A network that needs no training: an intensity of k / 3 in the middle channel is class k."""
    middle = (windows[:, windows.shape[1] // 2] * CLASSES).round().long()
    return torch.nn.functional.one_hot(middle, CLASSES + 1).movedim(-1, 1) * 8.0 - 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


@settings(deadline=None, max_examples=120)
@given(
    shape=st.tuples(SIDES, SIDES, SIDES),
    orientation=st.sampled_from(range(len(ORIENTATIONS))),
    degrees=st.sampled_from([0.0, 14.0]),
    slice_axis=st.integers(0, 2),
    window=st.integers(4, 11),
    context=st.tuples(st.integers(0, 2), st.sampled_from([None, 0.9, 4.0])),
    shift=st.sampled_from([0, 0, 2]),
    seed=st.integers(0, 2**16),
)
def test_a_volume_comes_back_through_slices_and_windows(
    folder, shape, orientation, degrees, slice_axis, window, context, shift, seed
):
    voxels = np.random.default_rng(seed).integers(0, CLASSES + 1, shape).astype(np.uint8)
    affine = write(folder / "image.nii", voxels, ORIENTATIONS[orientation], degrees)
    chain = preprocessing(window=(0, CLASSES), slice_axis=slice_axis, keys=("image",))
    item = chain({"image": str(folder / "image.nii")})
    inferer = VolumeInferer(
        window, batch_size=3, context_slices=context[0], context_distance_mm=context[1], shift=shift
    )
    labels = inferer(item["image"][None], recognise)[0]
    pred = postprocessing()({"image": item["image"], "pred": labels})["pred"]
    np.testing.assert_array_equal(pred[0].numpy(), voxels)
    np.testing.assert_allclose(pred.affine.numpy(), affine, atol=1e-5)


def stacked(dataset, shape):
    """Put the items of a plain dataset back to the volume that they were cut from: (image, label), [H, W, D]."""
    image, label = torch.full(shape, torch.nan), torch.full(shape, -1)
    for key, item in zip(dataset.keys, (dataset[index] for index in range(len(dataset))), strict=True):
        place, plane = key.window, item["image"][item["image"].shape[0] // 2]
        sides = [part.stop - part.start for part in place]
        inside = tuple(
            slice((full - side) // 2, (full - side) // 2 + side) for full, side in zip(plane.shape, sides, strict=True)
        )
        image[(*place, key.slice)], label[(*place, key.slice)] = plane[inside], item["label"][0][inside]
    return image, label


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(SIDES, SIDES, SIDES),
    orientation=st.sampled_from(range(len(ORIENTATIONS))),
    slice_axis=st.integers(0, 2),
    image_size=st.integers(2, 11),
    seed=st.integers(0, 2**16),
)
def test_the_slices_of_a_bank_put_together_are_the_volume(folder, shape, orientation, slice_axis, image_size, seed):
    voxels = np.random.default_rng(seed).integers(0, CLASSES + 1, shape).astype(np.uint8)
    for name in ("image.nii", "label.nii"):
        write(folder / name, voxels, ORIENTATIONS[orientation], 0.0)
    case = Case("a", "p", folder / "image.nii", folder / "label.nii")
    chain = preprocessing(window=(0, CLASSES), slice_axis=slice_axis)
    dataset = SliceDataset([case], load_card("phantom"), chain, image_size=image_size)
    source = nib.load(folder / "label.nii")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(source.affine), nib.orientations.axcodes2ornt(SLICE_AXCODES[slice_axis])
    )
    expected = nib.orientations.apply_orientation(voxels, turn)
    image, label = stacked(dataset, expected.shape)
    np.testing.assert_array_equal(label.numpy(), expected)
    np.testing.assert_allclose(image.numpy() * CLASSES, expected, atol=CLASSES * 2**-11)
