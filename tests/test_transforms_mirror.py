"""Mirroring: what lies on the left goes to the right, and its name goes along."""

import nibabel as nib
import numpy as np
import pytest
import torch

from ragsam.errors import InputError
from ragsam.transforms import augmentation, preprocessing
from ragsam.transforms.mirror import RandMirrord, swap_classes, swap_values

#: Value 1 is left, 2 is right, 3 has no counterpart.
PAIRS = [(1, 2)]


def always(pairs=PAIRS):
    return RandMirrord(pairs, prob=1.0)


def test_values_and_classes_swap_by_hand():
    assert swap_values(torch.tensor([0, 1, 2, 3, 1]), PAIRS).tolist() == [0, 2, 1, 3, 2]
    assert swap_classes(torch.tensor([True, False, True, True]), PAIRS).tolist() == [True, True, False, True]
    assert swap_values(torch.tensor([1, 2, 3, 4]), [(1, 4), (2, 3)]).tolist() == [4, 3, 2, 1]
    assert swap_values(torch.tensor([0, 1, 2]), []).tolist() == [0, 1, 2]


def test_a_slice_of_two_rows_by_hand():
    """Rows run from left to right: the left organ 1 in the first row is the right organ 2 in the last one."""
    image, label = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]), torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    item = always()({"image": image, "label": label})
    torch.testing.assert_close(item["image"], torch.tensor([[[0.3, 0.4], [0.1, 0.2]]]))
    assert item["label"].tolist() == [[[0.0, 3.0], [2.0, 0.0]]]


def test_twice_is_the_identity():
    image, label = torch.rand(3, 5, 4), torch.randint(0, 4, (1, 5, 4)).float()
    item = {"image": image, "label": label, "annotated": torch.tensor([True, False, True, True])}
    once = always()(item)
    again = always()(once)
    assert all(torch.equal(again[name], item[name]) for name in item)
    assert once["annotated"].tolist() == [True, True, False, True]


@pytest.mark.parametrize("slice_axis", [1, 2])
def test_it_is_the_patient_that_is_mirrored(tmp_path, slice_axis):
    """The slice mirrored equals the slice of a file whose patient was mirrored, left and right renamed."""
    draw = np.random.default_rng(0)
    image, label = draw.normal(size=(6, 5, 4)).astype(np.float32), draw.integers(0, 4, (6, 5, 4)).astype(np.uint8)
    renamed = np.array([0, 2, 1, 3], np.uint8)[label]
    for name, array in (("image", image), ("label", label), ("image_m", image[::-1]), ("label_m", renamed[::-1])):
        nib.save(nib.Nifti1Image(np.ascontiguousarray(array), np.eye(4)), tmp_path / f"{name}.nii")
    chain = preprocessing(window=(-2, 2), slice_axis=slice_axis)
    item, expected = (
        chain({key: str(tmp_path / f"{key}{end}.nii") for key in ("image", "label")}) for end in ("", "_m")
    )
    mirrored = always()({key: item[key].as_tensor()[..., 1] for key in ("image", "label")})
    for key in ("image", "label"):
        assert torch.equal(mirrored[key].float(), expected[key].as_tensor()[..., 1].float())


def test_half_of_the_slices_are_mirrored():
    chain = augmentation(affine=0, contrast=0, intensity=0, noise=0, mirror=True, left_right=PAIRS).set_random_state(0)
    image, label = torch.rand(3, 6, 6), torch.randint(0, 4, (1, 6, 6)).float()
    same = [torch.equal(chain({"image": image, "label": label})["image"], image) for _ in range(400)]
    assert 0.42 < np.mean(same) < 0.58


def test_sagittal_slices_show_no_sides():
    with pytest.raises(InputError, match="mirror: sagittal slices have no left and right"):
        augmentation(mirror=True, slice_axis=0)
    augmentation(mirror=False, slice_axis=0)
