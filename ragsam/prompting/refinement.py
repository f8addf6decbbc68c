"""Refinement: prompts correct an organ of an automatic result, slice by slice."""

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
    """A network's result for a volume without prompts.

    Attributes:
        labels: [X, Y, Z], uint8, on the grid of the image's file.
        odds: by label value, an organ's logits against all other classes, [H, W, D], on the working volume.
        otherwise: by label value, the labels [X, Y, Z], uint8, that voxels would have without the organ.
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
        volume: [1, H, W, D], preprocessed, with its applied operations.
        postprocessing: of the run, for label volumes without maps.
        organs: label values.
        supports: of the volume's slices; None segments without.
    """
    _, *shape = volume.shape
    file_shape = list(shape)
    own = own_grid(volume)
    if own is not None:
        file_shape[:2] = own.shape
    labels = torch.zeros((1, *file_shape), dtype=torch.uint8)
    odds = {organ: torch.zeros(shape) for organ in organs}
    otherwise = {organ: torch.zeros_like(labels) for organ in odds}
    for where, seen in inferer.slabs(volume, network.eval(), supports, restore_grid=False):
        seen = seen.float().cpu()
        logits = seen
        if own is not None:
            logits = own.restore(seen)
        labels[0, ..., where] = _classes(logits)
        for organ in odds:
            same = torch.full((len(seen),), organ)
            odds[organ][..., where] = organ_odds(seen, same)[:, 0].movedim(0, -1)
            without = logits.clone()
            without[:, organ] = -torch.inf
            otherwise[organ][0, ..., where] = _classes(without)
    segmented = postprocessing({"pred": labels, "image": volume})["pred"][0]
    on_file = {}
    for organ, labels_without in otherwise.items():
        restored = ToImageGridd()({"pred": labels_without, "image": volume})["pred"][0]
        on_file[organ] = _as_uint8(restored)
    return AutomaticResult(_as_uint8(segmented), odds, on_file)


def organ_odds(logits: Tensor, organs: Tensor) -> Tensor:
    """Return the logits [S, 1, H, W] of an organ per slice against all other classes of logits [S, K + 1, H, W]."""
    index = organs[:, None, None, None].expand(-1, 1, *logits.shape[2:])
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index) - others.logsumexp(1, keepdim=True)


def refine(answer: Answer, odds: Tensor, prompts: Mapping[int, SlicePrompts]) -> dict[int, SliceMask]:
    """Return an organ in its prompted slices, with the automatic result as the draft; see `keep_prompted`.

    Args:
        answer: gives the object that prompts mean in a slice.
        odds: [H, W, D], of `AutomaticResult`.
        prompts: by number of slice.
    """
    found = {}
    for number, asked in prompts.items():
        # A draft without the organ is passed too: without one a lone click could mean any object at its place.
        draft = odds[..., number]
        refined = answer(number, replace(asked, mask=draft))
        logits = keep_prompted(draft.to(refined.logits), refined.logits, asked)
        found[number] = replace(refined, logits=logits)
    return found


def keep_prompted(draft: Tensor, refined: Tensor, prompts: SlicePrompts) -> Tensor:
    """Return a draft with those changes of a refined mask that its prompts ask for; all are logits [H, W].

    A network asked to correct one border redraws the others too, and not for the better. Of the connected components
    that the refined mask adds, those with a click in the object are kept; of those that it removes, those with a click
    outside it; and of both, those that reach into the box.
    """
    before = draft.cpu().numpy() > 0
    after = refined.cpu().numpy() > 0
    asked = np.zeros_like(before)  # by clicks in the object or the box
    refused = np.zeros_like(before)
    for point in prompts.points:
        places = asked if point.inside else refused
        places[round(point.row), round(point.column)] = True
    if prompts.box is not None:
        rows = slice(round(prompts.box.top), round(prompts.box.bottom) + 1)
        columns = slice(round(prompts.box.left), round(prompts.box.right) + 1)
        asked[rows, columns] = True
        refused[rows, columns] = True
    added = _components_at(after & ~before, asked)
    removed = _components_at(before & ~after, refused)
    taken = torch.from_numpy(added | removed).to(refined.device)
    return torch.where(taken, refined, draft)


def _components_at(mask: NDArray[np.bool_], places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected components of a mask that hold one of the places, all [H, W]."""
    return ndimage.binary_propagation(mask & places, np.ones((3, 3)), mask)


def replace_organ(
    labels: NDArray[np.uint8],
    organ: int,
    mask: NDArray[np.bool_],
    otherwise: NDArray[np.uint8],
    numbers: Iterable[int],
    grid: SliceGrid,
) -> None:
    """Replace an organ in some slices of a label volume, in place.

    Voxels that the organ loses go to the class that is likeliest without it; no others change.

    Args:
        labels: [X, Y, Z], on the grid of the image's file.
        mask: [X, Y, Z], the organ.
        otherwise: see `AutomaticResult`.
        numbers: slices of the working volume.
        grid: of that volume.
    """
    for number in numbers:
        axis, index = grid.file_slice(number)
        plane = np.moveaxis(labels, axis, 0)[index]
        new = np.moveaxis(mask, axis, 0)[index]
        lost = (plane == organ) & ~new
        plane[lost] = np.moveaxis(otherwise, axis, 0)[index][lost]
        plane[new] = organ


def _classes(logits: Tensor) -> Tensor:
    """Return the classes [H, W, S] of logits [S, K + 1, H, W]."""
    return logits.argmax(1).to(torch.uint8).movedim(0, -1)


def _as_uint8(volume: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(volume.cpu().numpy().round().astype(np.uint8))
