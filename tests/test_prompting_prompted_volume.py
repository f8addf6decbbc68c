"""Prompts in a volume: SAM's own answers on whole slices, whatever the file's axes, and windows in large slices."""

import nibabel as nib
import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from small_study import affine_of, flipped
from test_networks_prompts import segment_anything_sam

from ragsam.networks import Segmenter
from ragsam.networks.prompts import PromptedMasks
from ragsam.prompting.prompted_volume import (
    PromptedVolume,
    SliceMask,
    coarse_logits,
    mask_box,
    on_image_grid,
    window_prompts,
)
from ragsam.transforms import preprocessing
from ragsam.transforms.prompt_windows import Window
from ragsam.transforms.voxel_prompts import (
    MASK_LOGIT,
    SliceBox,
    SliceGrid,
    SlicePoint,
    SlicePrompts,
    VoxelBox,
    VoxelPoint,
    VoxelPrompts,
    prompts_by_slice,
)

SIZE, DEPTH = 64, 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A SAM of segment-anything with random weights, and our network on its saved state dict."""
    torch.manual_seed(0)
    sam = segment_anything_sam(SIZE)
    path = tmp_path_factory.mktemp("base") / "sam.pth"
    torch.save(sam.state_dict(), path)
    return sam, Segmenter(2, image_size=SIZE, base=path, prompts="base", normalisation="sam").eval()


def volume_of(folder, axes=(), **options):
    """Return (array as stored, preprocessed volume) of a random volume whose array axes `axes` run the other way."""
    array = np.random.default_rng(0).random((SIZE, SIZE, DEPTH)).astype(np.float32)
    array, affine = flipped(array, affine_of(), axes)
    nib.save(nib.Nifti1Image(array, affine), folder / "v.nii.gz")
    chain = preprocessing(window=(0, 1), keys=["image"], **options)
    return array, chain({"image": str(folder / "v.nii.gz")})["image"]


def predicted(sam, image, **prompts):
    """Return (logits [H, W], quality) of SamPredictor for an image [H, W]: one mask, or for a lone click the best."""
    predictor = SamPredictor(sam)
    slices = image[None, None].expand(1, 3, -1, -1)
    predictor.set_torch_image(slices * 255, (SIZE, SIZE))
    alone = set(prompts) == {"point_coords"} and prompts["point_coords"].shape[1] == 1
    labels = prompts.pop("point_labels", None)
    if "point_coords" in prompts and labels is None:
        labels = torch.ones(prompts["point_coords"].shape[:2])
    given = {"point_coords": None, **prompts, "point_labels": labels}
    logits, quality, _ = predictor.predict_torch(**given, multimask_output=alone, return_logits=True)
    best = int(quality[0].argmax())
    return logits[0, best], float(quality[0, best])


def asked(answering, grid, prompts, number):
    found = prompts_by_slice(grid, prompts, "case: object")
    assert list(found) == [number]
    return answering.answer(number, found[number])


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)], ids=str)
@torch.no_grad()
def test_a_whole_slice_answers_as_sam_predictor_does(pair, tmp_path, axes):
    """The input's axes run as they like: SAM sees what the file holds at i, j, k, its x being j and its y being i.

    The predictor is shown the slice as the network sees it, in RAS; prompts are in the file's own voxels.
    """
    sam, ours = pair
    array, volume = volume_of(tmp_path, axes)
    answering = PromptedVolume(ours, volume, image_size=SIZE, offsets=(0.0, 0.0, 0.0))
    grid, i, j, k = SliceGrid.of(volume), 10, 40, 0
    number = DEPTH - 1 - k if 2 in axes else k
    y, x = (SIZE - 1 - i if 0 in axes else i), (SIZE - 1 - j if 1 in axes else j)
    image = volume[0, ..., number].as_tensor()
    assert image[y, x] == pytest.approx(float(array[i, j, k]))
    point = torch.tensor([[[float(x), float(y)]]])

    found = asked(answering, grid, VoxelPrompts((VoxelPoint(i, j, k),)), number)
    check(found, predicted(sam, image, point_coords=point))

    box = VoxelBox((5, 20), (30, 50), (k, k))
    rows, columns = ([SIZE - 1 - b for b in reversed(ends)] if flip else ends
                     for ends, flip in (([5, 20], 0 in axes), ([30, 50], 1 in axes)))  # fmt: skip
    boxes = torch.tensor([[columns[0], rows[0], columns[1], rows[1]]], dtype=torch.float32)
    check(asked(answering, grid, VoxelPrompts(box=box), number), predicted(sam, image, boxes=boxes))

    mask = np.zeros(array.shape, bool)
    mask[4:24, 32:44, k] = True
    drawn = grid.slices(mask)[..., number]
    coarse = coarse_logits(torch.where(drawn, MASK_LOGIT, -MASK_LOGIT)[None, None], (32, 32))
    found = asked(answering, grid, VoxelPrompts((VoxelPoint(i, j, k, inside=False),), box, mask), number)
    labels = torch.zeros(1, 1)
    check(found, predicted(sam, image, point_coords=point, point_labels=labels, boxes=boxes, mask_input=coarse))


def check(found, expected):
    logits, quality = expected
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=1e-4)
    assert found.quality == pytest.approx(quality, abs=1e-4)


class Painter(torch.nn.Module):
    """Stands for a network: its mask is the prompted box, it counts encodings and remembers prompts."""

    def __init__(self, size):
        super().__init__()
        self.size, self.encodings, self.seen = size, 0, []
        self.sam = torch.nn.Module()
        self.sam.prompt_encoder = torch.nn.Module()
        self.sam.prompt_encoder.mask_input_size = (size // 2, size // 2)

    def embed(self, image):
        assert image.shape == (1, 3, self.size, self.size)
        self.encodings += 1
        return image

    def decode_prompted(self, embedded, prompts):
        self.seen.append((embedded, prompts))
        rows, columns = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        box = prompts.boxes
        inside = (rows >= box.top) & (rows <= box.bottom) & (columns >= box.left) & (columns <= box.right)
        logits = torch.where(inside, 1.0, -1.0)[None, None].expand(1, 4, -1, -1)
        return PromptedMasks(logits, logits, torch.full((1, 4), 0.5))


def test_a_box_larger_than_the_window_is_answered_window_by_window():
    network = Painter(16)
    answering = PromptedVolume(network, torch.rand(1, 40, 30, 2), image_size=16, offsets=(0, 0, 0))
    found = answering.answer(1, SlicePrompts(box=SliceBox(top=3, left=5, bottom=35, right=12)))
    expected = torch.zeros(40, 30, dtype=torch.bool)
    expected[3:36, 5:13] = True
    assert torch.equal(found.mask, expected)
    assert network.encodings > 1
    assert float(found.logits[39, 29]) == -MASK_LOGIT  # beyond all windows


def test_a_window_is_encoded_once():
    network = Painter(16)
    answering = PromptedVolume(network, torch.rand(1, 16, 12, 2), image_size=16, offsets=(0, 0, 0))
    for _ in range(3):
        answering.answer(0, SlicePrompts(box=SliceBox(1, 1, 4, 4)))
    assert network.encodings == 1
    answering.answer(1, SlicePrompts(box=SliceBox(1, 1, 4, 4)))
    assert network.encodings == 2


def test_prompts_are_moved_by_the_padding_of_a_small_slice():
    network = Painter(16)
    volume = torch.rand(1, 12, 16, 1)
    answering = PromptedVolume(network, volume, image_size=16, offsets=(0, 0, 0))
    answering.answer(0, SlicePrompts((SlicePoint(1, 2),), SliceBox(0, 3, 5, 7)))
    image, prompts = network.seen[0]
    assert (float(prompts.points.row), float(prompts.points.column)) == (3, 2)
    assert (float(prompts.boxes.top), float(prompts.boxes.left)) == (2, 3)
    assert image[0, 0, 3, 2] == volume[0, 1, 2, 0]


def test_prompts_that_lie_outside_a_window_are_left_out_of_it():
    window = Window(10, 10, 8)
    far, near = SlicePoint(0, 0), SlicePoint(12, 13, inside=False)
    found = window_prompts(SlicePrompts((far, near)), window, (4, 4), CPU)
    assert (found.points.row.tolist(), found.points.column.tolist(), found.points.kind.tolist()) == (
        [[2]],
        [[3]],
        [[0]],
    )
    assert window_prompts(SlicePrompts((far,)), window, (4, 4), CPU) is None
    assert window_prompts(SlicePrompts(box=SliceBox(0, 0, 9, 9)), window, (4, 4), CPU) is None
    mask = torch.full((30, 30), -1.0)
    mask[0, 0] = 1
    assert window_prompts(SlicePrompts(mask=mask), window, (4, 4), CPU) is None
    cut = window_prompts(SlicePrompts((near,), SliceBox(0, 0, 12, 40)), window, (4, 4), CPU).boxes
    assert [float(side) for side in (cut.top, cut.left, cut.bottom, cut.right)] == [0, 0, 2, 7]


def test_a_slice_without_prompts_is_refused():
    answering = PromptedVolume(Painter(16), torch.rand(1, 16, 16, 1), image_size=16, offsets=(0, 0, 0))
    for empty in (SlicePrompts(), SlicePrompts(mask=torch.full((16, 16), -1.0))):
        with pytest.raises(ValueError, match="no prompt in the slice"):
            answering.answer(0, empty)


def test_coarse_logits_are_the_mean_of_what_a_pixel_covers():
    logits = torch.tensor([[8.0, 8.0, -8.0, -8.0], [8.0, 0.0, -8.0, -100.0]])
    assert coarse_logits(logits[None], (1, 2)).tolist() == [[[6.0, -8.0]]]


def test_mask_box_by_hand():
    mask = torch.zeros(5, 6, dtype=torch.bool)
    assert mask_box(mask) is None
    mask[1, 4] = mask[3, 2] = True
    assert mask_box(mask) == SliceBox(1, 2, 3, 4)
    assert mask_box(mask, 1.5) == SliceBox(0, 0.5, 4, 5)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("spacing_mm", [None, (0.5, 0.5)])
def test_masks_come_back_to_the_voxels_that_they_lie_on(tmp_path, slice_axis, spacing_mm):
    array, affine = flipped(np.zeros((9, 7, 5), np.float32), affine_of(), (0, 2))
    array[2:5, 3:6, 1:3] = 1
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "v.nii.gz")
    chain = preprocessing(window=(0, 1), keys=["image"], slice_axis=slice_axis, spacing_mm=spacing_mm)
    volume = chain({"image": str(tmp_path / "v.nii.gz")})["image"]
    logits = volume[0].as_tensor() - 0.5
    masks = {n: SliceMask(logits[..., n], 1.0) for n in range(volume.shape[-1]) if (logits[..., n] > 0).any()}
    assert np.array_equal(on_image_grid(volume, masks), array > 0)
