"""Training on one encoding of a batch: classes with supports and without, answers to prompts, and the loss of all."""

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
from ragsam.prompting.refinement import organ_odds
from ragsam.training.batches import prepare_slices
from ragsam.training.losses import Target
from ragsam.training.simulated_prompts import DrawnPrompts, corrected, draw_prompts


class Answered(NamedTuple):
    """What a network gives for a batch with supports or prompts.

    Attributes:
        logits: of all classes, as without prompts; steered by the supports, where there are any.
        groups: the objects with their prompts, and the masks given for them.
        plain: of all classes, without the supports; None where there are none.
    """

    logits: Tensor
    groups: tuple[tuple[DrawnPrompts, PromptedMasks], ...] = ()
    plain: Tensor | None = None


class PromptDrawing:
    """Puts prompts for the organs of its slices into every training batch, as `drawn`; see `draw_prompts`.

    Args:
        network: the segmenter that trains.
    """

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
    """Return what `prepare_slices` does, with "drawn", a tuple of `DrawnPrompts`, beside "supports"."""
    image, target, args, options = prepare_slices(batch, device, non_blocking, **kwargs)
    return image, target, args, {**options, "drawn": tuple(group.to(device) for group in batch.get("drawn", ()))}


class PromptedInferer(Inferer):
    """Runs a network on a training batch: its classes, with supports and without, and the prompts that were drawn.

    A network that learns from both kinds of logits stays as good without supports as one that never had any.

    Args:
        precision: of the network's arithmetic, see `autocast_dtype`; what it gives is float32, and so is the loss.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        self.precision = precision

    def __call__(
        self, inputs: Tensor, network: nn.Module, *, drawn: Sequence[DrawnPrompts] = (), **options: Any
    ) -> Tensor | Answered:
        """Return the logits of slices [B, C, S, S], or `Answered`; the encoder runs once."""
        with autocast(autocast_dtype(self.precision, inputs.device), inputs.device):
            return _float(self._run(inputs, network, drawn, options))

    @staticmethod
    def _run(
        inputs: Tensor, network: nn.Module, drawn: Sequence[DrawnPrompts], options: dict[str, Any]
    ) -> Tensor | Answered:
        supports = options.get("supports")
        if not drawn:
            if supports is None:
                return network(inputs, **options)
            steered, plain = network(inputs, **options, both=True)
            return Answered(steered, plain=plain)
        embedded, plain = network.embed(inputs, options.get("embedding")), None
        if supports is None:
            logits = network.decode(embedded)
        else:
            logits, plain = network.decode_both(embedded, supports)
        groups = []
        for group in drawn:
            if group.prompts is None:
                group = _refining(group, logits.detach().float(), network.sam.prompt_encoder.mask_input_size)
            stem = embedded.stem and {stride: features[group.rows] for stride, features in embedded.stem.items()}
            chosen = Embedded(embedded.embedding[group.rows], stem)
            groups.append((group, network.decode_prompted(chosen, group.prompts)))
        return Answered(logits, tuple(groups), plain)


def _float(given: Tensor | Answered) -> Tensor | Answered:
    if isinstance(given, Tensor):
        return given.float()
    groups = tuple((drawn, PromptedMasks(*(part.float() for part in masks))) for drawn, masks in given.groups)
    return Answered(given.logits.float(), groups, None if given.plain is None else given.plain.float())


def _refining(drawn: DrawnPrompts, logits: Tensor, mask_size: Sequence[int]) -> DrawnPrompts:
    """Return objects prompted by what logits [B, K + 1, h, w] make of them, and clicks where that is wrong."""
    odds = organ_odds(logits[drawn.rows], drawn.organs)
    return corrected(drawn, F.interpolate(odds, drawn.objects.shape[2:], mode="bilinear"), mask_size)


class PromptedLoss(nn.Module):
    """Adds to the loss of the classes that of the classes without supports, and that of prompted objects.

    Args:
        classes: of the logits of all classes.
        weight: of `object_loss`.

    Attributes:
        parts: those of `classes` for the last batch, with supports where there are any; the loss without them as
            `plain`; and the mean loss of its objects as `prompts`, not weighted.
    """

    def __init__(self, classes: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        self.classes = classes
        self.weight = weight
        self.parts: dict[str, Tensor] = {}

    def forward(self, prediction: Tensor | Answered, target: Target) -> Tensor:
        """Return the loss, a scalar, of what a `PromptedInferer` gave."""
        if not isinstance(prediction, Answered):
            loss = self.classes(prediction, target)
            self.parts = getattr(self.classes, "parts", {})
            return loss
        loss = self.classes(prediction.logits, target)
        self.parts = dict(getattr(self.classes, "parts", {}))
        if prediction.plain is not None:
            plain = self.classes(prediction.plain, target)
            self.parts["plain"] = plain.detach()
            loss = loss + plain
        if prediction.groups:
            objects = sum(len(drawn.rows) for drawn, _ in prediction.groups)
            prompted = sum(
                object_loss(masks, drawn) * (len(drawn.rows) / objects) for drawn, masks in prediction.groups
            )
            self.parts["prompts"] = prompted.detach()
            loss = loss + self.weight * prompted
        return loss


def object_loss(masks: PromptedMasks, drawn: DrawnPrompts) -> Tensor:
    """Return the mean loss of prompted objects, a scalar.

    A mask's loss is its sigmoid cross entropy plus its Dice loss. For a lone click the best of the three masks counts,
    else the first. To it comes the squared error of the quality, which should be the mask's true intersection over
    union; that of two empty masks is 1.

    Source: Kirillov et al., arXiv:2304.02643, appendix A.
    """
    chosen = slice(1, None) if drawn.ambiguous else slice(0, 1)
    logits, quality = masks.logits[:, chosen].float(), masks.quality[:, chosen].float()
    truth = drawn.objects.to(logits.dtype).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum((2, 3)) + 1) / ((chance + truth).sum((2, 3)) + 1)
    return (entropy + dice).amin(1).mean() + (quality - true_overlap(logits > 0, drawn.objects)).square().mean()


def true_overlap(masks: Tensor, objects: Tensor) -> Tensor:
    """Return the IoU [N, M] of masks [N, M, H, W] with objects [N, 1, H, W]; 1 where none has a pixel."""
    both, either = ((op(masks, objects)).sum((2, 3)) for op in (torch.logical_and, torch.logical_or))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)
