"""A volume whose slices answer prompts with the object that is meant, in pixels of the working volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ragsam.networks.prompts import INSIDE, OUTSIDE, BoxPrompts, PointPrompts, Prompts
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.transforms.in_plane import own_grid
from ragsam.transforms.prompt_windows import Window, windows_around
from ragsam.transforms.restoring import ToImageGridd
from ragsam.transforms.slicing import slice_channels
from ragsam.transforms.voxel_prompts import MASK_LOGIT, SliceBox, SlicePoint, SlicePrompts

#: Windows whose embeddings are kept: enough for an object that is being clicked at, not for a whole volume.
_MOST_EMBEDDINGS = 16


@dataclass(frozen=True)
class SliceMask:
    """An object in a slice.

    Attributes:
        logits: [H, W], of the working volume's slice, positive in the object.
        quality: the network's estimate of the mask's intersection over union.
    """

    logits: Tensor
    quality: float

    @property
    def mask(self) -> Tensor:
        """The object [H, W], bool."""
        return self.logits > 0


class PromptedVolume:
    """Answers prompts in the slices of a preprocessed volume; the latest windows are not encoded again.

    Args:
        network: a `Segmenter` that answers prompts.
        volume: [1, H, W, D], 0-1.
        image_size: side of the network's window, pixels.
        offsets: of a slice's channels, see `context_offsets`.
    """

    following = None

    def __init__(self, network: Segmenter, volume: Tensor, *, image_size: int, offsets: Sequence[float]) -> None:
        self.network = network.eval()
        self.image_size = image_size
        self.offsets = tuple(offsets)
        self.voxels = volume[0].as_subclass(Tensor)
        self.depth = self.voxels.shape[-1]
        self._embedded: dict[tuple[int, Window], Embedded] = {}

    @torch.no_grad()
    def answer(self, number: int, prompts: SlicePrompts) -> SliceMask:
        """Return the object that prompts mean in a slice.

        For a lone click it is the best of SAM's three masks, otherwise the first. Prompts that spread over more than a
        window are answered window by window, the logits averaged where windows overlap; outside all windows there is no
        object. The quality is the mean over windows.
        """
        shape = self.voxels.shape[:2]
        device = self.voxels.device
        mask_size = self.network.sam.prompt_encoder.mask_input_size
        total = torch.zeros(shape, device=device)
        count = torch.zeros_like(total)
        qualities = []
        for window in windows_around(shape, self.image_size, prompted_region(prompts)):
            asked = window_prompts(prompts, window, mask_size, device)
            if asked is None:
                continue
            masks = self.network.decode_prompted(self._embed(number, window), asked)
            best = masks.choose(ambiguous=prompts.ambiguous)
            inner = window.inner(shape)
            total[inner] += window.own(best.logits[0, 0].float(), shape)
            count[inner] += 1
            qualities.append(float(best.quality[0, 0]))
        logits = torch.where(count > 0, total / count.clamp_min(1), -MASK_LOGIT)
        return SliceMask(logits, sum(qualities) / len(qualities))

    def _embed(self, number: int, window: Window) -> Embedded:
        key = (number, window)
        if key not in self._embedded:
            image = window.cut(slice_channels(self.voxels, number, self.offsets))[None].float()
            self._embedded[key] = self.network.embed(image)
            if len(self._embedded) > _MOST_EMBEDDINGS:
                oldest = next(iter(self._embedded))
                del self._embedded[oldest]
        return self._embedded[key]


def window_prompts(
    prompts: SlicePrompts, window: Window, mask_size: Sequence[int], device: torch.device
) -> Prompts | None:
    """Return a slice's prompts in the pixels of a window; None if none of them is in it.

    Args:
        mask_size: (2,), of a mask prompt at the decoder's resolution.
        device: where the network is.
    """
    points = _window_points(prompts.points, window, device)
    box = None
    if prompts.box is not None:
        box = _window_box(prompts.box, window, device)
    mask = None
    if prompts.mask is not None:
        cut = window.cut(prompts.mask.to(device), outside=-MASK_LOGIT)
        mask = coarse_logits(cut[None, None].float(), mask_size)
    if points or box or (mask is not None and (cut > 0).any()):
        return Prompts(points, box, mask)
    return None


def _window_points(points: Sequence[SlicePoint], window: Window, device: torch.device) -> PointPrompts | None:
    last = window.size - 0.5
    rows, columns, kinds = [], [], []
    for point in points:
        row = point.row - window.row
        column = point.column - window.column
        if -0.5 <= row <= last and -0.5 <= column <= last:
            rows.append(row)
            columns.append(column)
            kinds.append(INSIDE if point.inside else OUTSIDE)
    if not rows:
        return None
    return PointPrompts(
        torch.tensor([rows], device=device),
        torch.tensor([columns], device=device),
        torch.tensor([kinds], device=device),
    )


def _window_box(box: SliceBox, window: Window, device: torch.device) -> BoxPrompts | None:
    last = window.size - 1
    top = max(box.top - window.row, 0)
    left = max(box.left - window.column, 0)
    bottom = min(box.bottom - window.row, last)
    right = min(box.right - window.column, last)
    if top > bottom or left > right:
        return None
    sides = torch.tensor([[top], [left], [bottom], [right]], device=device)
    return BoxPrompts(*sides)


def prompted_region(prompts: SlicePrompts) -> tuple[float, float, float, float]:
    """Return the outermost rows and columns of prompts in a slice: top, left, bottom, right.

    Raises:
        ValueError: no points, no box, and no mask or an empty one.
    """
    rows = [point.row for point in prompts.points]
    columns = [point.column for point in prompts.points]
    boxes = [prompts.box]
    if prompts.mask is not None:
        boxes.append(mask_box(prompts.mask > 0))
    for box in filter(None, boxes):
        rows += [box.top, box.bottom]
        columns += [box.left, box.right]
    if not rows:
        raise ValueError("no prompt in the slice: give points, a box or a mask that is not empty")
    return min(rows), min(columns), max(rows), max(columns)


def mask_box(mask: Tensor, margin: float = 0.0) -> SliceBox | None:
    """Return the box around a mask [H, W], wider by a margin in pixels within the slice; None for an empty mask."""
    rows = mask.any(1).nonzero().flatten().tolist()
    columns = mask.any(0).nonzero().flatten().tolist()
    if not rows:
        return None
    height, width = mask.shape
    return SliceBox(
        max(rows[0] - margin, 0),
        max(columns[0] - margin, 0),
        min(rows[-1] + margin, height - 1),
        min(columns[-1] + margin, width - 1),
    )


def coarse_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits [..., S, S] averaged to the decoder's resolution (2,)."""
    return adaptive_avg_pool2d(logits.clamp(-MASK_LOGIT, MASK_LOGIT), tuple(size))


def on_image_grid(volume: Tensor, masks: Mapping[int, SliceMask]) -> NDArray[np.bool_]:
    """Return an object's masks, by number of slice, on the grid of the image's file: [X, Y, Z], bool.

    Args:
        volume: [1, H, W, D], preprocessed, with its applied operations.
    """
    _, height, width, depth = volume.shape
    own = own_grid(volume)
    if own is not None:
        height, width = own.shape
    whole = torch.zeros((1, height, width, depth), dtype=torch.uint8)
    for number, found in masks.items():
        logits = found.logits.cpu()
        if own is not None:
            logits = own.restore(logits)
        whole[0, ..., number] = logits > 0
    restored = ToImageGridd()({"pred": whole, "image": volume})["pred"]
    return restored[0].numpy().astype(bool)
