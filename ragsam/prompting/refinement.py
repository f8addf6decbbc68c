"""Refinement: an organ of an automatic result is corrected by prompts, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.segmenter import Segmenter
from ragsam.prompting.prompted_volume import SliceMask
from ragsam.prompting.propagation import Answer
from ragsam.transforms.in_plane import own_grid
from ragsam.transforms.restoring import ToImageGridd
from ragsam.transforms.voxel_prompts import SliceGrid, SlicePrompts

Chain = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class AutomaticResult:
    """What a network gives for a volume without prompts.

    Attributes:
        labels: [X, Y, Z], uint8, on the grid of the image's file.
        odds: by label value of an organ, the logits of the organ against all other classes, [H, W, D], on the working
            volume.
        otherwise: by label value of an organ, the labels [X, Y, Z], uint8, that voxels would have if it were not there.
    """

    labels: NDArray[np.uint8]
    odds: Mapping[int, Tensor]
    otherwise: Mapping[int, NDArray[np.uint8]]


@torch.no_grad()
def segment_automatically(
    inferer: VolumeInferer,
    network: Segmenter,
    volume: Tensor,
    postprocessing: Chain,
    organs: Iterable[int],
    supports: VolumeSupports | None = None,
) -> AutomaticResult:
    """Segment a volume without prompts, and keep what refining some organs needs.

    Args:
        inferer: of the run.
        network: of the run.
        volume: [1, H, W, D], preprocessed, which knows its way back.
        postprocessing: of the run, for label volumes without maps.
        organs: label values.
        supports: of the volume's slices; None segments without.
    """
    own = own_grid(volume)
    shape, depth = tuple(volume.shape[1:]), volume.shape[-1]
    own_shape = shape if own is None else (*own.shape, depth)
    labels = torch.zeros((1, *own_shape), dtype=torch.uint8)
    odds = {organ: torch.zeros(shape) for organ in organs}
    otherwise = {organ: torch.zeros((1, *own_shape), dtype=torch.uint8) for organ in odds}
    for where, seen in inferer.slabs(volume, network.eval(), supports, restore_grid=False):
        seen = seen.float().cpu()
        logits = seen if own is None else own.restore(seen)
        labels[0, ..., where] = _chosen(logits)
        for organ in odds:
            odds[organ][..., where] = organ_odds(seen, torch.full((len(seen),), organ))[:, 0].movedim(0, -1)
            without = logits.clone()
            without[:, organ] = -torch.inf
            otherwise[organ][0, ..., where] = _chosen(without)
    made = postprocessing({"pred": labels, "image": volume})["pred"][0]
    to_file = ToImageGridd()
    others = {organ: to_file({"pred": one, "image": volume})["pred"][0] for organ, one in otherwise.items()}
    return AutomaticResult(_numbers(made), odds, {organ: _numbers(one) for organ, one in others.items()})


def organ_odds(logits: Tensor, organs: Tensor) -> Tensor:
    """Return the logits [S, 1, H, W] of an organ, one a slice, against all other classes of logits [S, K + 1, H, W]."""
    index = organs[:, None, None, None].expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, index) - logits.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)


def refine(answer: Answer, odds: Tensor, prompts: Mapping[int, SlicePrompts]) -> dict[int, SliceMask]:
    """Return an organ in the slices that are prompted, the automatic result being the draft; see `keep_prompted`.

    Args:
        answer: gives the object that prompts mean in a slice.
        odds: [H, W, D], of `AutomaticResult`.
        prompts: by number of slice.
    """
    found = {}
    for number, one in prompts.items():
        # A draft without the organ is one too: a lone click would be taken for any object that it is in.
        draft = odds[..., number]
        refined = answer(number, replace(one, mask=draft))
        found[number] = replace(refined, logits=keep_prompted(draft.to(refined.logits), refined.logits, one))
    return found


def keep_prompted(draft: Tensor, refined: Tensor, prompts: SlicePrompts) -> Tensor:
    """Return a draft with the changes that its prompts ask for, of a refined mask; all are logits [H, W].

    A network that is asked to correct one border redraws the others too, and not for the better. So of the connected
    pieces that a refined mask adds those are taken that hold a click in the object, of those that it removes the ones
    that hold a click outside it, and either where it touches the box.
    """
    before, after = (logits.cpu().numpy() > 0 for logits in (draft, refined))
    taken = np.zeros_like(before)
    for inside, change in ((True, after & ~before), (False, before & ~after)):
        pieces, _ = ndimage.label(change, np.ones((3, 3)))
        asked = [pieces[round(p.row), round(p.column)] for p in prompts.points if p.inside == inside]
        if (box := prompts.box) is not None:
            rows, columns = slice(round(box.top), round(box.bottom) + 1), slice(round(box.left), round(box.right) + 1)
            asked += np.unique(pieces[rows, columns]).tolist()
        taken |= np.isin(pieces, [piece for piece in asked if piece])
    return torch.where(torch.from_numpy(taken).to(refined.device), refined, draft)


def replace_organ(
    labels: NDArray[np.uint8],
    organ: int,
    mask: NDArray[np.bool_],
    otherwise: NDArray[np.uint8],
    numbers: Iterable[int],
    grid: SliceGrid,
) -> None:
    """Put an organ in place of what it was in some slices of a label volume, in place.

    What the organ loses goes to the class that is likeliest without it; no other voxel changes.

    Args:
        labels: [X, Y, Z], on the grid of the image's file.
        mask: [X, Y, Z], the organ.
        otherwise: see `AutomaticResult`.
        numbers: slices of the working volume.
        grid: of that volume.
    """
    for number in numbers:
        axis, index = grid.file_slice(number)
        plane, new, other = (np.moveaxis(volume, axis, 0)[index] for volume in (labels, mask, otherwise))
        lost = (plane == organ) & ~new
        plane[lost] = other[lost]
        plane[new] = organ


def _chosen(logits: Tensor) -> Tensor:
    """Return the classes [H, W, S] of logits [S, K + 1, H, W]."""
    return logits.argmax(1).to(torch.uint8).movedim(0, -1)


def _numbers(volume: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(volume.cpu().numpy().round().astype(np.uint8))
