"""Carrying labels over: a neighbour's labels are moved to where the query shows the same, and weighed pixel by pixel.

A neighbour shows the same anatomy elsewhere in the picture. It is shifted as a whole to where it correlates best with
the query, then patch by patch to where it looks most alike, smoothly; its labels move with it. At every pixel those
neighbours count most that look like the query there, and where none does the vote is faint. Nothing is learnt.

Sources: patch by patch, Coupé et al., NeuroImage 54, 2011 (doi 10.1016/j.neuroimage.2010.09.018); weights by local
likeness, Artaechevarria et al., IEEE TMI 28, 2009 (doi 10.1109/TMI.2009.2014372).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
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
#: Patches are matched this far around the labels of all neighbours, pixels, in steps of so many.
RIM, STEP = 12, 4
#: Squared differences of intensities (0-1), between neighbours.
LIKENESS_SCALE = 0.005
#: Correlations of whole slices, in a choice between neighbours.
CORRELATION_SCALE = 0.1


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
    def rows(self) -> list[list[tuple[int, int]]]:
        """Where a patch may move to, pixels down and right; those as far down together."""
        steps = range(-self.reach, self.reach + 1)
        return [[(down, right) for right in steps if math.hypot(down, right) <= self.reach] for down in steps]

    @property
    def moves(self) -> Tensor:
        """All of them: [moves, 2]."""
        return torch.tensor([move for row in self.rows for move in row])


#: Coarse and far, then fine and near.
PASSES = (Pass(4, 3, 0.003), Pass(2, 1, 0.003), Pass(1, 1, 0.003))


class Matches(NamedTuple):
    """Which candidates look most like the queries.

    Attributes:
        chosen: [B, k], numbers of candidates, the best first.
        shifts: [B, k, 2], whole pixels of the compared slices, see `best_shifts`.
        likeness: [B, k], their correlations with the query once they are shifted.
    """

    chosen: Tensor
    shifts: Tensor
    likeness: Tensor


class TransferredLabels(NamedTuple):
    """What neighbours say of a query.

    Attributes:
        vote: [B, K + 1, h, w], 0-1, of `VOTE_SIDE` at most. Near what any neighbour votes for it sums to how much the
            neighbours look like the query there, at most 1; elsewhere all of it is background.
        weights: [B, k], each neighbour's mean share of it near there, summing to 1.
    """

    vote: Tensor
    weights: Tensor


class Area(NamedTuple):
    """A part of compared slices: rows and columns, of pixels."""

    rows: slice
    columns: slice

    def times(self, scale: Fraction) -> Area:
        """Return the same part of slices that are so many times as large."""
        return Area(*(slice(int(one.start * scale), int(one.stop * scale)) for one in self))


def matching_image(image: Tensor) -> Tensor:
    """Return the middle channel of slices [B, C, S, S] at the size at which they are compared: [B, s, s]."""
    middle = image[:, image.shape[1] // 2]
    side = min(middle.shape[-1], MATCHING_SIDE)
    return middle if side == middle.shape[-1] else F.adaptive_avg_pool2d(middle[:, None], side)[:, 0]


def best_matches(query: Tensor, images: Tensor, there: Tensor, count: int) -> Matches:
    """Choose among candidates those that look most like the query once they are shifted.

    Args:
        query: [B, s, s], 0-1, see `matching_image`.
        images: [B, m, s, s], the candidates' own.
        there: [B, m], bool, whether there is such a candidate.
        count: how many to choose (k), at most m.
    """
    if _one_at_a_time(query):
        parts = zip(*(given.split(1) for given in (query, images, there)), strict=True)
        return Matches(*map(torch.cat, zip(*(best_matches(*part, count) for part in parts), strict=True)))
    shifts, likeness = best_shifts(query, images)
    likeness = likeness.masked_fill(~there, -torch.inf)
    best, chosen = likeness.topk(count, dim=1)
    return Matches(chosen, shifts.gather(1, chosen[..., None].expand(-1, -1, 2)), best)


def transfer_labels(
    query: Tensor,
    images: Tensor,
    labels: Tensor,
    shifts: Tensor,
    likeness: Tensor,
    num_classes: int,
    annotated: Tensor | None = None,
) -> TransferredLabels:
    """Transfer the labels of neighbours to a query, and vote.

    Args:
        query: [B, s, s], 0-1, see `matching_image`.
        images: [B, k, s, s], the neighbours' own, 0-1.
        labels: [B, k, S, S], uint8, theirs.
        shifts, likeness: [B, k, 2] and [B, k], see `Matches`; of a neighbour that is not there the latter is -inf.
        num_classes: with background.
        annotated: [B, k, num_classes], bool, the classes that each neighbour annotates; None: all.
    """
    if _one_at_a_time(query):
        known = [None] * len(query) if annotated is None else annotated.split(1)
        parts = zip(*(given.split(1) for given in (query, images, labels, shifts, likeness)), known, strict=True)
        votes = [transfer_labels(*part, num_classes, some) for *part, some in parts]
        return TransferredLabels(*map(torch.cat, zip(*votes, strict=True)))
    side, own = query.shape[-1], labels.shape[-1]
    size = min(own, VOTE_SIDE)
    if size != own:
        labels = F.interpolate(labels, (size, size), mode="nearest-exact")
    vote = query.new_zeros(len(query), num_classes, size, size)
    vote[:, 0] = 1
    area = voting_area(labels, shifts, side)
    if area is None:
        return TransferredLabels(vote, (likeness / CORRELATION_SCALE).softmax(1))
    near = query[:, area.rows, area.columns]
    places = shifts.to(query.dtype).movedim(2, 0)[:, :, None, None].expand(-1, -1, *near.shape[1:], -1)
    moved = _shifted(images, shifts, area).movedim(1, 3).contiguous()
    for one in PASSES:
        places = places + local_shifts(near, moved, one)
        moved = _sample(images, places, area)
    boxes = [box_matrix(extent, 1).to(query) for extent in near.shape[1:]]
    difference = _mixed((near[..., None] - moved).square_(), *boxes).div_(LIKENESS_SCALE)
    weights = ((likeness / CORRELATION_SCALE)[:, None, None] - difference).softmax(3)
    trust = (difference.neg_().exp_() * weights).sum(3)[:, None]
    weights, places = weights.movedim(3, 1), places.movedim(4, 2)
    mean = weights.mean((2, 3))
    if size != side:
        scale = Fraction(size, side)
        area = area.times(scale)
        extent = (area.rows.stop - area.rows.start, area.columns.stop - area.columns.start)
        places = torch.stack([_resize(part, extent) for part in places]) * float(scale)
        weights, trust = _resize(weights, extent), _resize(trust, extent)
    labels = _sample(labels.float(), places.movedim(2, 4), area, "nearest").movedim(3, 1)
    vote[:, :, area.rows, area.columns] = weighted_vote(labels, weights, num_classes, annotated) * trust
    return TransferredLabels(vote, mean)


def voting_area(labels: Tensor, shifts: Tensor, side: int) -> Area | None:
    """Return where neighbours may vote for an organ: around their labels, shifted; None where none has an organ.

    Args:
        labels: [B, k, S, S].
        shifts: [B, k, 2], pixels of slices of `side`.
    """
    size = labels.shape[-1]
    step = lcm(STEP, side // gcd(side, size))
    found = []
    for axis, shift in zip((3, 2), shifts.unbind(-1), strict=True):
        lines = labels.amax(axis).nonzero()  # [n, 3]: query, neighbour, line
        if not len(lines):
            return None
        at = lines[:, 2] * (side / size) - shift[lines[:, 0], lines[:, 1]]
        first, last = int(at.min()) - RIM, int(at.max()) + 1 + RIM
        first, last = max(first // step * step, 0), min(-(-last // step) * step, side)
        found.append(slice(first, last))
    if any(one.start >= one.stop for one in found):
        return None
    return Area(*found)


def _one_at_a_time(query: Tensor) -> bool:
    """Return whether queries [B, s, s] are quicker looked at one by one: a CPU then keeps them in its cache."""
    return query.device.type == "cpu" and len(query) > 1


def best_shifts(query: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Find where to look aside in each of images [B, k, s, s] to see query [B, s, s].

    Returns:
        Shifts [B, k, 2], pixels down and right, and the correlations [B, k] of the query with what is seen there.
    """
    side = query.shape[-1]
    farthest = round(FARTHEST * side)
    query = _unit(query)
    reach = torch.arange(-farthest, farthest + 1, device=query.device)
    products = shifted_products(query, images, farthest)
    inside = inside_lines(side, farthest).to(query)
    covered = (inside @ query @ inside.T)[:, None]
    mean = images.mean((2, 3), keepdim=True)
    norm = images.flatten(2).norm(dim=2)[..., None, None]
    unit = (products - mean * covered) / (norm.square() - (mean * side).square()).clamp_min(1e-6).sqrt()
    best = (unit - FARTHEST_COST * (reach[:, None] ** 2 + reach**2) / max(farthest, 1) ** 2).flatten(2).argmax(2)
    down, right = best // len(reach), best % len(reach)
    # what is seen there: the part of an image that the shift leaves, and 0 beyond its border
    rows, columns = (inside.flip(0)[at][..., None] for at in (down, right))
    total, squares = (rows.mT @ seen @ columns for seen in (images, images.square()))
    seen = (squares - (total / side).square()).clamp_min(1e-6).sqrt()[..., 0, 0]
    likeness = products.flatten(2).gather(2, best[..., None])[..., 0] / seen
    return torch.stack([down, right], dim=-1).sub(farthest), likeness


