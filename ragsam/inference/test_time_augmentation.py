"""Test-time augmentation: the probabilities of moved, mirrored and scaled copies of slices, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ragsam.errors import InputError
from ragsam.transforms.in_plane import resample_slices
from ragsam.transforms.mirror import swap_classes


@dataclass(frozen=True)
class AugmentedCopy:
    """How one copy of the slices differs from them.

    Attributes:
        move: pixels by which the slice is rolled along H and W.
        mirror: whether it is mirrored from side to side.
        scale: how much larger it is made.
    """

    move: tuple[int, int] = (0, 0)
    mirror: bool = False
    scale: float = 1.0

    def apply(self, slices: Tensor, sides: int = 0) -> Tensor:
        """Return the copy of slices [S, C, H, W].

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

    def undo(self, found: Tensor, shape: Sequence[int], sides: int = 0) -> Tensor:
        """Return values found on the copy [S, C, H', W'] on the grid of the slices themselves, of a shape."""
        if self.scale != 1:
            found = _scaled(found, shape, 1 / self.scale)
        if self.mirror:
            found = found.flip(sides - 2)
        return found.roll((-self.move[0], -self.move[1]), (-2, -1))


class TestTimeAugmentation:
    """The copies that an inferer averages over; without options only the slices themselves.

    Every option adds copies; the probabilities of all copies have the same weight.

    Args:
        shift: pixels; adds four copies, moved by as much in each direction.
        mirror: adds a mirrored copy, whose left and right organs are swapped back.
        left_right: label values (left, right) to swap.
        scales: adds a copy for each factor: larger (above 1) or smaller.
        slice_axis: the axis across which slices are cut (0 sagittal, 1 coronal, 2 axial).

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
        self.copies = [AugmentedCopy()]
        if shift:
            moves = ((shift, 0), (-shift, 0), (0, shift), (0, -shift))
            self.copies += [AugmentedCopy(move) for move in moves]
        if mirror:
            self.copies.append(AugmentedCopy(mirror=True))
        for scale in scales:
            if not 0.5 <= scale <= 2:
                raise InputError(f"test_scales: {scale} is not between 0.5 and 2; take scales such as [0.9, 1.1]")
            self.copies.append(AugmentedCopy(scale=float(scale)))

    def __call__(self, slices: Tensor, run: Callable[[Tensor], Tensor], sides: int | None = 0) -> Tensor:
        """Return logits [S, K + 1, H, W] of slices [S, C, H, W]: the network's own if there is only one copy.

        Of several copies they are the logarithms of the mean probabilities.

        Args:
            run: gives the logits [S, K + 1, H', W'] of slices of any size.
            sides: the axis of slices, 0 or 1, that runs from side to side; None where they show no left and right.

        Raises:
            InputError: a mirror of slices that show no left and right.
        """
        if len(self.copies) == 1:
            return run(slices)
        if sides is None:
            if any(copy.mirror for copy in self.copies):
                raise InputError("test_mirror: a volume stored in sagittal slices shows no sides; switch it off")
            sides = 0
        margin = self.margin  # of zeros on every side, so that what a shift rolls over the edge is empty
        padded = F.pad(slices, (margin, margin, margin, margin))
        total = padded.new_zeros(())
        for copy in self.copies:
            probabilities = copy.undo(run(copy.apply(padded, sides)).softmax(1), padded.shape[-2:], sides)
            if copy.mirror:
                probabilities = swap_classes(probabilities.movedim(1, 0), self.left_right).movedim(0, 1)
            total = total + probabilities
        height, width = slices.shape[-2:]
        mean = total[..., margin : margin + height, margin : margin + width] / len(self.copies)
        return mean.clamp_min(1e-8).log()


def _scaled(slices: Tensor, shape: Sequence[int], scale: float) -> Tensor:
    """Return slices [..., H, W] made larger by a scale about their middle, on so many pixels."""
    origins = []
    for old, new in zip(slices.shape[-2:], shape, strict=True):
        origins.append((old - 1) / 2 - (new - 1) / 2 / scale)
    return resample_slices(slices, shape, (1 / scale, 1 / scale), origins)
