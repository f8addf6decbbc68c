"""Labels chosen a slab at a time are those of the whole volume's logits, brought back by MONAI as a whole."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.inferers import SliceInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from ragsam.inference import volume_inferer as inferers
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.io.read_volume import LoadVolumed
from ragsam.transforms import postprocessing, preprocessing
from ragsam.transforms.in_plane import InPlaneSpacingd
from ragsam.transforms.slicing import SLICE_AXCODES, context_offsets, slice_channels, slice_height

CLASSES = 4  # with background
SIDES = st.integers(1, 9)
SPACING_MM = (0.7, 1.2, 2.5)
ORIENTATIONS = [
    np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]
KERNEL = torch.randn(CLASSES, 3, 3, 3, generator=torch.Generator().manual_seed(0))


class Heights:
    """Stands for the supports of a volume: those of a slice are its height."""

    needs_embedding = False

    def require_orientation(self, volume):
        """Any will do."""

    def __call__(self, image, embedding, height):
        return height


def network(windows, supports):
    """Logits that look at the neighbourhood, at the context channels, and at the height."""
    height = supports
    return F.conv2d(windows, KERNEL, padding=1) + torch.outer(height, torch.arange(CLASSES) - 1.5)[:, :, None, None]


def tilted(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def write(path, shape, orientation, degrees, seed=0):
    affine = np.eye(4)
    affine[:3, :3] = tilted(degrees) @ ORIENTATIONS[orientation] @ np.diag(SPACING_MM)
    affine[:3, 3] = [-12.5, 40.0, 3.25]
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8), affine), path)
    return affine


def whole(path, slice_axis, resampling, window, batch_size):
    """Return (labels, margin): the classes of the whole volume's logits on the image's grid, by MONAI's own parts.

    The margin is by how much the largest logit of a voxel is above the next.

    Args:
        resampling: transforms, invertible.
    """
    steps = [
        LoadVolumed("image", image_only=True),
        EnsureChannelFirstd("image", channel_dim="no_channel"),
        Orientationd("image", axcodes=SLICE_AXCODES[slice_axis], labels=None),
    ]
    steps += [*resampling, ScaleIntensityRanged("image", 0, 255, 0, 1, clip=True), EnsureTyped("image", dtype=None)]
    chain = Compose(steps)
    item = chain({"image": str(path)})
    volume, depth = item["image"].as_tensor()[0], item["image"].shape[-1]
    channels = torch.stack([slice_channels(volume, z, context_offsets(1)) for z in range(depth)], dim=-1)
    heights = torch.tensor([slice_height(z, depth) for z in range(depth)]).expand(1, *volume.shape)
    inferer = SliceInferer(
        spatial_dim=2, roi_size=(window, window), sw_batch_size=batch_size, overlap=0.25, mode="gaussian"
    )
    logits = inferer(torch.cat([channels, heights])[None], lambda x: network(x[:, :3], x[:, 3].amax((1, 2))))[0]
    back = Compose(
        [
            EnsureTyped("pred", dtype=None, track_meta=True),
            Invertd("pred", transform=chain, orig_keys="image", nearest_interp=False, to_tensor=True),
        ]
    )
    restored = back({"image": item["image"], "pred": logits})
    best = restored["pred"].as_tensor().topk(2, dim=0).values
    return AsDiscreted("pred", argmax=True)(restored)["pred"][0], best[0] - best[1]


def by_slab(path, slice_axis, spacing_mm, window, batch_size):
    """Return the labels and their affine, the way that inference goes."""
    chain = preprocessing(window=(0, 255), spacing_mm=spacing_mm, slice_axis=slice_axis, keys=("image",))
    item = chain({"image": str(path)})
    labels = VolumeInferer(window, batch_size=batch_size)(item["image"][None], network, supports=Heights())[0]
    assert labels.dtype == torch.uint8
    pred = postprocessing()({"image": item["image"], "pred": labels})["pred"]
    assert pred.dtype == torch.uint8
    return pred[0], pred.affine.numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slabs")


@pytest.fixture(scope="module", autouse=True)
def _thin_slabs():
    """Slabs of three slices, so that small volumes have several, the last one thinner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inferers, "SLAB", 3)
        yield


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(SIDES, SIDES, SIDES),
    orientation=st.sampled_from(range(len(ORIENTATIONS))),
    degrees=st.sampled_from([0.0, 14.0]),
    slice_axis=st.integers(0, 2),
    spacing_mm=st.sampled_from([None, None, (0.83, 1.37), (1.9, 0.61)]),
    window=st.integers(3, 11),
    batch_size=st.integers(2, 5),
    seed=st.integers(0, 2**16),
)
def test_slabs_give_the_labels_of_the_whole(
    folder, shape, orientation, degrees, slice_axis, spacing_mm, window, batch_size, seed
):
    affine = write(folder / "x.nii", shape, orientation, degrees, seed)
    labels, found = by_slab(folder / "x.nii", slice_axis, spacing_mm, window, batch_size)
    resampling = []
    if spacing_mm is not None:
        # In an oblique file MONAI begins its grid half a pixel elsewhere, since the affine's columns, which the file
        # has in 32 bits, are a hair off square.
        oblique = InPlaneSpacingd("image", spacing_mm)
        resampling = [oblique if degrees else Spacingd("image", pixdim=(*spacing_mm, -1.0), mode="bilinear")]
    expected, margin = whole(folder / "x.nii", slice_axis, resampling, window, batch_size)
    assert labels.shape == shape
    np.testing.assert_allclose(found, affine, atol=1e-5)
    # The order of additions differs, and MONAI finds places by multiplying affines: where two classes are as good as
    # alike, either may win.
    clear = margin > (1e-5 if spacing_mm is None else 1e-3)
    assert clear.float().mean() > 0.9 or clear.numel() < 100
    assert torch.equal(labels[clear].long(), expected[clear].long())


