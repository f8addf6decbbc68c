"""Carrying labels over: a neighbour's labels are moved to where the query shows the same, and weighed pixel by pixel.

A neighbour shows the same anatomy elsewhere in the picture. It is shifted as a whole to where it correlates best with
the query, then patch by patch to where it looks most alike, smoothly; its labels move with it. At every pixel those
neighbours count most that look like the query there, and where none does the vote is faint. Nothing is learnt.

Sources: patch by patch, Coupé et al., NeuroImage 54, 2011 (doi 10.1016/j.neuroimage.2010.09.018); weights by local
likeness, Artaechevarria et al., IEEE TMI 28, 2009 (doi 10.1109/TMI.2009.2014372).
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from ragsam.networks.supports import weighted_vote

#: Slices are compared at this size, pixels, and their labels vote at that one; at their own where that is less.
MATCHING_SIDE, VOTE_SIDE = 96, 256
#: The farthest shift, of the slice's side, and what it costs in correlation: of equal places the nearest is taken.
FARTHEST, FARTHEST_COST = 0.15, 1e-3
#: The side of a patch, pixels.
PATCH = 5
#: What a squared pixel of a patch's move costs.
REACH_COST = 1e-3
#: Squared differences of intensities (0-1), between neighbours.
LIKENESS_SCALE = 0.005
#: Correlations of whole slices, in a choice between neighbours.
CORRELATION_SCALE = 0.05


class Pass(NamedTuple):
    """How patches are moved once, after what was moved before.

    Attributes:
        grid: from one patch to the next, pixels.
        reach: how far they may move, pixels.
        scale: squared differences of intensities (0-1) of patches, in a choice between moves.
    """

    grid: int
    reach: int
    scale: float

    @property
    def moves(self) -> list[tuple[int, int]]:
        """Where a patch may move to, pixels down and right."""
        steps = range(-self.reach, self.reach + 1)
        return [move for move in product(steps, steps) if math.hypot(*move) <= self.reach]


#: Coarse and far, then fine and near.
PASSES = (Pass(4, 3, 0.003), Pass(2, 1, 0.003), Pass(1, 1, 0.003))


class Carried(NamedTuple):
    """What neighbours say of a query.

    Attributes:
        vote: [B, K + 1, h, w], 0-1, of `VOTE_SIDE` at most; it sums to how much the neighbours look like the query
            there, at most 1.
        weights: [B, k], each neighbour's mean share of it, summing to 1.
    """

    vote: Tensor
    weights: Tensor


def matching_image(image: Tensor) -> Tensor:
    """Return the middle channel of slices [B, C, S, S] at the size at which they are compared: [B, s, s]."""
    middle = image[:, image.shape[1] // 2]
    side = min(middle.shape[-1], MATCHING_SIDE)
    return middle if side == middle.shape[-1] else F.adaptive_avg_pool2d(middle[:, None], side)[:, 0]


def best_matches(query: Tensor, images: Tensor, there: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose among candidates those that look most like the query once they are shifted.

    Args:
        query: [B, s, s], 0-1, see `matching_image`.
        images: [B, m, s, s], the candidates' own.
        there: [B, m], bool, whether there is such a candidate.
        count: how many to choose (k), at most m.

    Returns:
        Which of the candidates [B, k], the best first, and their shifts [B, k, 2], see `best_shifts`.
    """
    if _one_at_a_time(query):
        parts = zip(*(given.split(1) for given in (query, images, there)), strict=True)
        chosen, shifts = map(torch.cat, zip(*(best_matches(*part, count) for part in parts), strict=True))
        return chosen, shifts
    shifts = best_shifts(query, images)
    likeness = correlation(query, _sample(images, _everywhere(shifts, query))).masked_fill(~there, -torch.inf)
    chosen = likeness.topk(count, dim=1).indices
    return chosen, shifts.gather(1, chosen[..., None].expand(-1, -1, 2))


def carry(
    query: Tensor,
    images: Tensor,
    labels: Tensor,
    shifts: Tensor,
    there: Tensor,
    num_classes: int,
    annotated: Tensor | None = None,
) -> Carried:
    """Carry the labels of neighbours over to a query, and let them vote.

    Args:
        query: [B, s, s], 0-1, see `matching_image`.
        images: [B, k, s, s], the neighbours' own, 0-1.
        labels: [B, k, S, S], uint8, theirs.
        shifts: [B, k, 2], of whole slices, see `best_shifts`.
        there: [B, k], bool, whether there is such a neighbour; each query must have one.
        num_classes: with background.
        annotated: [B, k, num_classes], bool, the classes that each neighbour annotates; None: all.
    """
    if _one_at_a_time(query):
        known = [None] * len(query) if annotated is None else annotated.split(1)
        parts = zip(*(given.split(1) for given in (query, images, labels, shifts, there)), known, strict=True)
        return Carried(*map(torch.cat, zip(*(carry(*part, num_classes, some) for *part, some in parts), strict=True)))
    places = _everywhere(shifts, query)
    for one in PASSES:
        places = places + local_shifts(query, _sample(images, places), one)
    carried = _sample(images, places)
    difference = _box((query[:, None] - carried).square())
    likeness = torch.exp(-difference / LIKENESS_SCALE)
    scores = -difference / LIKENESS_SCALE + (correlation(query, carried) / CORRELATION_SCALE)[..., None, None]
    weights = scores.masked_fill(~there[..., None, None], -torch.inf).softmax(1)
    trust = (likeness * weights).sum(1, keepdim=True)
    size = tuple(min(side, VOTE_SIDE) for side in labels.shape[-2:])
    if size != labels.shape[-2:]:
        labels = F.interpolate(labels.float(), size, mode="nearest-exact")
    labels = _sample(labels.float(), _resize(places.flatten(0, 1), size).unflatten(0, places.shape[:2]), "nearest")
    vote = weighted_vote(labels, _resize(weights, size), num_classes, annotated)
    return Carried(vote * _resize(trust, size), weights.mean((2, 3)))


