"""The vote sharpened by SAM: what the neighbours say of an organ prompts SAM, whose mask is averaged with it.

Mask, box and point are made from the vote alone; no person and no reference takes part. Nothing is trained.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.networks.checkpoints import load_metadata, load_weights
from ragsam.networks.imports import import_checkpoint
from ragsam.networks.prompts import INSIDE, PointPrompts, Prompts, boxes_of
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.networks.supports import TINY, Supports
from ragsam.prompting.prompted_run import answering_prompts
from ragsam.prompting.prompted_volume import coarse_logits
from ragsam.prompting.refinement import organ_odds
from ragsam.retrieval.voting import VotingNetwork
from ragsam.runs.network_config import described_options, network_options
from ragsam.runs.run import WEIGHTS, RunFolder
from ragsam.runs.weights import WeightsLoader
from ragsam.transforms.voxel_prompts import MASK_LOGIT

logger = logging.getLogger(__name__)

#: What of the vote prompts SAM, and SAM's part in the mean of both.
KINDS, PART = ("mask", "box", "point"), 0.5
#: A mask of SAM's that overlaps less with the vote's, as an intersection over union, is not taken.
LEAST_OVERLAP = 0.5
#: Pixels of SAM's input over which the vote is averaged to find the surest place.
_PATCH = 5
_MOST_OBJECTS, _MOST_PIXELS = 16, 2**20


class PromptedVote(VotingNetwork):
    """Segments by the vote of its supports, each organ in a slice sharpened by what SAM answers to it.

    Args:
        num_classes, image_size: see `VotingNetwork`.
        sam: a network that answers prompts, at its own image size.
        repeated: whether it was made for the slice alone, in all channels.
        kinds: of `KINDS`, what it is prompted by.
        part: its part in the mean, 0 to 1.
        least_overlap: see `LEAST_OVERLAP`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        image_size: int,
        sam: Segmenter,
        repeated: bool = False,
        kinds: tuple[str, ...] = KINDS,
        part: float = PART,
        least_overlap: float = LEAST_OVERLAP,
    ) -> None:
        super().__init__(num_classes, image_size=image_size)
        self.sam = sam.eval().requires_grad_(False)
        self.repeated = repeated
        self.kinds = kinds
        self.part = part
        self.least_overlap = least_overlap

    def forward(self, image: Tensor, supports: Supports | None = None) -> Tensor:
        """Return logits [B, K + 1, H, W] of all classes; see `VotingNetwork.forward`."""
        vote = super().forward(image, supports)
        objects = objects_of(vote)
        answers = self.answers(image, vote, objects)
        return mixed(vote, objects, answers, part=self.part, least_overlap=self.least_overlap)

    @torch.no_grad()
    def answers(self, image: Tensor, vote: Tensor, objects: Tensor) -> Tensor:
        """Return what SAM answers to the vote about objects [N, 2], see `objects_of`: logits [N, H, W]."""
        found = [self._answer(image, vote, part) for part in objects.split(_MOST_OBJECTS) if len(part)]
        return torch.cat(found) if found else vote.new_zeros(0, *vote.shape[2:])

    def _answer(self, image: Tensor, vote: Tensor, objects: Tensor) -> Tensor:
        rows, organs = objects.unbind(1)
        size = (self.sam.image_size, self.sam.image_size)
        drafts = F.interpolate(organ_odds(vote[rows], organs), size, mode="bilinear", align_corners=False)
        seen = (drafts > 0).flatten(1).any(1)[:, None, None, None]
        drafts = torch.where(seen, drafts, -drafts)  # one lost by resizing has no box, and is not taken
        masks = self.sam.decode_prompted(self._embedded(image, rows), self._prompts(drafts))
        answers = masks.choose(ambiguous=self.kinds == ("point",)).logits.float().where(seen, -MASK_LOGIT)
        return F.interpolate(answers, vote.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def _prompts(self, drafts: Tensor) -> Prompts:
        """Return prompts of the objects of drafts, logits [N, 1, S, S], none of them empty."""
        masks = drafts > 0
        points = surest_points(drafts) if "point" in self.kinds else None
        coarse = coarse_logits(drafts, self.sam.sam.prompt_encoder.mask_input_size) if "mask" in self.kinds else None
        return Prompts(points, boxes_of(masks) if "box" in self.kinds else None, coarse)

    def _embedded(self, image: Tensor, rows: Tensor) -> Embedded:
        """Encode the slices of some rows, each once, as SAM takes them."""
        slices, places = rows.unique(return_inverse=True)
        image = image[slices]
        if self.repeated:
            image = image[:, image.shape[1] // 2][:, None].expand(-1, 3, -1, -1)
        size = self.sam.image_size
        image = F.interpolate(image.float(), (size, size), mode="bilinear", align_corners=False)
        parts = [self.sam.embed(part) for part in image.split(max(1, _MOST_PIXELS // size**2))]
        stem = parts[0].stem and {
            stride: torch.cat([part.stem[stride] for part in parts])[places] for stride in parts[0].stem
        }
        return Embedded(torch.cat([part.embedding for part in parts])[places], stem)


def surest_points(drafts: Tensor) -> PointPrompts:
    """Return, for drafts [N, 1, S, S], the pixel of each about which it is surest, in the mean over a patch."""
    sure = F.avg_pool2d(drafts.sigmoid(), _PATCH, stride=1, padding=_PATCH // 2)
    place = sure.masked_fill(drafts <= 0, -1).flatten(1).argmax(1, keepdim=True)
    side = drafts.shape[-1]
    return PointPrompts((place // side).float(), (place % side).float(), torch.full_like(place, INSIDE))


def objects_of(vote: Tensor) -> Tensor:
    """Return [N, 2]: slice and organ, wherever logits [B, K + 1, H, W] give an organ most of a pixel."""
    there = (vote.exp() > 0.5).flatten(2).any(2)
    there[:, 0] = False
    return torch.nonzero(there)


def mixed(vote: Tensor, objects: Tensor, answers: Tensor, *, part: float, least_overlap: float) -> Tensor:
    """Return logits [B, K + 1, H, W] of a vote's with answers about objects averaged into it, as shares.

    Background is what the organs leave.

    Args:
        vote: logits [B, K + 1, H, W], the logarithms of shares.
        objects: [N, 2], see `objects_of`.
        answers: logits [N, H, W].
        part, least_overlap: see `PromptedVote`.
    """
    if not len(objects):
        return vote
    shares, (rows, organs) = vote.exp(), objects.unbind(1)
    own = shares[rows, organs]
    both, either = (op(answers > 0, own > 0.5).sum((1, 2)) for op in (torch.logical_and, torch.logical_or))
    weight = part * (both >= least_overlap * either)[:, None, None]
    shares[rows, organs] = (1 - weight) * own + weight * answers.sigmoid()
    organs = shares[:, 1:]
    shares = torch.cat([1 - organs.sum(1, keepdim=True), organs], dim=1).clamp_min(TINY)
    return (shares / shares.sum(1, keepdim=True)).log()


def prompted_vote(num_classes: int, *, image_size: int, base: str | os.PathLike[str]) -> PromptedVote:
    """Return the vote sharpened by the weights of a file or a run; see `load_answering`."""
    networks = logging.getLogger("ragsam.networks")
    level = networks.level
    networks.setLevel(logging.WARNING)  # what a network says of its training is not for this
    try:
        sam, repeated = load_answering(base)
    finally:
        networks.setLevel(level)
    network = PromptedVote(num_classes, image_size=image_size, sam=sam, repeated=repeated)
    weights = _weights_file(Path(base))
    about = {name: sam.about[name] for name in ("backbone", "image_size", "base_sha256")}
    network.about["prompted"] = {**about, "weights_sha256": sha256_file(weights)}
    logger.info("vote: sharpened by %s at %d pixels", about["backbone"], about["image_size"])
    return network


def load_answering(base: str | os.PathLike[str]) -> tuple[Segmenter, bool]:
    """Return a network that answers prompts, and whether it takes the slice repeated in all channels.

    Args:
        base: SAM's own checkpoint (`.pth`, `.pt`); weights of ours that stand alone (`.safetensors`), such as `ragsam
            import medsam` writes; or a run.

    Raises:
        InputError: none of them, weights that answer no prompts, or a network that takes a stack of slices.
    """
    path = Path(base)
    if path.is_dir():
        sam, repeated = _of_run(path)
    elif path.suffix == ".safetensors":
        sam, repeated = _of_file(path)
    else:
        sam, repeated = import_checkpoint("sam", path)[0], True
    if not sam.answers_prompts:
        raise InputError(f"--base {path.name}: answers no prompts; take SAM's own, or train with --set prompts=trained")
    if sam.stacked:
        raise InputError(f"--base {path.name}: takes a stack of slices; take one without a depth adapter")
    return sam, repeated


def _weights_file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _of_run(run: Path) -> tuple[Segmenter, bool]:
    if not RunFolder.is_one(run):
        raise InputError(f"--base {run}: not a run (no configs/inference.yaml), and no file of weights")
    folder = RunFolder(run)
    content = folder.content("inference")
    options = described_options(load_metadata(folder.weights))
    answering = answering_prompts(folder)
    if answering is not None:
        options["prompts"] = answering
    base = network_options(folder.text("inference"), folder.card.num_classes).get("base")
    network = _built({**options, "num_classes": folder.card.num_classes, "base": base})
    WeightsLoader(network, folder.weights).load()
    return network, content.get("context_slices") == 0


def _of_file(path: Path) -> tuple[Segmenter, bool]:
    about = load_metadata(path)
    if about.get("base_sha256") is not None:
        raise InputError(f"--base {path.name}: holds only what was tuned on a SAM; name the run that it is of")
    names = ("num_classes", "backbone", "image_size", "patch_size", "detail", "fusion", "prompts", "mask_tokens")
    if lacking := [name for name in (*names, "tuning", "normalisation") if name not in about]:
        raise InputError(f"--base {path.name}: says nothing of {lacking[0]}; make it anew with this version")
    options = {name: about[name] for name in (*names, "normalisation")}
    network = _built({**options, **about["tuning"]})
    network.load_trainable_state(load_weights(path)[0])
    context = about.get("context_slices", (about.get("preparation") or {}).get("context_slices"))
    return network, context == 0


def _built(options: dict[str, Any]) -> Segmenter:
    """Build a network to be filled: its random weights leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        return Segmenter(**options)