def shifted_products(query: Tensor, images: Tensor, farthest: int) -> Tensor:
    """Sum the products of query [B, s, s] with images [B, k, s, s] at all shifts up to the farthest, down and right.

    Returns:
        [B, k, 2 farthest + 1, 2 farthest + 1]; beyond the border of an image is 0.
    """
    size = next_fast_len(query.shape[-1] + farthest, real=True)  # beyond the farthest shift pictures may wrap around
    spectra = [torch.fft.rfft2(x, s=(size, size)) for x in (query, images)]
    reach = torch.arange(-farthest, farthest + 1, device=query.device)
    lines = torch.fft.ifft(spectra[0].conj()[:, None] * spectra[1], dim=2)[:, :, reach]  # negative shifts are last
    return torch.view_as_real(lines).flatten(3) @ wave_matrix(size, farthest).to(query)


def local_shifts(query: Tensor, images: Tensor, one: Pass) -> Tensor:
    """Return by how many pixels to look aside from each pixel of [B, h, w], in [B, h, w, k]: [2, B, h, w, k]."""
    costs = _move_costs(query, images, one)
    chances = costs.mul_(-1 / one.scale).softmax(0)
    shifts = (one.moves.to(query).T @ chances.flatten(1)).view(2, *costs.shape[1:])
    return _mixed(shifts, *(smoothing_matrix(extent, one.grid).to(query) for extent in query.shape[1:]))