def _one_at_a_time(query: Tensor) -> bool:
    """Return whether queries [B, s, s] are quicker looked at one by one: a CPU then keeps them in its cache."""
    return query.device.type == "cpu" and len(query) > 1


def best_shifts(query: Tensor, images: Tensor) -> Tensor:
    """Return by how much of the side to look aside in each of images [B, k, s, s] to see query [B, s, s]: [B, k, 2]."""
    side = query.shape[-1]
    farthest = round(FARTHEST * side)
    size = (next_fast_len(side + farthest, real=True),) * 2  # beyond the farthest shift pictures may wrap around
    spectra = [torch.fft.rfft2(_unit(x), s=size) for x in (query, images)]
    products = torch.fft.irfft2(spectra[0].conj()[:, None] * spectra[1], s=size)
    reach = torch.arange(-farthest, farthest + 1, device=query.device, dtype=query.dtype)
    cost = FARTHEST_COST * (reach[:, None] ** 2 + reach**2) / max(farthest, 1) ** 2
    near = products.roll((farthest, farthest), (2, 3))[:, :, : len(reach), : len(reach)] - cost
    best = near.flatten(2).argmax(2)
    return torch.stack([best // len(reach), best % len(reach)], dim=-1).sub(farthest) / side


def local_shifts(query: Tensor, images: Tensor, one: Pass) -> Tensor:
    """Return by how much of the side to look aside from each pixel, in images [B, k, s, s]: [B, k, 2, s, s]."""
    chances = (-_move_costs(query, images, one) / one.scale).softmax(0)
    moves = chances.new_tensor(one.moves)
    shifts = torch.einsum("pbkhw,pc->bkchw", chances, moves).flatten(0, 1).contiguous() / query.shape[-1]
    smooth = F.avg_pool2d(F.pad(shifts, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return _resize(smooth, query.shape[1:]).unflatten(0, images.shape[:2])


def _move_costs(query: Tensor, images: Tensor, one: Pass) -> Tensor:
    """Return what every move of a patch costs, on a grid of patches: [moves, B, k, h, w]; see `local_shifts`."""
    side, query, reach = query.shape[-1], query[:, None], one.reach
    padded = F.pad(images, (reach, reach, reach, reach)).contiguous(memory_format=torch.channels_last)
    costs = []
    for down, right in one.moves:
        moved = padded[..., reach + down : reach + down + side, reach + right : reach + right + side]
        costs.append(_box((moved - query).square_(), one.grid) + REACH_COST * (down**2 + right**2))
    return torch.stack(costs)


def correlation(query: Tensor, images: Tensor) -> Tensor:
    """Return the correlation of a query [B, s, s] with each of images [B, k, s, s]: [B, k], -1 to 1."""
    return torch.einsum("bhw,bkhw->bk", _unit(query), _unit(images))


def _unit(x: Tensor) -> Tensor:
    """Return pictures [..., s, s] without their mean, of length 1; of an even one nothing is left."""
    x = x - x.mean((-2, -1), keepdim=True)
    return x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-3)


def _everywhere(shifts: Tensor, query: Tensor) -> Tensor:
    """Give every pixel of a query [B, s, s] the same shifts [B, k, 2]."""
    return shifts[..., None, None].expand(-1, -1, -1, *query.shape[1:])


def _sample(images: Tensor, shifts: Tensor, mode: str = "bilinear") -> Tensor:
    """Look at images [B, k, H, W] aside of each pixel by shifts [B, k, 2, H, W] (down, right; of the side)."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device, dtype=images.dtype) + 0.5) * 2 / height - 1
    columns = (torch.arange(width, device=images.device, dtype=images.dtype) + 0.5) * 2 / width - 1
    grid = torch.stack([columns + 2 * shifts[:, :, 1], rows[:, None] + 2 * shifts[:, :, 0]], dim=-1)
    sampled = F.grid_sample(images.flatten(0, 1)[:, None], grid.flatten(0, 1), mode, align_corners=False)
    return sampled.view(images.shape)


def _box(x: Tensor, stride: int = 1) -> Tensor:
    """Average [B, k, s, s] over patches; beyond the border nothing is counted."""
    x = x.contiguous(memory_format=torch.channels_last)  # all neighbours at once, which torch is quicker with
    if stride > 1:
        return F.avg_pool2d(x, PATCH, stride, PATCH // 2, count_include_pad=False)
    columns = F.avg_pool2d(x, (PATCH, 1), 1, (PATCH // 2, 0), count_include_pad=False)  # ten of 25 values are read
    return F.avg_pool2d(columns, (1, PATCH), 1, (0, PATCH // 2), count_include_pad=False)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
