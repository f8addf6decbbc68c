"""Tuning: what is added to a SAM, and which of its parameters train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segment_anything.modeling import Sam

from ragsam.networks.adapter import Adapter, add_adapters
from ragsam.networks.frequency import FrequencyPrompts
from ragsam.networks.lora import add_decoder_lora, add_lora, lora_layers

#: What can tune a SAM: the options of each way where its name is all that was given.
USUAL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "targets": ["q", "v"]},
    "decoder_lora": {"rank": 4},
    "adapter": {"space": True, "mlp": True},
    "frequency": {"rate": 0.25},
}
TUNINGS = tuple(USUAL)


def chosen_names(peft: str | Sequence[str]) -> list[str]:
    """Return the names of one or several ways to tune."""
    return [peft] if isinstance(peft, str) else list(peft)


def chosen_tuning(
    peft: str | Sequence[str] | None, own: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Return the options of what tunes a SAM, in the order of `TUNINGS`.

    Args:
        peft: a name of `TUNINGS`, or several; None chooses all that have options.
        own: options by name, or None. A chosen way has its options, or else the usual ones.

    Raises:
        ValueError: an unknown name.
    """
    given = {name: options for name, options in own.items() if options is not None}
    names = list(given) if peft is None else chosen_names(peft)
    for name in names:
        if name not in TUNINGS:
            raise ValueError(f"peft {name} is not one of {', '.join(TUNINGS)}")
    options = USUAL | given
    return {name: dict(options[name]) for name in TUNINGS if name in names}


def add_tuning(
    sam: Sam,
    *,
    lora: Mapping[str, Any] | None = None,
    decoder_lora: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | None = None,
    frequency: Mapping[str, Any] | None = None,
) -> None:
    """Add what tunes a SAM with few parameters, in place; everything combines, and starts at exactly zero effect.

    Args:
        sam: of `build_sam`, its weights already in it.
        lora: options of `add_lora`, for the encoder.
        decoder_lora: options of `add_decoder_lora`.
        adapter: options of `add_adapters`.
        frequency: options of `FrequencyPrompts`: rate, reduction.
    """
    encoder = sam.image_encoder
    if lora is not None:
        add_lora(encoder, **lora)
    if decoder_lora is not None:
        add_decoder_lora(sam.mask_decoder.transformer, **decoder_lora)
    if adapter is not None:
        add_adapters(encoder, **adapter)
    if frequency is not None:
        encoder.add_frequency(**frequency)


def freeze_base(sam: Sam) -> None:
    """Freeze what SAMed, SAMed_s, Medical-SAM-Adapter and SAM-Adapter leave as it was, in place.

    Of the encoder only what was added trains. The prompt encoder and the mask decoder train; the decoder's transformer
    does not where it carries LoRA.
    """
    sam.image_encoder.requires_grad_(False)
    transformer = sam.mask_decoder.transformer
    if lora_layers(transformer):
        transformer.requires_grad_(False)
    for layer in lora_layers(sam):
        layer.updates.requires_grad_(True)
    for module in sam.modules():
        if isinstance(module, Adapter | FrequencyPrompts):
            module.requires_grad_(True)
