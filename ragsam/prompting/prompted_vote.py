"""The vote sharpened by SAM: the neighbours' vote for an organ prompts SAM, whose mask is averaged with it.

Mask, box and point are made from the vote alone, without a person or a reference. Nothing is trained.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.networks.bases import BASES, base_file
from ragsam.networks.checkpoints import load_metadata, load_weights
from ragsam.networks.imports import import_checkpoint
from ragsam.networks.prompts import INSIDE, PointPrompts, Prompts, boxes_of
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.networks.supports import TINY, Supports
from ragsam.prompting.prompted_run import answering_prompts
from ragsam.prompting.prompted_volume import coarse_logits
from ragsam.prompting.refinement import organ_odds
from ragsam.retrieval.voting import VotingNetwork
from ragsam.runs.network_config import described_options
from ragsam.runs.run import WEIGHTS, RunFolder
from ragsam.runs.trained import trained_network
from ragsam.transforms.voxel_prompts import MASK_LOGIT

logger = logging.getLogger(__name__)

#: The vote's prompts to SAM.
KINDS = ("mask", "box", "point")
#: SAM's share in the mean of both.
PART = 0.5
#: SAM's mask is discarded if its intersection over union with the vote's is lower.
LEAST_OVERLAP = 0.5
#: Pixels of SAM's input over which the vote is averaged to find the surest place.
_PATCH = 5
#: Objects that are decoded, and pixels that are encoded, in one batch.
_MOST_OBJECTS = 16
_MOST_PIXELS = 2**20


class PromptedVote(VotingNetwork):
    """Segments by the vote of its supports, each organ in a slice sharpened by SAM's answer to it.

    Args:
        num_classes, image_size: see `VotingNetwork`.
        sam: a network that answers prompts, at its own image size.
        repeated: whether it takes the slice alone, repeated in all channels.
        kinds: its prompts, of `KINDS`.
        part: its share in the mean, 0 to 1.
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
        """Return SAM's answers to the vote for objects [N, 2], see `objects_of`: logits [N, H, W]."""
        found = [vote.new_zeros(0, *vote.shape[2:])]
        for start in range(0, len(objects), _MOST_OBJECTS):
            found.append(self._answer(image, vote, objects[start : start + _MOST_OBJECTS]))
        return torch.cat(found)

    def _answer(self, image: Tensor, vote: Tensor, objects: Tensor) -> Tensor:
        rows, organs = objects.unbind(1)
        drafts = _resized(organ_odds(vote[rows], organs), (self.sam.image_size, self.sam.image_size))
        kept = (drafts > 0).flatten(1).any(1)[:, None, None, None]
        drafts = torch.where(kept, drafts, -drafts)  # one lost by resizing has no box; its answer is discarded
        points = boxes = masks = None
        if "point" in self.kinds:
            points = surest_points(drafts)
        if "box" in self.kinds:
            boxes = boxes_of(drafts > 0)
        if "mask" in self.kinds:
            masks = coarse_logits(drafts, self.sam.sam.prompt_encoder.mask_input_size)
        found = self.sam.decode_prompted(self._embedded(image, rows), Prompts(points, boxes, masks))
        logits = found.choose(ambiguous=self.kinds == ("point",)).logits.float()
        return _resized(logits.where(kept, -MASK_LOGIT), vote.shape[2:])[:, 0]

    def _embedded(self, image: Tensor, rows: Tensor) -> Embedded:
        """Encode the slices of some rows, each once, in SAM's own size and channels."""
        slices, places = rows.unique(return_inverse=True)
        image = image[slices]
        if self.repeated:
            middle = image.shape[1] // 2
            image = image[:, middle : middle + 1].expand(-1, 3, -1, -1)
        size = self.sam.image_size
        image = _resized(image.float(), (size, size))
        batch_size = max(1, _MOST_PIXELS // size**2)
        parts = [self.sam.embed(part) for part in image.split(batch_size)]
        embedding = torch.cat([part.embedding for part in parts])[places]
        if parts[0].stem is None:
            return Embedded(embedding, None)
        stem = {}
        for stride in parts[0].stem:
            stem[stride] = torch.cat([part.stem[stride] for part in parts])[places]
        return Embedded(embedding, stem)


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, tuple(size), mode="bilinear", align_corners=False)


