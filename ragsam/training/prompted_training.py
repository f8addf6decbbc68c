"""Training on one encoding of a batch: classes with and without supports, answers to prompts, and the joint loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from torch import Tensor, nn

from ragsam.networks.precision import autocast, autocast_dtype
from ragsam.networks.prompts import PromptedMasks
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.networks.supports import Supports
from ragsam.prompting.refinement import organ_odds
from ragsam.training.batches import prepare_slices
from ragsam.training.losses import Target
from ragsam.training.simulated_prompts import DrawnPrompts, corrected, draw_prompts


class Answered(NamedTuple):
    """A network's output for a batch with supports or prompts.

    Attributes:
        logits: of all classes, without prompts; steered by the supports, if there are any.
        groups: the objects with their prompts, and the masks predicted for them.
        plain: logits of all classes without the supports; None for a batch without supports.
    """

    logits: Tensor
    groups: tuple[tuple[DrawnPrompts, PromptedMasks], ...] = ()
    plain: Tensor | None = None


class PromptDrawing:
    """Puts prompts for the organs of its slices into every training batch, as `drawn`; see `draw_prompts`."""

    def __init__(self, network: Segmenter) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw the prompts of the batch at hand."""
        batch = engine.state.batch
        size = self.network.sam.prompt_encoder.mask_input_size
        batch["drawn"] = draw_prompts(batch["label"], batch["annotated"], size)


def prepare_prompted_slices(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Target, tuple[()], dict[str, Any]]:
    """Return the result of `prepare_slices`, with "drawn", a tuple of `DrawnPrompts`, beside "supports"."""
    image, target, args, options = prepare_slices(batch, device, non_blocking, **kwargs)
    options["drawn"] = tuple(group.to(device) for group in batch.get("drawn", ()))
    return image, target, args, options


class PromptedInferer(Inferer):
    """Runs a network on a training batch: the classes with and without supports, and the prompts that were drawn.

    A network that learns from both kinds of logits stays as good without supports as one that never had any.

    Args:
        precision: of the network's arithmetic, see `autocast_dtype`; its output and the loss are float32.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        self.precision = precision

    def __call__(
        self, inputs: Tensor, network: nn.Module, *, drawn: Sequence[DrawnPrompts] = (), **options: Any
    ) -> Tensor | Answered:
        """Return the logits of slices [B, C, S, S], or `Answered`; the encoder runs once."""
        with autocast(autocast_dtype(self.precision, inputs.device), inputs.device):
            supports = options.get("supports")
            if drawn:
                return _answer(inputs, network, drawn, supports, options.get("embedding"))
            if supports is None:
                return network(inputs, **options).float()
            steered, plain = network(inputs, **options, both=True)
            return Answered(steered.float(), plain=plain.float())


def _answer(
    inputs: Tensor,
    network: Segmenter,
    drawn: Sequence[DrawnPrompts],
    supports: Supports | None,
    embedding: Tensor | None,
) -> Answered:
    """Decode one encoding of a batch for all classes and for every group of prompted objects."""
    embedded = network.embed(inputs, embedding)
    plain = None
    if supports is None:
        logits = network.decode(embedded).float()
    else:
        steered, without = network.decode_both(embedded, supports)
        logits = steered.float()
        plain = without.float()
    mask_size = network.sam.prompt_encoder.mask_input_size
    groups = []
    for objects in drawn:
        if objects.prompts is None:  # the network's own result is corrected
            odds = organ_odds(logits.detach()[objects.rows], objects.organs)
            drafts = F.interpolate(odds, objects.objects.shape[2:], mode="bilinear")
            objects = corrected(objects, drafts, mask_size)
        stem = embedded.stem
        if stem is not None:
            stem = {stride: features[objects.rows] for stride, features in stem.items()}
        chosen = Embedded(embedded.embedding[objects.rows], stem)
        masks = network.decode_prompted(chosen, objects.prompts)
        groups.append((objects, PromptedMasks(*map(Tensor.float, masks))))
    return Answered(logits, tuple(groups), plain)


class PromptedLoss(nn.Module):
    """The sum of the loss of the classes, that of the classes without supports, and that of prompted objects.

    Args:
        classes: the loss of the logits of all classes.
        weight: of `object_loss`.

    Attributes:
        parts: those of `classes` for the last batch, with supports if there are any; the loss without them as `plain`;
            and the mean loss of its objects as `prompts`, not weighted.
    """

    def __init__(self, classes: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        self.classes = classes
        self.weight = weight
        self.parts: dict[str, Tensor] = {}

    def forward(self, prediction: Tensor | Answered, target: Target) -> Tensor:
        """Return the loss, a scalar, of the output of a `PromptedInferer`."""
        if isinstance(prediction, Tensor):
            prediction = Answered(prediction)
        loss = self.classes(prediction.logits, target)
        self.parts = dict(getattr(self.classes, "parts", {}))
        if prediction.plain is not None:
            plain = self.classes(prediction.plain, target)
            self.parts["plain"] = plain.detach()
            loss = loss + plain
        if prediction.groups:
            objects = sum(len(drawn.rows) for drawn, _ in prediction.groups)
            prompted = 0
            for drawn, masks in prediction.groups:
                share = len(drawn.rows) / objects
                prompted = prompted + object_loss(masks, drawn) * share
            self.parts["prompts"] = prompted.detach()
            loss = loss + self.weight * prompted
        return loss


def object_loss(masks: PromptedMasks, drawn: DrawnPrompts) -> Tensor:
    """Return the mean loss of prompted objects, a scalar.

    A mask's loss is its sigmoid cross entropy plus its Dice loss. For a lone click the best of the three masks counts,
    otherwise the first. Added is the squared error of the quality, which should be the mask's true intersection over
    union; that of two empty masks is 1.

    Source: Kirillov et al., arXiv:2304.02643, appendix A.
    """
    chosen = slice(1, None) if drawn.ambiguous else slice(0, 1)
    logits = masks.logits[:, chosen].float()
    quality = masks.quality[:, chosen].float()
    truth = drawn.objects.to(logits.dtype).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum((2, 3)) + 1) / ((chance + truth).sum((2, 3)) + 1)
    error = quality - true_overlap(logits > 0, drawn.objects)
    return (entropy + dice).amin(1).mean() + error.square().mean()


def true_overlap(masks: Tensor, objects: Tensor) -> Tensor:
    """Return the IoU [N, M] of masks [N, M, H, W] with objects [N, 1, H, W]; 1 where both are empty."""
    intersection = torch.logical_and(masks, objects).sum((2, 3))
    union = torch.logical_or(masks, objects).sum((2, 3))
    return torch.where(union > 0, intersection / union.clamp_min(1), 1.0)
