"""The segmenter: a tuned SAM that gives all classes of a slice, steered by supports, or the object of a prompt."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.networks.checkpoints import load_prompt_head, load_sam_weights, read_state_dict
from ragsam.networks.detail import FULL_CHANNELS, DetailDecoder, DetailStem, StemPatchEmbed
from ragsam.networks.fusions import Fusions, fusion_names
from ragsam.networks.prompts import PromptedMasks, PromptHead, Prompts, embed_prompts
from ragsam.networks.sam import BACKBONES, build_sam
from ragsam.networks.supports import Supports
from ragsam.networks.tuning import add_tuning, chosen_tuning, freeze_base

logger = logging.getLogger(__name__)

#: Mean and standard deviation that slices of 0-1 are normalised by. SAMed takes them as they are; SAM was trained on
#: colour photographs normalised by these.
NORMALISATIONS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "sam": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PROMPTS = ("base", "trained")


class Embedded(NamedTuple):
    """Slices as the decoder takes them.

    Attributes:
        embedding: [B, C, h, w], of the image encoder.
        stem: the detail branch's features by stride, None without one.
    """

    embedding: Tensor
    stem: dict[int, Tensor] | None


class Both(NamedTuple):
    """The logits [B, K + 1, H, W] of slices with their supports, and without."""

    steered: Tensor
    plain: Tensor


class _Decoded(NamedTuple):
    """Slices where the supports enter: features, the masks' weights and, with a detail branch, the coarse logits."""

    features: Tensor
    weights: Tensor
    coarse: Tensor | None


