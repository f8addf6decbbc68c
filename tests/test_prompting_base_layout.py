"""Weights of `ragsam import` that answer prompts without a run see slices as they were trained."""

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import affine_of

from ragsam.api.import_weights import import_weights
from ragsam.data.datalist import Case
from ragsam.networks.sam import build_sam
from ragsam.prompting.prompted_base import PromptedBase


@pytest.mark.parametrize(
    ("kind", "layout", "axes"),
    [("medsam", None, (1, 0, 2)), ("medsam", "ras", (0, 1, 2)), ("sam", None, None)],
)
def test_slices_lie_as_the_weights_say(tmp_path, kind, layout, axes):
    """A file stored RAS: as stored, as RAS, or, for SAM's own weights, as radiologists see it."""
    torch.save(build_sam("vit_tiny", image_size=32).state_dict(), tmp_path / "sam.pth")
    import_weights(kind, tmp_path / "sam.pth", output=tmp_path / "a.safetensors", slice_layout=layout)
    voxels = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
    nib.save(nib.Nifti1Image(voxels, affine_of()), tmp_path / "a.nii")
    case = Case("a", "a", tmp_path / "a.nii", None)
    volume = PromptedBase(tmp_path / "a.safetensors", window=(0, 23)).volume(case)
    expected = np.flip(voxels, (0, 1)).transpose(1, 0, 2) if axes is None else voxels.transpose(axes)
    np.testing.assert_allclose(volume[0].numpy() * 23, expected, atol=1e-4)