@pytest.mark.parametrize("spacing_mm", [None, (0.83, 1.37)])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_volumes_go_the_same_way_through_a_loader(folder, slice_axis, spacing_mm):
    """Ignite gives a batch that a loader has collated; MONAI Label adds an axis and takes it off."""
    write(folder / "y.nii", (9, 7, 8), 17, 14.0)
    alone, _ = by_slab(folder / "y.nii", slice_axis, spacing_mm, 6, 4)
    chain = preprocessing(window=(0, 255), spacing_mm=spacing_mm, slice_axis=slice_axis, keys=("image",))
    loader = DataLoader(Dataset([{"image": str(folder / "y.nii")}] * 2, chain), batch_size=2)
    (batch,) = loader
    batch["pred"] = VolumeInferer(6, batch_size=4)(batch["image"], network, supports=Heights())
    for item in decollate_batch(batch):
        assert torch.equal(postprocessing()(item)["pred"][0].as_tensor(), alone.as_tensor())


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 15), st.integers(1, 15), st.integers(1, 4)),
    spacing_mm=st.sampled_from([(0.83, 1.37), (1.9, 0.61), (0.7, 5.0), (0.7004, 1.2)]),
    seed=st.integers(0, 2**16),
)
def test_resampling_within_slices_is_that_of_monai(shape, spacing_mm, seed):
    affine = np.diag([*SPACING_MM, 1.0])
    voxels = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed))
    theirs = Spacingd("image", pixdim=(*spacing_mm, -1.0))({"image": MetaTensor(voxels, affine=affine)})["image"]
    ours = InPlaneSpacingd("image", spacing_mm)({"image": MetaTensor(voxels, affine=affine)})["image"]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.affine, theirs.affine, atol=1e-9, rtol=0)


def test_slices_are_resampled_on_the_device_that_is_named():
    image = MetaTensor(torch.rand(1, 9, 8, 40), affine=np.diag([*SPACING_MM, 1.0]))
    chain = preprocessing(spacing_mm=(0.83, 1.37), device="meta")
    (resampling,) = (step for step in chain.transforms if isinstance(step, InPlaneSpacingd))
    with pytest.raises(NotImplementedError, match="meta tensor"):  # what went there cannot come back
        resampling({"image": image})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_resamples_as_the_cpu():
    image = MetaTensor(torch.rand(1, 90, 80, 70), affine=np.diag([*SPACING_MM, 1.0]))
    here, there = (InPlaneSpacingd("image", (0.83, 1.37), device=d)({"image": image})["image"] for d in (None, "cuda"))
    assert there.device == here.device
    torch.testing.assert_close(there.as_tensor(), here.as_tensor(), atol=1e-5, rtol=0)


def test_an_oblique_volume_is_resampled_as_a_straight_one():
    voxels, turn = torch.rand(1, 9, 8, 3), np.eye(4)
    turn[:3, :3] = tilted(14.0)
    affine = np.diag([*SPACING_MM, 1.0])
    chain = InPlaneSpacingd("image", (0.83, 1.37))
    straight = chain({"image": MetaTensor(voxels, affine=affine)})["image"]
    oblique = chain({"image": MetaTensor(voxels, affine=turn @ affine)})["image"]
    torch.testing.assert_close(oblique.as_tensor(), straight.as_tensor(), atol=1e-6, rtol=0)
    np.testing.assert_allclose(oblique.affine.numpy(), turn @ straight.affine.numpy(), atol=1e-9)
    back = chain.inverse({"image": oblique})["image"]
    assert back.shape == voxels.shape
    np.testing.assert_allclose(back.affine.numpy(), turn @ affine)