class Segmenter(nn.Module):
    """A SAM with K + 1 class tokens, tuned with few parameters, with a detail branch and a fusion of supports.

    With base weights the image encoder is frozen; what tunes it, the prompt encoder, the mask decoder (its transformer
    not, where that carries LoRA), the detail branch and the fusion train. Without them the whole network trains.

    Args:
        num_classes: organs, without background (K).
        backbone: `vit_tiny`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the square input slice, pixels.
        patch_size: side of a patch, pixels; None takes the backbone's own.
        base: SAM state dict (`.pth`, `.safetensors`) to start from, or None.
        lora: {"rank": 4, "alpha": 4, "targets": ["q", "v"], "blocks": None, "dropout": 0.0}, or None; see `add_lora`.
        decoder_lora: {"rank": 4, ...} on the mask decoder's attention, or None; see `add_decoder_lora`.
        adapter: {"space": True, "mlp": True, "depth": False, "ratio": 0.25}, or None. With depth the channels of the
            input are a stack of slices, each of which is encoded, the middle one being segmented.
        frequency: {"rate": 0.25, "reduction": 32}, or None.
        peft: which of these four are taken, by name, one or several, in place of those that have options; None takes
            these; see `chosen_tuning`.
        full_tuning: with base weights, train all of them too.
        detail: whether to add the detail branch.
        fusion: names of `ragsam.networks.fusions`, joined by +, or None for a network without retrieval.
        prompts: `base` keeps SAM's own prompted masks where there are base weights, as they are; `trained` has them
            train too, with or without base weights; None leaves them out.
        normalisation: of the slices, a name in `NORMALISATIONS`.
        mask_tokens: for one organ alone: keep that many mask tokens, of which SAM has 4, and take the first one's mask
            for the organ and 0 for the background. Such a network answers prompts by its own masks. None has a token a
            class.
        coarse_training: while training give the decoder's own logits [B, K + 1, 4 h, 4 w], as SAMed does.
        checkpointing: what of the image encoder the backward pass works out again, for less memory in training:
            `attention`, `mlp`, `blocks`, or None for nothing.

    Attributes:
        about: what a weights file of this network says of it.

    Raises:
        ValueError: options that do not go together.
        InputError: base weights that cannot be read or do not fit.
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
        decoder_lora: Mapping[str, Any] | None = None,
        adapter: Mapping[str, Any] | None = None,
        frequency: Mapping[str, Any] | None = None,
        peft: str | Sequence[str] | None = None,
        full_tuning: bool = False,
        detail: bool = True,
        fusion: str | None = "vote_product",
        prompts: str | None = None,
        normalisation: str = "unit",
        mask_tokens: int | None = None,
        coarse_training: bool = False,
        checkpointing: str | None = None,
    ) -> None:
        super().__init__()
        fusions = fusion_names(fusion)
        _check_options(prompts, normalisation, detail=detail, coarse_training=coarse_training)
        _check_mask_tokens(mask_tokens, num_classes, prompts)
        self.num_classes = num_classes
        self.image_size = image_size
        num_masks = num_classes if mask_tokens is None else mask_tokens - 1
        self.sam = build_sam(backbone, image_size=image_size, patch_size=patch_size, num_masks=num_masks)
        self.mask_tokens = mask_tokens
        self.patch_size = patch_size or BACKBONES[backbone].patch_size
        self.base_sha256 = sha256_file(base) if base else None
        own = {"lora": lora, "decoder_lora": decoder_lora, "adapter": adapter, "frequency": frequency}
        tuning = chosen_tuning(peft, own)
        self.about = {
            "num_classes": num_classes,
            "backbone": backbone,
            "image_size": image_size,
            "patch_size": self.patch_size,
            "base_sha256": self.base_sha256,
            "tuning": {name: dict(options) for name, options in tuning.items() if options is not None},
            "full_tuning": full_tuning,
            "detail": detail,
            "fusion": fusion,
            "prompts": prompts,
            "normalisation": normalisation,
            "mask_tokens": mask_tokens,
        }
        self.coarse_training = coarse_training
        self.prompt_head = PromptHead(self.sam.mask_decoder) if prompts == "trained" or (prompts and base) else None
        self._begin(base)
        add_tuning(self.sam, **tuning)
        if base and not full_tuning:
            freeze_base(self.sam)
        if self.prompt_head is not None and prompts == "base":
            self.prompt_head.requires_grad_(False)
        self.sam.image_encoder.checkpoint(checkpointing)
        self.stacked = bool((tuning["adapter"] or {}).get("depth"))
        channels = self._add_detail(detail)
        self.fusion = Fusions(fusions, num_classes=num_classes + 1, channels=channels) if fusions else None
        mean, deviation = torch.tensor(NORMALISATIONS[normalisation])[..., None, None]
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", deviation, persistent=False)
        self.register_load_state_dict_post_hook(_excuse_base)

    def _begin(self, base: str | os.PathLike[str] | None) -> None:
        """Load base weights, or begin at random."""
        if not base:
            logger.info("no base weights were given: the whole network trains")
            _scatter_positions(self.sam.image_encoder)
            return
        state = read_state_dict(base)
        logger.info("base weights: %s", load_sam_weights(self.sam, state))
        if self.prompt_head is not None:
            load_prompt_head(self.prompt_head, state)

    def _add_detail(self, detail: bool) -> int:
        """Add the detail branch, or none; return the channels of the features that the fusion gets."""
        dim = self.sam.mask_decoder.transformer_dim
        self.stem = self.detail = None
        if not detail:
            return dim // 8
        pretrained = self.base_sha256 is not None
        self.stem = DetailStem()
        self.detail = DetailDecoder(dim, self.patch_size, self.num_classes + 1, zero_init=pretrained)
        if not pretrained:
            embed_dim = BACKBONES[self.about["backbone"]].embed_dim
            self.sam.image_encoder.patch_embed = StemPatchEmbed(self.patch_size, embed_dim)
        return FULL_CHANNELS

    def forward(
        self,
        image: Tensor,
        supports: Supports | None = None,
        *,
        embedding: Tensor | None = None,
        both: bool = False,
    ) -> Tensor | Both:
        """Return the logits of all classes.

        Args:
            image: [B, 3, H, W], float, 0-1, H = W = image_size; with a depth adapter [B, D, H, W], D odd.
            supports: neighbours of each slice; None segments without.
            embedding: of an earlier encoding, see `embed`.
            both: give `Both`, with the supports and without; needs supports.

        Returns:
            [B, K + 1, H, W], float; channel 0 is background. With `coarse_training`, while training, of the decoder's
            own size.

        Raises:
            ValueError: another image size than the network was built for.
        """
        embedded = self.embed(image, embedding)
        return self.decode_both(embedded, supports) if both else self.decode(embedded, supports)

    def embed(self, image: Tensor, embedding: Tensor | None = None) -> Embedded:
        """Encode slices, see `forward` for their layout; once is enough for any number of decodings.

        Args:
            embedding: [B, C, h, w], of an earlier encoding of these slices, which are then not encoded again; what it
                depends on gets no gradient.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"slices are {tuple(image.shape[-2:])}, the network needs {self.image_size} squared")
        if self.stacked and embedding is not None:
            image = image[:, [image.shape[1] // 2]]
        stack = image.shape[1] if self.stacked else 1
        if self.stacked:
            image = image.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        image = (image - self.pixel_mean) / self.pixel_std
        stem = self.stem(image) if self.stem is not None else None
        fed = self.stem in self.encoding_parts
        if embedding is None:
            x = stem[4] if fed else image
            embedding = _middle(self.sam.image_encoder(x, image=image, stack=stack), stack)
        elif fed:
            stem = {stride: features.detach() for stride, features in stem.items()}
        return Embedded(embedding, stem and {stride: _middle(features, stack) for stride, features in stem.items()})

    @property
    def encoding_parts(self) -> list[nn.Module]:
        """What the embedding depends on: the image encoder, and the stem where it feeds that."""
        encoder = self.sam.image_encoder
        return [encoder, self.stem] if isinstance(encoder.patch_embed, StemPatchEmbed) else [encoder]

    def encode(self, image: Tensor) -> Tensor:
        """Return the image embedding [B, C, h, w] of slices alone."""
        return self.embed(image).embedding

    def decode(self, embedded: Embedded, supports: Supports | None = None) -> Tensor:
        """Return logits [B, K + 1, H, W] of embedded slices, steered by the supports."""
        decoded = self._decoded(embedded)
        if supports is None or self.fusion is None:
            return self._summed(decoded, self._product(decoded, decoded.features), None)
        features, prior = self.fusion.steer(decoded.features, supports)
        return self._steered(decoded, self._product(decoded, features), prior, supports)

    def decode_both(self, embedded: Embedded, supports: Supports) -> Both:
        """Return the logits of embedded slices with the supports and without; what is common to both runs once."""
        decoded = self._decoded(embedded)
        plain = self._product(decoded, decoded.features)
        features, prior = self.fusion.steer(decoded.features, supports)
        product = plain if features is decoded.features else self._product(decoded, features)
        steered = self._steered(decoded, product, prior, supports)
        return Both(steered, self._summed(decoded, plain, None))

    def _decoded(self, embedded: Embedded) -> _Decoded:
        """Run the decoder up to full resolution, where the supports enter."""
        embedding, stem = embedded
        decoder = self.sam.mask_decoder
        dense = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        features, tokens = self._transform(embedding, decoder.mask_tokens.weight, None, dense)
        features = self._upscale(features, stem)
        mlps = decoder.output_hypernetworks_mlps
        weights = _mask_weights(mlps if self.mask_tokens is None else mlps[:1], tokens[:, 1:])
        if self.mask_tokens is not None:
            weights = torch.cat([torch.zeros_like(weights), weights], dim=1)
        if self.detail is None:
            return _Decoded(features, weights, None)
        coarse = self._to_full_size(_mask_product(weights, features))
        return _Decoded(self.detail.to_full_resolution(features, stem), weights, coarse)

    def _steered(self, decoded: _Decoded, product: Tensor, prior: Tensor | None, supports: Supports) -> Tensor:
        """Return a mask product as logits, with the vote of the supports; while training without: it is not learnt."""
        logits = self._summed(decoded, product, prior)
        if self.training or self.fusion.vote_product is None:
            return logits
        return self.fusion.vote_product(logits, supports)

    def _product(self, decoded: _Decoded, features: Tensor) -> Tensor:
        """Return the product of the masks' weights with features, those at full resolution finished first."""
        return _mask_product(decoded.weights, features if decoded.coarse is None else self.detail.finish(features))

    def _summed(self, decoded: _Decoded, logits: Tensor, prior: Tensor | None) -> Tensor:
        """Return logits with what the supports and the coarse masks add to them, as `forward` gives them."""
        logits = logits if prior is None else logits + prior
        if decoded.coarse is not None:
            logits = decoded.coarse + logits
            return logits if self.detail.prior is None else logits + self.detail.prior[:, None, None]
        return logits if self.coarse_training and self.training else self._to_full_size(logits)

    def decode_prompted(self, embedded: Embedded, prompts: Prompts) -> PromptedMasks:
        """Return the masks of prompted objects.

        Args:
            embedded: of N slices, one an object, or of a single slice that all the objects are in.
            prompts: of N objects.

        Raises:
            ValueError: a network without prompts, or another number of slices.
        """
        if not self.answers_prompts:
            raise ValueError("the network answers no prompts; build it with prompts='base' or 'trained'")
        if len(embedded.embedding) not in (1, len(prompts)):
            raise ValueError(f"{len(embedded.embedding)} slices for {len(prompts)} objects; give one each, or one")
        embedding = embedded.embedding.expand(len(prompts), -1, -1, -1)
        stem = embedded.stem and {s: f.expand(len(prompts), -1, -1, -1) for s, f in embedded.stem.items()}
        sparse, dense = embed_prompts(self.sam.prompt_encoder, prompts)
        return self.decode_embedded_prompts(Embedded(embedding, stem), sparse, dense)

    @property
    def answers_prompts(self) -> bool:
        """Whether the network has masks for prompts."""
        return self.prompt_head is not None or self.mask_tokens is not None

    def decode_embedded_prompts(self, embedded: Embedded, sparse: Tensor, dense: Tensor) -> PromptedMasks:
        """Return the masks of objects, each in a slice of its own, of prompts as `embed_prompts` gives them."""
        embedding, stem = embedded
        head = self.prompt_head if self.mask_tokens is None else self.sam.mask_decoder
        features, tokens = self._transform(embedding, head.mask_tokens.weight, sparse, dense)
        features = self._upscale(features, stem)
        weights = _mask_weights(head.output_hypernetworks_mlps, tokens[:, 1:])
        coarse = _mask_product(weights, features)
        logits = self._to_full_size(coarse)
        if self.detail is not None:
            logits = logits + _mask_product(weights, self.detail.finish(self.detail.to_full_resolution(features, stem)))
        return PromptedMasks(logits, coarse, head.iou_prediction_head(tokens[:, 0]))

    def _transform(
        self, embedding: Tensor, masks: Tensor, sparse: Tensor | None, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the mask decoder's transformer.

        Args:
            embedding: [B, C, h, w].
            masks: [M, C], tokens of the masks.
            sparse: [B, T, C], embedded points and boxes, or None.
            dense: [B or 1, C, h or 1, w or 1], embedded masks.

        Returns:
            Features [B, C, h, w], and tokens [B, 1 + M + T, C], the first that of quality, then the masks'.
        """
        decoder = self.sam.mask_decoder
        batch, dim, rows, columns = embedding.shape
        tokens = torch.cat([x.expand(batch, -1, -1) for x in (decoder.iou_token.weight, masks)], dim=1)
        if sparse is not None:
            tokens = torch.cat([tokens, sparse], dim=1)
        position = self.sam.prompt_encoder.get_dense_pe().expand(batch, -1, -1, -1)
        tokens, source = decoder.transformer(embedding + dense, position, tokens)
        return source.transpose(1, 2).reshape(batch, dim, rows, columns), tokens

    def _upscale(self, x: Tensor, stem: dict[int, Tensor] | None) -> Tensor:
        """Upscale features [B, C, h, w] to [B, C / 8, 4 h, 4 w], with the detail branch's skips."""
        up1, norm, activation1, up2, activation2 = self.sam.mask_decoder.output_upscaling
        x, strides = up1(x), (self.patch_size // 2, self.patch_size // 4)
        x = activation1(norm(self.detail.skip(x, stem, strides[0]) if self.detail else x))
        x = up2(x)
        return activation2(self.detail.skip(x, stem, strides[1]) if self.detail else x)

    def _to_full_size(self, coarse: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        return F.interpolate(coarse, size, mode="bilinear", align_corners=False)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the tensors that a run has to keep: all that train, or everything where there is no base."""
        state = self.state_dict()
        if self.base_sha256 is None:
            return state
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        names |= {f"fusion.{name}" for name, _ in self.fusion.named_buffers()} if self.fusion is not None else set()
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


def _check_options(prompts: str | None, normalisation: str, *, detail: bool, coarse_training: bool) -> None:
    """Refuse options by name, before anything is built."""
    if prompts is not None and prompts not in PROMPTS:
        raise ValueError(f"prompts {prompts!r} is unknown; choose one of {', '.join(PROMPTS)}, or null for none")
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation {normalisation!r} is unknown; choose one of {', '.join(NORMALISATIONS)}")
    if coarse_training and detail:
        raise ValueError("coarse_training leaves the detail branch without a loss; switch one of them off")


def _check_mask_tokens(mask_tokens: int | None, num_classes: int, prompts: str | None) -> None:
    if mask_tokens is None:
        return
    if num_classes != 1 or mask_tokens < 2:
        raise ValueError(f"mask_tokens {mask_tokens}: 2 or more, for one organ; with {num_classes} set it to null")
    if prompts is not None:
        raise ValueError("mask_tokens: such a network answers prompts by its own masks; set prompts to null")


def _scatter_positions(encoder: nn.Module) -> None:
    """Start the position tables of a network without base weights at random; SAM's start at zero."""
    tables = [encoder.pos_embed] + [t for block in encoder.blocks for t in (block.attn.rel_pos_h, block.attn.rel_pos_w)]
    for table in tables:
        nn.init.trunc_normal_(table, std=0.02)


def _excuse_base(network: Segmenter, keys: Any) -> None:
    """Let `load_state_dict` do with what a run keeps, as MONAI's tools call it: the base weights are in already."""
    kept = network.trainable_state()
    keys.missing_keys[:] = [key for key in keys.missing_keys if key in kept]


def _middle(x: Tensor, stack: int) -> Tensor:
    """Return the middle slice of every stack: [B * stack, ...] to [B, ...]."""
    return x if stack == 1 else x.unflatten(0, (-1, stack))[:, stack // 2]


def _mask_weights(mlps: nn.ModuleList, tokens: Tensor) -> Tensor:
    """Return the weights of the mask product [B, M, C / 8] of the masks' tokens [B, M or more, C]."""
    return torch.stack([mlp(tokens[:, index]) for index, mlp in enumerate(mlps)], dim=1)


def _mask_product(weights: Tensor, features: Tensor) -> Tensor:
    """Multiply mask weights [B, M, C] with features [B, C, H, W]: logits [B, M, H, W]."""
    return torch.einsum("bkc,bchw->bkhw", weights, features)
