"""A volume whose slices answer prompts: the object that is meant, on the working volume's pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
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

#: Windows whose embeddings are kept: those of an object that is being clicked at, not those of a whole volume.
_KEPT = 16


@dataclass(frozen=True)
class SliceMask:
    """An object in a slice.

    Attributes:
        logits: [H, W], of the working volume's slice; the object is where they are above 0.
        quality: the network's estimate of the mask's intersection over union.
    """

    logits: Tensor
    quality: float

    @property
    def mask(self) -> Tensor:
        return self.logits > 0


class PromptedVolume:
    """Answers prompts in the slices of one preprocessed volume. The windows last asked are not encoded again.

    Args:
        network: a `Segmenter` that answers prompts.
        volume: [1, H, W, D], 0-1.
        image_size: side of the network's window, pixels.
        offsets: of a slice's channels, see `context_offsets`.
    """

    def __init__(self, network: Segmenter, volume: Tensor, *, image_size: int, offsets: Sequence[float]) -> None:
        self.network = network.eval()
        self.image_size = image_size
        self.offsets = tuple(offsets)
        self.voxels = (volume.as_tensor() if isinstance(volume, MetaTensor) else volume)[0]
        self.depth = self.voxels.shape[-1]
        self._embedded: dict[tuple[int, Window], Embedded] = {}

    @torch.no_grad()
    def answer(self, number: int, prompts: SlicePrompts) -> SliceMask:
        """Return the object that prompts mean in a slice.

        A lone click takes the best of SAM's three masks, whatever else the first. Prompts that spread over more than
        a window are answered window by window, the logits averaged where windows overlap; outside all of them there is
        no object. The quality is the mean over windows.
        """
        shape, device = self.voxels.shape[:2], self.voxels.device
        total = torch.zeros(shape, device=device)
        count, qualities = torch.zeros_like(total), []
        for window in windows_around(shape, self.image_size, prompted_region(prompts)):
            asked = window_prompts(prompts, window, self.network.sam.prompt_encoder.mask_input_size, device)
            if asked is None:
                continue
            found = self.network.decode_prompted(self._embed(number, window), asked)
            found = found.choose(ambiguous=prompts.ambiguous)
            total[window.inner(shape)] += window.own(found.logits[0, 0].float(), shape)
            count[window.inner(shape)] += 1
            qualities.append(float(found.quality[0, 0]))
        logits = torch.where(count > 0, total / count.clamp_min(1), -MASK_LOGIT)
        return SliceMask(logits, sum(qualities) / len(qualities))

    def _embed(self, number: int, window: Window) -> Embedded:
        key = (number, window)
        if key not in self._embedded:
            image = window.cut(slice_channels(self.voxels, number, self.offsets))[None].float()
            self._embedded[key] = self.network.embed(image)
            if len(self._embedded) > _KEPT:
                del self._embedded[next(iter(self._embedded))]
        return self._embedded[key]


def window_prompts(
    prompts: SlicePrompts, window: Window, mask_size: Sequence[int], device: torch.device
) -> Prompts | None:
    """Return a slice's prompts in the pixels of a window; None where none of them lies in it.

    Args:
        mask_size: (2,), of a mask prompt at the decoder's resolution.
        device: where the network is.
    """
    points, box, mask = _window_points(prompts.points, window, device), None, None
    if prompts.box is not None:
        box = _window_box(prompts.box, window, device)
    if prompts.mask is not None:
        cut = window.cut(prompts.mask.to(device), outside=-MASK_LOGIT)
        if points is not None or box is not None or bool((cut > 0).any()):
            mask = coarse_logits(cut[None, None].float(), mask_size)
    if points is None and box is None and mask is None:
        return None
    return Prompts(points, box, mask)


def _window_points(points: Sequence[SlicePoint], window: Window, device: torch.device) -> PointPrompts | None:
    last = window.size - 0.5
    placed = [(point.row - window.row, point.column - window.column, point.inside) for point in points]
    held = [one for one in placed if -0.5 <= one[0] <= last and -0.5 <= one[1] <= last]
    if not held:
        return None
    row, column, inside = zip(*held, strict=True)
    kind = [INSIDE if one else OUTSIDE for one in inside]
    return PointPrompts(
        *(torch.tensor([values], device=device) for values in (row, column)), torch.tensor([kind], device=device)
    )


def _window_box(box: SliceBox, window: Window, device: torch.device) -> BoxPrompts | None:
    last = window.size - 1
    top, bottom = max(box.top - window.row, 0), min(box.bottom - window.row, last)
    left, right = max(box.left - window.column, 0), min(box.right - window.column, last)
    if top > bottom or left > right:
        return None
    return BoxPrompts(*(torch.tensor([side], device=device) for side in (top, left, bottom, right)))


def prompted_region(prompts: SlicePrompts) -> tuple[float, float, float, float]:
    """Return the outermost rows and columns of prompts in a slice: top, left, bottom, right.

    Raises:
        ValueError: no points, no box and no mask but an empty one.
    """
    boxes = [SliceBox(point.row, point.column, point.row, point.column) for point in prompts.points]
    boxes += [] if prompts.box is None else [prompts.box]
    drawn = None if prompts.mask is None else mask_box(prompts.mask > 0)
    boxes += [] if drawn is None else [drawn]
    if not boxes:
        raise ValueError("no prompt in the slice: give points, a box or a mask that is not empty")
    return (
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )


def mask_box(mask: Tensor, margin: float = 0.0) -> SliceBox | None:
    """Return the box around a mask [H, W], wider by a margin of pixels within the slice; None where it is empty."""
    rows, columns = (torch.nonzero(mask.any(axis)).flatten() for axis in (1, 0))
    if not len(rows):
        return None
    last_row, last_column = mask.shape[0] - 1, mask.shape[1] - 1
    return SliceBox(
        max(float(rows[0]) - margin, 0),
        max(float(columns[0]) - margin, 0),
        min(float(rows[-1]) + margin, last_row),
        min(float(columns[-1]) + margin, last_column),
    )


def coarse_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits [..., S, S] at the decoder's resolution (2,), the mean of what a coarse pixel covers."""
    return adaptive_avg_pool2d(logits.clamp(-MASK_LOGIT, MASK_LOGIT), tuple(size))


def on_image_grid(volume: Tensor, masks: Mapping[int, SliceMask]) -> NDArray[np.bool_]:
    """Return an object's masks, by number of slice, on the grid of the image's file: [X, Y, Z], bool.

    Args:
        volume: [1, H, W, D], preprocessed, which knows its way back.
    """
    own = own_grid(volume)
    shape = tuple(volume.shape[1:]) if own is None else (*own.shape, volume.shape[-1])
    whole = torch.zeros((1, *shape), dtype=torch.uint8)
    for number, found in masks.items():
        logits = found.logits.cpu()
        whole[0, ..., number] = (logits if own is None else own.restore(logits)) > 0
    return ToImageGridd()({"pred": whole, "image": volume})["pred"][0].numpy().astype(bool)
