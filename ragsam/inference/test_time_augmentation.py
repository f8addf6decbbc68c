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
        mirror: whether it is mirrored along H, which runs to the patient's right.
        scale: how much larger it is made.
    """

    move: tuple[int, int] = (0, 0)
    mirror: bool = False
    scale: float = 1.0

    def show(self, slices: Tensor) -> Tensor:
        """Return slices [S, C, H, W] as this look sees them."""
        slices = slices.roll(self.move, (-2, -1))
        slices = slices.flip(-2) if self.mirror else slices
        if self.scale == 1:
            return slices
        return _scaled(slices, [max(1, round(side * self.scale)) for side in slices.shape[-2:]], self.scale)

    def undo(self, seen: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what lies on slices as seen [S, C, H', W'] where it lies on the slices themselves, of a shape."""
        seen = seen if self.scale == 1 else _scaled(seen, shape, 1 / self.scale)
        seen = seen.flip(-2) if self.mirror else seen
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
        if wrong := [scale for scale in scales if not 0.5 <= scale <= 2]:
            raise InputError(f"test_scales: {wrong[0]} is not between 0.5 and 2; take scales such as [0.9, 1.1]")
        self.margin = shift
        self.left_right = [(int(left), int(right)) for left, right in left_right]
        moves = [(0, 0), (shift, 0), (-shift, 0), (0, shift), (0, -shift)] if shift else [(0, 0)]
        self.looks = [*map(Look, moves), *([Look(mirror=True)] if mirror else [])]
        self.looks += [Look(scale=float(scale)) for scale in scales]

    def __call__(self, slices: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits [S, K + 1, H, W] of slices [S, C, H, W]: the network's own where there is one look.

        Of several looks they are the logarithms of the mean probabilities.

        Args:
            run: gives the logits [S, K + 1, H', W'] of slices of any size.
        """
        if len(self.looks) == 1:
            return run(slices)
        margin = self.margin  # of zeros on every side, so that what a move rolls over the edge is empty
        padded = F.pad(slices, (margin, margin, margin, margin))
        total = padded.new_zeros(())
        for look in self.looks:
            chances = look.undo(run(look.show(padded)).softmax(1), padded.shape[-2:])
            total = total + (self._swapped(chances) if look.mirror else chances)
        height, width = slices.shape[-2:]
        mean = total[..., margin : margin + height, margin : margin + width] / len(self.looks)
        return mean.clamp_min(1e-8).log()

    def _swapped(self, chances: Tensor) -> Tensor:
        return swap_classes(chances.movedim(1, 0), self.left_right).movedim(0, 1)


def _scaled(slices: Tensor, shape: Sequence[int], scale: float) -> Tensor:
    """Return slices [..., H, W] made larger by a scale about their middle, on so many pixels."""
    middles = [((old - 1) / 2, (new - 1) / 2) for old, new in zip(slices.shape[-2:], shape, strict=True)]
    origins = [old - new / scale for old, new in middles]
    return resample_slices(slices, shape, (1 / scale, 1 / scale), origins)
