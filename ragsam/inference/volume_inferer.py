"""Volume in, labels out, a slab of slices at a time: the logits of a whole volume never stand at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import log
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import default_prepare_batch
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor, nn

from ragsam.console.slice_progress import slice_progress
from ragsam.errors import InputError
from ragsam.inference.samed_slices import require_samed_alone, samed_volume
from ragsam.inference.test_time_augmentation import TestTimeAugmentation
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.int8 import int8_linears
from ragsam.networks.lora import merged_lora
from ragsam.networks.precision import autocast, autocast_dtype, is_int8, known_precision
from ragsam.transforms.in_plane import OwnGrid, own_grid
from ragsam.transforms.layout import orientation_of, runs_down, sides_axis
from ragsam.transforms.slicing import (
    WINDOW_OVERLAP,
    context_offsets,
    pad_to_window,
    slice_channels,
    slice_height,
    slice_number,
    slice_spacing_mm,
)

#: Slices whose logits stand at once: 230 MB for 512 x 512 pixels and 14 classes, some three times that while they are
#: made.
SLAB = 16
BATCH = 16

Network = Callable[..., Tensor]
#: Logits of windows [B, C, S, S] at heights [B].
Windows = Callable[[Tensor, Tensor], Tensor]
#: Numbers of consecutive slices, and their logits [S, K + 1, H, W].
Slab = tuple[slice, Tensor]
#: Turns the slabs of a volume into those of several runs' mean, see `Ensemble`.
Average = Callable[[Iterator[Slab], Tensor], Iterator[Slab]]
#: See `InfererRetrieval`.
Retrieval = Callable[[Network, Tensor], VolumeSupports]


class VolumeInferer(Inferer):
    """Runs a network on the slices of a volume and chooses their classes.

    The network takes slices [B, C, S, S] and their `supports`, where there are any. Its logits are brought back to the
    image's own grid within the slices, where `InPlaneSpacingd` had resampled them, before classes are chosen: borders
    are decided there.

    Args:
        image_size: side of the window, pixels: smaller slices are padded, larger ones covered by overlapping windows.
        batch_size: windows run at once; None takes `BATCH`, or fewer that have no more than a million pixels together.
        context_slices: neighbours on each side as channels, as in training.
        context_distance_mm: from one channel to the next, as in training; the volume must then carry its affine.
        restore_grid: False chooses classes on the resampled grid, where the labels of a validation lie.
        uncertainty: adds a channel, see `__call__`.
        probabilities: adds a channel for every organ.
        retrieval: gives the supports of a volume that comes without; None leaves it without.
        precision: of the network's arithmetic, one of `PRECISIONS`; see `autocast_dtype` and `is_int8`.
        samed_size: pixels, to which every slice is resized first, see `samed_slices`; None sees slices as they are.
        augmentation: options of `TestTimeAugmentation`.

    Raises:
        InputError: slices that are moved by more than half a window, an option that `samed_size` excludes, or as
            `TestTimeAugmentation`.
    """

    def __init__(
        self,
        image_size: int,
        *,
        batch_size: int | None = None,
        context_slices: int = 1,
        context_distance_mm: float | None = None,
        restore_grid: bool = True,
        uncertainty: bool = False,
        probabilities: bool = False,
        retrieval: Retrieval | None = None,
        precision: str = "float32",
        samed_size: int | None = None,
        **augmentation: Any,
    ) -> None:
        super().__init__()
        shift = augmentation.get("shift", 0)
        if shift > image_size // 2:  # every move pads the slices
            raise InputError(f"test_shift {shift}: slices of {image_size} pixels move by {image_size // 2} at most")
        self.image_size = image_size
        self.batch_size = batch_size or max(1, min(BATCH, 2**20 // image_size**2))
        self.context_slices = context_slices
        self.context_distance_mm = context_distance_mm
        self.restore_grid = restore_grid
        self.uncertainty = uncertainty
        self.probabilities = probabilities
        self.retrieval = retrieval
        self.precision = known_precision(precision)
        self.augmentation = TestTimeAugmentation(**augmentation)
        self.samed_size = samed_size
        if samed_size is not None:
            extra = {"context_slices": context_slices, "uncertainty": uncertainty, "probabilities": probabilities}
            extra["test_shift, test_mirror or test_scales"] = len(self.augmentation.copies) > 1
            require_samed_alone({**extra, "precision int8": precision == "int8"})
        self._lock = threading.Lock()

    def __call__(
        self,
        inputs: Tensor,
        network: Network,
        *,
        supports: VolumeSupports | None = None,
        average: Average | None = None,
        probabilities: bool | None = None,
    ) -> Tensor:
        """Return the labels of volumes [B, 1, H, W, D], 0-1, uint8 [B, C, H, W, D].

        One volume at a time: a server has several threads, and while a network runs its LoRA is merged.

        Args:
            supports: of the volume's slices; None asks `retrieval`.
            average: turns the volume's slabs into those of several runs' mean; None leaves them as they are.
            probabilities: instead of the inferer's own, where it is given.

        Returns:
            The first channel is the labels. With `uncertainty` the next is the entropy of the classes' probabilities,
            255 where all are alike; with `probabilities` the last K are the organs', 255 for 1. H and W are those of
            the image's own slices with `restore_grid`.
        """
        with self._lock:
            return torch.stack([self._labels(volume, network, supports, average, probabilities) for volume in inputs])

    def slabs(
        self,
        volume: Tensor,
        network: Network,
        supports: VolumeSupports | None = None,
        *,
        restore_grid: bool | None = None,
    ) -> Iterator[Slab]:
        """Yield the logits of a volume [1, H, W, D], `SLAB` slices at a time, from the first slice to the last.

        LoRA is merged meanwhile, but under autocast and in int8: a small update would be lost in a rounded weight.

        Args:
            supports: of the volume's slices; None segments without.
            restore_grid: instead of the inferer's own, where it is given.

        Raises:
            InputError: with `samed_size`, which has labels alone; or supports of slices in another orientation.
        """
        if self.samed_size is not None:
            require_samed_alone({"ensembles, ranking or refinement": True})
        rounds = is_int8(self.precision, volume.device)
        dtype = None if rounds else autocast_dtype(self.precision, volume.device)

        if supports is not None:
            supports.require_orientation(volume)
        restores = self.restore_grid if restore_grid is None else restore_grid
        own = own_grid(volume) if restores else None
        ready = _ready(network, volume.device, rounds=rounds, dtype=dtype)
        with ready, slice_progress(volume.shape[-1]) as progress:

            def run(windows: Tensor, heights: Tensor) -> Tensor:
                with autocast(dtype, windows.device):
                    logits = _logits(network, windows, heights, supports).to(windows)
                progress.batch()
                return logits

            for slab in self._slabs(volume, run, own):
                progress.reach(slab[0].stop)
                yield slab

    def _slabs(self, volume: Tensor, run: Windows, own: OwnGrid | None) -> Iterator[Slab]:
        offsets, depth = self._offsets(volume), volume.shape[-1]
        voxels = (volume.as_tensor() if isinstance(volume, MetaTensor) else volume)[0]
        orientation = orientation_of(volume)
        sides = sides_axis(orientation)
        down = runs_down(orientation)
        for start in range(0, depth, SLAB):
            where = slice(start, min(start + SLAB, depth))
            numbers = range(where.start, where.stop)
            slices = torch.stack([slice_channels(voxels, z, offsets) for z in numbers])
            heights = slices.new_tensor([slice_height(slice_number(z, depth, down=down), depth) for z in numbers])
            logits = self.augmentation(slices, lambda seen, heights=heights: self._windows(seen, heights, run), sides)
            yield where, logits if own is None else own.restore(logits)

    def _windows(self, slices: Tensor, heights: Tensor, run: Windows) -> Tensor:
        """Return the logits [S, K + 1, H, W] of slices [S, C, H, W]."""
        size = self.image_size
        if max(slices.shape[-2:]) <= size:  # one window each: nothing to weigh, which costs more than a small network
            parts = zip(pad_to_window(slices, size).split(self.batch_size), heights.split(self.batch_size), strict=True)
            logits = torch.cat([run(windows, height) for windows, height in parts])
            top, left = ((size - side) // 2 for side in slices.shape[-2:])
            return logits[..., top : top + slices.shape[-2], left : left + slices.shape[-1]]

        def placed(windows: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
            return run(windows, heights[[place[0].start for place in places]])

        options = {"overlap": WINDOW_OVERLAP, "mode": "gaussian", "with_coord": True}
        return sliding_window_inference(slices, (size, size), self.batch_size, placed, **options)

    def _labels(
        self,
        volume: Tensor,
        network: Network,
        supports: VolumeSupports | None,
        average: Average | None,
        probabilities: bool | None,
    ) -> Tensor:
        if supports is None and self.retrieval is not None:
            supports = self.retrieval(network, volume)
        if probabilities is None:
            probabilities = self.probabilities
        if self.samed_size is not None:
            extra = {"retrieval": supports, "ensembles": average, "probabilities": probabilities}
            require_samed_alone({**extra, "spacing_mm": own_grid(volume)})
            sizes = {"first_size": self.samed_size, "size": self.image_size}
            return samed_volume(volume, network, precision=self.precision, **sizes)
        slabs = self.slabs(volume, network, supports)
        if average is not None:
            slabs = average(slabs, volume)
        made = None
        for where, logits in slabs:
            channels = self._channels(logits, probabilities=probabilities)
            if made is None:
                made = channels.new_zeros((channels.shape[1], *channels.shape[2:], volume.shape[-1]))
            made[..., where] = channels.permute(1, 2, 3, 0)
        return made

    def _channels(self, logits: Tensor, *, probabilities: bool) -> Tensor:
        """Return uint8 [S, C, H, W] of logits [S, K + 1, H, W]."""
        channels = [logits.argmax(1, keepdim=True).to(torch.uint8)]
        if self.uncertainty or probabilities:
            chances = logits.float().softmax(1)
            if self.uncertainty:
                channels.append(_bytes(torch.special.entr(chances).sum(1, keepdim=True) / log(chances.shape[1])))
            if probabilities:
                channels.append(_bytes(chances[:, 1:]))
        return torch.cat(channels, dim=1)

    def _offsets(self, volume: Tensor) -> tuple[float, ...]:
        if self.context_distance_mm is None:
            return context_offsets(self.context_slices)
        spacing_mm = slice_spacing_mm(volume)
        return context_offsets(self.context_slices, distance_mm=self.context_distance_mm, spacing_mm=spacing_mm)


def prepare_volumes(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor | None, tuple[()], dict[str, Any]]:
    """Return (image, label, (), {"supports", "average"}) of a batch, for an evaluator and its `VolumeInferer`.

    What handlers put into the batch under these names is taken out of it.
    """
    options = {name: batch.pop(name, None) for name in ("supports", "average")}
    return *default_prepare_batch(batch, device, non_blocking, **kwargs), (), options


def _logits(network: Network, windows: Tensor, heights: Tensor, supports: VolumeSupports | None) -> Tensor:
    """Return a network's logits of windows [B, C, S, S], which are encoded once."""
    if supports is None:
        return network(windows)
    if not supports.needs_embedding:
        return network(windows, supports=supports(windows, None, heights))
    embedded = network.embed(windows)
    return network.decode(embedded, supports(windows, embedded.embedding, heights))


def _ready(
    network: Network, device: torch.device, *, rounds: bool, dtype: torch.dtype | None
) -> AbstractContextManager[None]:
    """Have a network's layers multiply in int8, or its LoRA merged, for as long as that lasts."""
    if not isinstance(network, nn.Module):
        return nullcontext()
    if rounds:
        return int8_linears(network)
    if dtype is not None or torch.is_autocast_enabled(device.type):
        return nullcontext()
    return merged_lora(network)


def _bytes(shares: Tensor) -> Tensor:
    return (shares * 255).round().clamp(0, 255).to(torch.uint8)