def _move_costs(query: Tensor, images: Tensor, one: Pass) -> Tensor:
    """Return what every move of a patch costs, on a grid of patches: [moves, B, h, w, k]; see `local_shifts`."""
    (height, width), reach = query.shape[1:], one.reach
    padded = F.pad(images, (0, 0, reach, reach, reach, reach))
    boxes = [box_matrix(extent, one.grid).to(query) for extent in (height, width)]
    costs = []
    for row in one.rows:  # more at once leave the cache
        moved = []
        for down, right in row:
            top, left = reach + down, reach + right
            moved.append(padded[:, top : top + height, left : left + width])
        costs.append(_mixed(torch.stack(moved).sub_(query[..., None]).square_(), *boxes))
    far = one.moves.to(query).square().sum(1) * REACH_COST
    return torch.cat(costs).add_(far[:, None, None, None, None])


@lru_cache(maxsize=16)
def wave_matrix(size: int, farthest: int) -> Tensor:
    """Return the matrix [size // 2 + 1 complex numbers, shifts] that turns half a spectrum into values at shifts."""
    waves = torch.arange(size // 2 + 1)
    count = torch.where((waves == 0) | (2 * waves == size), 1, 2)  # of the other half too
    angles = 2 * math.pi / size * waves[:, None] * torch.arange(-farthest, farthest + 1)
    parts = torch.view_as_real(torch.polar(count[:, None] / size, angles)) * torch.tensor([1.0, -1.0])
    return parts.movedim(2, 1).flatten(0, 1).contiguous()


@lru_cache(maxsize=16)
def inside_lines(side: int, farthest: int) -> Tensor:
    """Return which lines of a picture show lines of another one that is shifted: [shifts, side], 0 or 1."""
    lines = torch.arange(side) + torch.arange(-farthest, farthest + 1)[:, None]
    return ((lines >= 0) & (lines < side)).float()


@lru_cache(maxsize=256)
def box_matrix(extent: int, grid: int) -> Tensor:
    """Return the matrix [patches, extent] that averages a line over patches; beyond its ends nothing is counted."""
    return F.avg_pool1d(torch.eye(extent), PATCH, grid, PATCH // 2, count_include_pad=False).T.contiguous()


@lru_cache(maxsize=256)
def smoothing_matrix(extent: int, grid: int) -> Tensor:
    """Return the matrix [extent, patches] that averages a line of patches over three, and brings it to all pixels."""
    lines = torch.eye(-(-extent // grid))
    smooth = F.avg_pool1d(F.pad(lines, (1, 1), mode="replicate"), 3, 1)
    return F.interpolate(smooth[:, None], extent, mode="linear", align_corners=False)[:, 0].T.contiguous()


def _mixed(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply the rows and the columns of [..., h, w, k] by matrices [h', h] and [w', w]: [..., h', w', k]."""
    *others, height, width, count = x.shape
    x = torch.matmul(rows, x.reshape(-1, height, width * count))
    return torch.matmul(columns, x.view(-1, width, count)).view(*others, len(rows), len(columns), count)


def _unit(x: Tensor) -> Tensor:
    """Return pictures [..., s, s] without their mean, of length 1; of an even one nothing is left."""
    x = x - x.mean((-2, -1), keepdim=True)
    return x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-3)


def _shifted(images: Tensor, shifts: Tensor, area: Area) -> Tensor:
    """Look at an area of images [B, k, s, s] aside by whole pixels [B, k, 2]: [B, k, h, w]; 0 beyond the border."""
    most = int(shifts.abs().max())
    padded = F.pad(images, (most,) * 4)
    rows, columns = (slice(one.start + most, one.stop + most) for one in area)
    moved = []
    for image, (down, right) in zip(padded.flatten(0, 1), shifts.flatten(0, 1).tolist(), strict=True):
        moved.append(image[rows.start + down : rows.stop + down, columns.start + right : columns.stop + right])
    return torch.stack(moved).unflatten(0, images.shape[:2])


def _sample(images: Tensor, places: Tensor, area: Area, mode: str = "bilinear") -> Tensor:
    """Look at images [B, k, H, W] aside of each pixel of an area.

    Args:
        places: [2, B, h, w, k], how far aside: down and right, pixels.

    Returns:
        [B, h, w, k].
    """
    height, width = images.shape[-2:]
    rows = torch.arange(area.rows.start, area.rows.stop, device=images.device) + 0.5
    columns = torch.arange(area.columns.start, area.columns.stop, device=images.device) + 0.5
    right = (places[1] + columns[:, None]) * (2 / width) - 1
    down = (places[0] + rows[:, None, None]) * (2 / height) - 1
    grid = torch.stack([right.movedim(3, 1), down.movedim(3, 1)], dim=-1).flatten(0, 1)
    sampled = F.grid_sample(images.flatten(0, 1)[:, None], grid, mode, align_corners=False)
    return sampled.view(*images.shape[:2], *sampled.shape[-2:]).permute(0, 2, 3, 1).contiguous()


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
