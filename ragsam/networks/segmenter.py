"""The segmenter: a tuned SAM that gives all classes of a slice without a prompt, steered by supports."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.networks.checkpoints import load_sam_weights, read_state_dict
from ragsam.networks.detail import FULL_CHANNELS, DetailDecoder, DetailStem, StemPatchEmbed
from ragsam.networks.fusion import LabelPriorFusion
from ragsam.networks.lora import add_lora
from ragsam.networks.sam import BACKBONES, build_sam
from ragsam.networks.supports import SupportLookup, Supports

logger = logging.getLogger(__name__)


class Segmenter(nn.Module):
    """A SAM with K + 1 mask tokens, tuned by LoRA, with a detail branch and a label-prior fusion.

    With base weights the image encoder is frozen and the LoRA updates, the prompt encoder's `no_mask_embed`, the mask
    decoder, the detail branch and the fusion train (SAMed's choice). Without them the whole network trains.

    Args:
        num_classes: organs, without background (K).
        backbone: `vit_tiny`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the square input slice, pixels.
        patch_size: side of a patch, pixels; None takes the backbone's own.
        base: SAM state dict (`.pth`, `.safetensors`) to start from, or None.
        lora: {"rank": 4, "alpha": 4}, or None for no LoRA.
        detail: whether to add the detail branch.

    Attributes:
        lookup: where the network gets its supports when none are passed; None switches retrieval off.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vit_tiny",
        image_size: int = 64,
        patch_size: int | None = None,
        base: str | os.PathLike[str] | None = None,
        lora: Mapping[str, Any] | None = None,
        detail: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.image_size = image_size
        self.base_sha256 = sha256_file(base) if base else None
        self.lookup: SupportLookup | None = None
        self.sam = build_sam(backbone, image_size=image_size, patch_size=patch_size, num_masks=num_classes)
        self.patch_size = patch_size or BACKBONES[backbone].patch_size
        if base:
            logger.info("base weights: %s", load_sam_weights(self.sam, read_state_dict(base)))
            self.sam.image_encoder.requires_grad_(False)
            self.sam.prompt_encoder.requires_grad_(False)
            self.sam.prompt_encoder.no_mask_embed.requires_grad_(True)
        else:
            logger.info("no base weights were given: the whole network trains")
            for block in self.sam.image_encoder.blocks:
                nn.init.trunc_normal_(block.attn.rel_pos_h, std=0.02)
                nn.init.trunc_normal_(block.attn.rel_pos_w, std=0.02)
            nn.init.trunc_normal_(self.sam.image_encoder.pos_embed, std=0.02)
        if lora:
            add_lora(self.sam.image_encoder, **lora)
        dim = self.sam.mask_decoder.transformer_dim
        self.stem = DetailStem() if detail else None
        self.detail = DetailDecoder(dim, self.patch_size, zero_init=base is not None) if detail else None
        if detail and not base:
            self.sam.image_encoder.patch_embed = StemPatchEmbed(self.patch_size, BACKBONES[backbone].embed_dim)
        self.fusion = LabelPriorFusion(num_classes + 1, FULL_CHANNELS if detail else dim // 8)

    def forward(self, image: Tensor, height: Tensor | None = None, supports: Supports | None = None) -> Tensor:
        """Return the logits of all classes.

        Args:
            image: [B, 3, H, W], float, 0-1, H = W = image_size.
            height: [B], float, 0-1, the slice's position along the body; looked at by the lookup alone.
            supports: neighbours of each slice; None asks the lookup, if one is set.

        Returns:
            [B, K + 1, H, W], float; channel 0 is background.

        Raises:
            ValueError: another image size than the network was built for.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"slices are {tuple(image.shape[-2:])}, the network needs {self.image_size} squared")
        stem = self.stem(image) if self.stem is not None else None
        embedding = self.encode(image, stem)
        if supports is None and self.lookup is not None:
            height = image.new_zeros(len(image)) if height is None else height
            supports = self.lookup(image, embedding, height)
        return self.decode(embedding, stem, supports)

    def encode(self, image: Tensor, stem: dict[int, Tensor] | None = None) -> Tensor:
        """Return the image embedding [B, C, h, w] of slices [B, 3, H, W]; once a slice is enough."""
        if isinstance(self.sam.image_encoder.patch_embed, StemPatchEmbed):
            stem = self.stem(image) if stem is None else stem
            return self.sam.image_encoder(stem[4])
        return self.sam.image_encoder(image)

    def decode(self, embedding: Tensor, stem: dict[int, Tensor] | None, supports: Supports | None) -> Tensor:
        """Return logits [B, K + 1, H, W] of an embedding [B, C, h, w], steered by the supports."""
        features, tokens = self._decoder_transformer(embedding)
        features = self._upscale(features, stem)
        if self.detail is None and supports is not None:
            features = self.fusion(features, supports)
        weights = torch.stack(
            [mlp(tokens[:, i]) for i, mlp in enumerate(self.sam.mask_decoder.output_hypernetworks_mlps)], dim=1
        )
        size = (self.image_size, self.image_size)
        logits = F.interpolate(_mask_product(weights, features), size, mode="bilinear", align_corners=False)
        if self.detail is None:
            return logits
        features = self.detail.to_full_resolution(features, stem)
        if supports is not None:
            features = self.fusion(features, supports)
        return logits + _mask_product(weights, self.detail.finish(features))

    def _decoder_transformer(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Run the mask decoder's transformer with no prompt: features [B, C, h, w] and mask tokens [B, K + 1, C]."""
        decoder, prompts = self.sam.mask_decoder, self.sam.prompt_encoder
        batch, dim, rows, columns = embedding.shape
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(batch, -1, -1)
        source = embedding + prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        position = prompts.get_dense_pe().expand(batch, -1, -1, -1)
        tokens, source = decoder.transformer(source, position, tokens)
        return source.transpose(1, 2).reshape(batch, dim, rows, columns), tokens[:, 1:]

    def _upscale(self, x: Tensor, stem: dict[int, Tensor] | None) -> Tensor:
        """Upscale features [B, C, h, w] to [B, C / 8, 4 h, 4 w], with the detail branch's skips."""
        up1, norm, activation1, up2, activation2 = self.sam.mask_decoder.output_upscaling
        x, strides = up1(x), (self.patch_size // 2, self.patch_size // 4)
        x = activation1(norm(self.detail.skip(x, stem, strides[0]) if self.detail else x))
        x = up2(x)
        return activation2(self.detail.skip(x, stem, strides[1]) if self.detail else x)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the tensors that a run has to keep: all that train, or everything where there is no base."""
        state = self.state_dict()
        if self.base_sha256 is None:
            return state
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in state.items() if name in names}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Load what `trainable_state` gave.

        Raises:
            InputError: a key or a shape that is not this network's.
        """
        own = self.trainable_state()
        wrong = sorted(set(own) ^ set(state)) or sorted(key for key in own if own[key].shape != state[key].shape)
        if wrong:
            raise InputError(
                f"weights: {len(wrong)} keys or shapes do not fit the network ({wrong[0]}); use the run's own"
            )
        self.load_state_dict(state, strict=False)


def _mask_product(weights: Tensor, features: Tensor) -> Tensor:
    """Multiply mask weights [B, K + 1, C] with features [B, C, H, W]: logits [B, K + 1, H, W]."""
    return torch.einsum("bkc,bchw->bkhw", weights, features)