def surest_points(drafts: Tensor) -> PointPrompts:
    """Return the pixel of each draft [N, 1, S, S] whose surrounding patch has the highest mean probability."""
    sure = F.avg_pool2d(drafts.sigmoid(), _PATCH, stride=1, padding=_PATCH // 2)
    place = sure.masked_fill(drafts <= 0, -1).flatten(1).argmax(1, keepdim=True)
    side = drafts.shape[-1]
    return PointPrompts((place // side).float(), (place % side).float(), torch.full_like(place, INSIDE))


def objects_of(vote: Tensor) -> Tensor:
    """Return [N, 2]: slice and organ, for every organ with more than half of a pixel by logits [B, K + 1, H, W]."""
    there = (vote.exp() > 0.5).flatten(2).any(2)
    there[:, 0] = False
    return torch.nonzero(there)


def mixed(vote: Tensor, objects: Tensor, answers: Tensor, *, part: float, least_overlap: float) -> Tensor:
    """Return logits [B, K + 1, H, W] of the vote averaged with the answers, as probabilities.

    Background takes the rest.

    Args:
        vote: logits [B, K + 1, H, W], logarithms of probabilities.
        objects: [N, 2], see `objects_of`.
        answers: logits [N, H, W].
        part, least_overlap: see `PromptedVote`.
    """
    if not len(objects):
        return vote
    shares = vote.exp()
    rows, organs = objects.unbind(1)
    own = shares[rows, organs]
    intersection = torch.logical_and(answers > 0, own > 0.5).sum((1, 2))
    union = torch.logical_or(answers > 0, own > 0.5).sum((1, 2))
    weight = part * (intersection >= least_overlap * union)[:, None, None]
    shares[rows, organs] = (1 - weight) * own + weight * answers.sigmoid()
    foreground = shares[:, 1:]
    background = 1 - foreground.sum(1, keepdim=True)
    shares = torch.cat([background, foreground], dim=1).clamp_min(TINY)
    return (shares / shares.sum(1, keepdim=True)).log()


def prompted_vote(num_classes: int, *, image_size: int, base: str | os.PathLike[str]) -> PromptedVote:
    """Return the vote sharpened by the weights of a file or a run; see `load_answering`."""
    networks = logging.getLogger("ragsam.networks")
    level = networks.level
    networks.setLevel(logging.WARNING)  # its remarks on training do not apply here
    try:
        sam, repeated = load_answering(base)
    finally:
        networks.setLevel(level)
    network = PromptedVote(num_classes, image_size=image_size, sam=sam, repeated=repeated)
    weights = _weights_file(base_file(base))
    about = {name: sam.about[name] for name in ("backbone", "image_size", "base_sha256")}
    network.about["prompted"] = {**about, "weights_sha256": sha256_file(weights)}
    logger.info("vote: sharpened by %s at %d pixels", about["backbone"], about["image_size"])
    return network


def load_answering(base: str | os.PathLike[str]) -> tuple[Segmenter, bool]:
    """Return a network that answers prompts, and whether it takes the slice repeated in all channels.

    Args:
        base: a name of `ragsam bases`; a SAM's own checkpoint (`.pth`, `.pt`); complete weights of this package
            (`.safetensors`), such as those of `ragsam import medsam`; or a run.

    Raises:
        InputError: none of them, weights that answer no prompts, or a network that takes a stack of slices.
    """
    path = base_file(base)
    if path.is_dir():
        sam, repeated = _of_run(path)
    elif path.suffix == ".safetensors":
        sam, repeated = _of_file(path)
    else:
        kind = "medsam" if str(base) == "medsam" else "sam"
        known = BASES.get(str(base))
        sam, repeated = import_checkpoint(kind, path, image_size=known and known.image_size)[0], True
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
    with torch.random.fork_rng(devices=[]):
        network, _ = trained_network(run, prompts=answering_prompts(folder))
    return network, folder.content("inference").get("context_slices") == 0


def _of_file(path: Path) -> tuple[Segmenter, bool]:
    about = load_metadata(path)
    if about.get("base_sha256") is not None:
        raise InputError(f"--base {path.name}: holds only what was tuned on a SAM; name the run that it is of")
    try:
        options = {"num_classes": about["num_classes"], **described_options(about)}
    except KeyError as error:
        raise InputError(f"--base {path.name}: does not state num_classes; make it again with this version") from error
    except InputError as error:
        raise InputError(f"--base {path.name}: {error}") from error
    with torch.random.fork_rng(devices=[]):  # its weights are loaded next
        network = Segmenter(**options)
    state, _ = load_weights(path)
    network.load_trainable_state(state)
    preparation = about.get("preparation") or {}
    context = about.get("context_slices", preparation.get("context_slices"))
    return network, context == 0
