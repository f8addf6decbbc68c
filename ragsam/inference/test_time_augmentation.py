"""Several looks at the same slices: moved, mirrored or scaled, their probabilities averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ragsam.errors import InputError
from ragsam.transforms.in_plane import resample_slices
from ragsam.transforms.mirror import swap_classes


@dataclass(frozen=True)
class Look:
    """One way of seeing slices.

    Attributes:
        move: pixels by which the slice is rolled along H and W.
        mirror: whether it is mirrored from side to side.
        scale: how much larger it is made.
    """

    move: tuple[int, int] = (0, 0)
    mirror: bool = False
    scale: float = 1.0

    def show(self, slices: Tensor, sides: int = 0) -> Tensor:
        """Return slices [S, C, H, W] as this look sees them.

        Args:
            sides: the axis of slices, 0 or 1, that runs from side to side.
        """
        slices = slices.roll(self.move, (-2, -1))
        if self.mirror:
            slices = slices.flip(sides - 2)
        if self.scale != 1:
            height, width = slices.shape[-2:]
            shape = (max(1, round(height * self.scale)), max(1, round(width * self.scale)))
            slices = _scaled(slices, shape, self.scale)
        return slices

    def undo(self, seen: Tensor, shape: Sequence[int], sides: int = 0) -> Tensor:
        """Return what is on slices as seen [S, C, H', W'] where it is on the slices themselves, of a shape."""
        if self.scale != 1:
            seen = _scaled(seen, shape, 1 / self.scale)
        if self.mirror:
            seen = seen.flip(sides - 2)
        return seen.roll((-self.move[0], -self.move[1]), (-2, -1))


class Looks:
    """The looks of an inferer; without options one, at the slices as they are.

    Every option adds looks: their probabilities count alike.

    Args:
        shift: pixels; adds four, at the slices moved by as much to each side.
        mirror: adds one at the mirrored slices, whose left and right organs change places in what comes back.
        left_right: label values (left, right) that do so.
        scales: adds one for each: the slices made larger (above 1) or smaller.
        slice_axis: what the slices lie across (0 sagittal, 1 coronal, 2 axial).

    Raises:
        InputError: a mirror of sagittal slices, or a scale that is not between 0.5 and 2.
    """

    def __init__(
        self,
        *,
        shift: int = 0,
        mirror: bool = False,
        left_right: Sequence[tuple[int, int]] = (),
        scales: Sequence[float] = (),
        slice_axis: int = 2,
    ) -> None:
        if mirror and slice_axis == 0:
            raise InputError("test_mirror: sagittal slices show no left and right; switch it off")
        self.margin = shift
        self.left_right = left_right
        self.looks = [Look()]
        if shift:
            self.looks += [Look((shift, 0)), Look((-shift, 0)), Look((0, shift)), Look((0, -shift))]
        if mirror:
            self.looks.append(Look(mirror=True))
        for scale in scales:
            if not 0.5 <= scale <= 2:
                raise InputError(f"test_scales: {scale} is not between 0.5 and 2; take scales such as [0.9, 1.1]")
            self.looks.append(Look(scale=float(scale)))

    def __call__(self, slices: Tensor, run: Callable[[Tensor], Tensor], sides: int | None = 0) -> Tensor:
        """Return logits [S, K + 1, H, W] of slices [S, C, H, W]: the network's own if there is one look.

        Of several looks they are the logarithms of the mean probabilities.

        Args:
            run: gives the logits [S, K + 1, H', W'] of slices of any size.
            sides: the axis of slices, 0 or 1, that runs from side to side; None where they show no left and right.

        Raises:
            InputError: a mirror of slices that show no left and right.
        """
        if len(self.looks) == 1:
            return run(slices)
        if sides is None:
            if any(look.mirror for look in self.looks):
                raise InputError("test_mirror: a volume stored in sagittal slices shows no sides; switch it off")
            sides = 0
        margin = self.margin  # of zeros on every side, so that what a move rolls over the edge is empty
        padded = F.pad(slices, (margin, margin, margin, margin))
        total = padded.new_zeros(())
        for look in self.looks:
            chances = look.undo(run(look.show(padded, sides)).softmax(1), padded.shape[-2:], sides)
            if look.mirror:
                chances = swap_classes(chances.movedim(1, 0), self.left_right).movedim(0, 1)
            total = total + chances
        height, width = slices.shape[-2:]
        mean = total[..., margin : margin + height, margin : margin + width] / len(self.looks)
        return mean.clamp_min(1e-8).log()


def _scaled(slices: Tensor, shape: Sequence[int], scale: float) -> Tensor:
    """Return slices [..., H, W] made larger by a scale about their middle, on so many pixels."""
    origins = []
    for old, new in zip(slices.shape[-2:], shape, strict=True):
        origins.append((old - 1) / 2 - (new - 1) / 2 / scale)
    return resample_slices(slices, shape, (1 / scale, 1 / scale), origins)
