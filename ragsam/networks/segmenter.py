"""The segmenter: a tuned SAM that gives all classes of a slice, steered by supports, or the object of a prompt."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.networks.bases import base_file
from ragsam.networks.checkpoints import load_prompt_head, load_sam_weights, read_state_dict
from ragsam.networks.detail import FULL_CHANNELS, STEM_CHANNELS, DetailDecoder, DetailStem, StemPatchEmbed
from ragsam.networks.fusions import Fusions, fusion_names
from ragsam.networks.prompts import PromptedMasks, PromptHead, Prompts, embed_prompts
from ragsam.networks.sam import BACKBONES, build_sam
from ragsam.networks.skip_decoder import SKIPS, SkipMaskDecoder
from ragsam.networks.supports import Supports
from ragsam.networks.tuning import add_tuning, chosen_tuning, freeze_base

logger = logging.getLogger(__name__)

#: Mean and standard deviation that slices of 0-1 are normalised by. SAMed takes them as they are; SAM was trained on
#: colour photographs normalised by these; LiteMedSAM takes each slice from its own minimum to its own maximum.
NORMALISATIONS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "sam": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "minmax": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
#: The least range of a slice that is divided by, as in LiteMedSAM's code.
_LEAST_RANGE = 1e-8
PROMPTS = ("base", "trained")
#: What is enlarged to the slice's size: logits, as SAM does, or probabilities, as MedSAM does.
ENLARGED = ("logits", "probabilities")
#: The code of positions in a slice, a buffer.
POSITIONS = "sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


class Embedded(NamedTuple):
    """Slices as the decoder takes them.

    Attributes:
        embedding: [B, C, h, w], of the image encoder.
        stem: finer features: the detail branch's by stride, and as `skip_8` and `skip_4` those that SAM 2's mask
            decoder takes; none without either.
    """

    embedding: Tensor
    stem: dict[int | str, Tensor]


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
        backbone: a name of `ragsam.networks.sam.BACKBONES`.
        image_size: side of the square input slice, pixels.
        patch_size: side of a patch, pixels; None takes the backbone's own.
        base: SAM state dict (`.pth`, `.safetensors`) to start from, or the name of one, see `ragsam.networks.bases`;
            or None.
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
        enlarged: what the decoder gives is brought to the slice's size as `logits` or, with `mask_tokens` alone, as
            `probabilities`.
        efficient_decoder: relu or gelu: EfficientSAM's transformer in the mask decoder, with that activation; None:
            SAM's. See `ragsam.networks.two_way`.
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
        enlarged: str = "logits",
        efficient_decoder: str | None = None,
        coarse_training: bool = False,
        checkpointing: str | None = None,
    ) -> None:
        super().__init__()
        fusions = fusion_names(fusion)
        _check_options(num_classes, prompts, normalisation, mask_tokens, coarse_training=coarse_training, detail=detail)
        _check_enlarged(enlarged, mask_tokens)
        own = {"lora": lora, "decoder_lora": decoder_lora, "adapter": adapter, "frequency": frequency}
        tuning = chosen_tuning(peft, own)
        num_masks = num_classes if mask_tokens is None else mask_tokens - 1
        sizes = {"image_size": image_size, "patch_size": patch_size, "num_masks": num_masks}
        self.sam = build_sam(backbone, **sizes, efficient_decoder=efficient_decoder)
        self.num_classes = num_classes
        self.backbone = backbone
        self.image_size = image_size
        self.patch_size = patch_size or BACKBONES[backbone].patch_size
        self.mask_tokens = mask_tokens
        self.enlarged = enlarged
        self.coarse_training = coarse_training
        self.stacked = bool(tuning.get("adapter", {}).get("depth"))
        self.own_positions = bool(tuning.get("frequency", {}).get("as_published"))
        self.prompt_head: PromptHead | None = None
        if prompts == "trained" or (prompts == "base" and base):
            self.prompt_head = PromptHead(self.sam.mask_decoder)
        self.base_sha256: str | None = None
        if base:
            self._load_base(base_file(base))
        else:
            self.sam.image_encoder.init_positions()
        add_tuning(self.sam, **tuning)
        self._freeze(full_tuning=full_tuning, prompts=prompts)
        self.sam.image_encoder.checkpoint(checkpointing)
        self._add_detail(detail, BACKBONES[backbone].embed_dim)
        self._add_fusion(fusions)
        self._add_normalisation(normalisation)
        self.register_load_state_dict_post_hook(_excuse_base)
        self.about = {
            "num_classes": num_classes,
            "backbone": backbone,
            "image_size": image_size,
            "patch_size": self.patch_size,
            "base_sha256": self.base_sha256,
            "tuning": tuning,
            "full_tuning": full_tuning,
            "detail": detail,
            "fusion": fusion,
            "prompts": prompts,
            "normalisation": normalisation,
            "mask_tokens": mask_tokens,
            "enlarged": enlarged,
            "efficient_decoder": efficient_decoder,
        }

    def _load_base(self, base: Path) -> None:
        self.base_sha256 = sha256_file(base)
        try:
            state = read_state_dict(base)
            report = load_sam_weights(self.sam, state)
            if self.prompt_head is not None:
                load_prompt_head(self.prompt_head, state)
        except InputError as error:
            raise InputError(f"{error} (its SHA-256: {self.base_sha256})") from error
        logger.info("base weights: %s", report)

    def _freeze(self, *, full_tuning: bool, prompts: str | None) -> None:
        if self.base_sha256 is None:
            return
        if not full_tuning:
            freeze_base(self.sam)
        if prompts == "base":
            self.prompt_head.requires_grad_(False)

    def _add_normalisation(self, name: str) -> None:
        self.scales_each_slice = name == "minmax"
        mean, deviation = torch.tensor(NORMALISATIONS[name])[..., None, None]
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", deviation, persistent=False)

    def _add_detail(self, detail: bool, embed_dim: int) -> None:
        """Add the detail branch, or none; without base weights its stem feeds the patch embedding.

        An encoder of base weights that has features at full resolution gives them in place of a stem.
        """
        self.stem: DetailStem | None = None
        self.detail: DetailDecoder | None = None
        pretrained = self.base_sha256 is not None
        self.own_features = detail and pretrained and 1 in self.sam.image_encoder.finer_channels
        if not detail:
            return
        dim = self.sam.mask_decoder.transformer_dim
        channels = STEM_CHANNELS
        if self.own_features:
            channels = self.sam.image_encoder.finer_channels
        else:
            self.stem = DetailStem()
        self.detail = DetailDecoder(dim, self.patch_size, self.num_classes + 1, channels=channels, zero_init=pretrained)
        if not pretrained and BACKBONES[self.backbone].family == "vit":
            self.sam.image_encoder.patch_embed = StemPatchEmbed(self.patch_size, embed_dim)

    def _add_fusion(self, names: Sequence[str]) -> None:
        """Add what the supports steer the logits by, if anything."""
        self.fusion: Fusions | None = None
        if names:
            channels = self.sam.mask_decoder.transformer_dim // 8 if self.detail is None else FULL_CHANNELS
            self.fusion = Fusions(names, num_classes=self.num_classes + 1, channels=channels)

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
        if both:
            return self.decode_both(embedded, supports)
        return self.decode(embedded, supports)

    def embed(self, image: Tensor, embedding: Tensor | None = None) -> Embedded:
        """Encode slices, see `forward` for their layout; once is enough for any number of decodings.

        Args:
            embedding: [B, C, h, w], of an earlier encoding of these slices, which are then not encoded again; what it
                depends on gets no gradient.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"slices are {tuple(image.shape[-2:])}, the network needs {self.image_size} squared")
        stack = 1
        if self.stacked:
            if embedding is not None:  # of a stack that is encoded already the middle slice is enough
                image = image[:, [image.shape[1] // 2]]
            stack = image.shape[1]
            image = image.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        image = self._normalised(image)
        if self.own_features:
            return self._embed_with_own_features(image, embedding)
        if self.takes_skips:
            return self._embed_with_skips(image, embedding)
        features: dict[int | str, Tensor] = {}
        if self.stem is not None:
            features = self.stem(image)
        stem_is_encoded = self.stem in self.encoding_parts
        if embedding is None:
            x = features[4] if stem_is_encoded else image
            embedding = _middle(self.sam.image_encoder(x, image=image, stack=stack), stack)
        elif stem_is_encoded:
            features = {stride: x.detach() for stride, x in features.items()}
        return Embedded(embedding, {stride: _middle(x, stack) for stride, x in features.items()})

    def _normalised(self, image: Tensor) -> Tensor:
        """Return slices [B, 3, H, W] as the image encoder takes them."""
        if self.scales_each_slice:
            low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
            return (image - low) / (high - low).clamp_min(_LEAST_RANGE)
        return (image - self.pixel_mean) / self.pixel_std

    def _embed_with_own_features(self, image: Tensor, embedding: Tensor | None) -> Embedded:
        """Encode normalised slices, with the encoder's own finer features for the detail branch."""
        encoder = self.sam.image_encoder
        if embedding is None:
            return Embedded(*encoder.features(image))
        finer = encoder.finer(image)
        return Embedded(embedding, {stride: x.detach() for stride, x in finer.items()})

    def _embed_with_skips(self, image: Tensor, embedding: Tensor | None) -> Embedded:
        """Encode normalised slices, with the encoder's finer features for SAM 2's mask decoder."""
        encoder = self.sam.image_encoder
        if embedding is None:
            embedding, finer = encoder.features(image)
        else:
            finer = {stride: x.detach() for stride, x in encoder.finer(image).items()}
        features = {} if self.stem is None else self.stem(image)
        return Embedded(embedding, {**features, **self.sam.mask_decoder.skips(finer)})

    @property
    def takes_skips(self) -> bool:
        """Whether the mask decoder takes finer features of the encoder, as SAM 2's does."""
        return isinstance(self.sam.mask_decoder, SkipMaskDecoder)

    @property
    def feature_names(self) -> tuple[int | str, ...]:
        """Names of the finer features in `Embedded`, in order: strides from the finest on, then skips."""
        if self.own_features:
            return tuple(self.sam.image_encoder.finer_channels)
        names = () if self.stem is None else tuple(STEM_CHANNELS)
        return (*names, *SKIPS) if self.takes_skips else names

    @property
    def encoding_parts(self) -> list[nn.Module]:
        """What the embedding depends on: the image encoder, and the stem where it feeds that."""
        encoder = self.sam.image_encoder
        if isinstance(encoder.patch_embed, StemPatchEmbed):
            return [encoder, self.stem]
        return [encoder]

    def encode(self, image: Tensor) -> Tensor:
        """Return the image embedding [B, C, h, w] of slices alone."""
        return self.embed(image).embedding

    def decode(self, embedded: Embedded, supports: Supports | None = None) -> Tensor:
        """Return logits [B, K + 1, H, W] of embedded slices, steered by the supports."""
        decoded = self._decoded(embedded)
        if supports is None or self.fusion is None:
            return self._logits(decoded, decoded.features)
        features, prior = self.fusion.steer(decoded.features, supports)
        logits = self._logits(decoded, features, prior)
        return self._voted(logits, supports)

    def decode_both(self, embedded: Embedded, supports: Supports) -> Both:
        """Return the logits of embedded slices with the supports and without; what is common to both runs once."""
        decoded = self._decoded(embedded)
        features, prior = self.fusion.steer(decoded.features, supports)  # first: gradients add up in this order
        plain = self._logits(decoded, decoded.features)
        steered = plain
        if features is not decoded.features:
            steered = self._logits(decoded, features, prior)
        return Both(self._voted(steered, supports), plain)

    def _decoded(self, embedded: Embedded) -> _Decoded:
        """Run the decoder up to full resolution, where the supports enter."""
        embedding, stem = embedded
        decoder = self.sam.mask_decoder
        dense = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        features, tokens = self._transform(embedding, decoder.mask_tokens.weight, None, dense)
        features = self._upscale(features, stem)
        mlps = decoder.output_hypernetworks_mlps
        if self.mask_tokens is None:
            weights = _mask_weights(mlps, tokens[:, 1:])
        else:  # the first mask is the organ's, and that of the background is 0
            organ = _mask_weights(mlps[:1], tokens[:, 1:])
            weights = torch.cat([torch.zeros_like(organ), organ], dim=1)
        if self.detail is None:
            return _Decoded(features, weights, None)
        coarse = self._to_full_size(_mask_product(weights, features))
        return _Decoded(self.detail.to_full_resolution(features, stem), weights, coarse)

    def _logits(self, decoded: _Decoded, features: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return logits as `forward` gives them, but for the vote.

        Args:
            features: those of `decoded`, or what the supports make of them.
            prior: what the supports add to the logits.
        """
        if self.detail is not None:
            features = self.detail.finish(features)
        logits = _mask_product(decoded.weights, features)
        if prior is not None:
            logits = logits + prior
        if self.detail is not None:
            logits = decoded.coarse + logits
            if self.detail.prior is not None:
                logits = logits + self.detail.prior[:, None, None]
            return logits
        if self.coarse_training and self.training:
            return logits
        return self._to_full_size(logits)

    def _voted(self, logits: Tensor, supports: Supports) -> Tensor:
        """Return logits with the vote of the supports; while training without: it is not learnt."""
        if self.training or self.fusion.vote_product is None:
            return logits
        return self.fusion.vote_product(logits, supports)

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
        stem = {stride: x.expand(len(prompts), -1, -1, -1) for stride, x in embedded.stem.items()}
        if self.takes_skips:
            prompts = prompts.padded()
        sparse, dense = embed_prompts(self.sam.prompt_encoder, prompts)
        return self.decode_embedded_prompts(Embedded(embedding, stem), sparse, dense)

    @property
    def answers_prompts(self) -> bool:
        """Whether the network has masks for prompts; SAM-Adapter's own have a code of positions but none of prompts."""
        return self.prompt_head is not None or (self.mask_tokens is not None and not self.own_positions)

    def decode_embedded_prompts(self, embedded: Embedded, sparse: Tensor, dense: Tensor) -> PromptedMasks:
        """Return the masks of objects, each in a slice of its own, of prompts as `embed_prompts` gives them."""
        embedding, stem = embedded
        head = self.sam.mask_decoder
        if self.mask_tokens is None:
            head = self.prompt_head
        features, tokens = self._transform(embedding, head.mask_tokens.weight, sparse, dense)
        features = self._upscale(features, stem)
        weights = _mask_weights(head.output_hypernetworks_mlps, tokens[:, 1:])
        coarse = _mask_product(weights, features)
        logits = self._to_full_size(coarse)
        if self.detail is not None:
            fine = self.detail.finish(self.detail.to_full_resolution(features, stem))
            logits = logits + _mask_product(weights, fine)
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
        tokens = [decoder.iou_token.weight.expand(batch, -1, -1), masks.expand(batch, -1, -1)]
        if self.takes_skips:
            tokens.insert(0, decoder.obj_score_token.weight.expand(batch, -1, -1))
        if sparse is not None:
            tokens.append(sparse)
        position = self.sam.prompt_encoder.get_dense_pe().expand(batch, -1, -1, -1)
        tokens, source = decoder.transformer(embedding + dense, position, torch.cat(tokens, dim=1))
        if self.takes_skips:
            tokens = tokens[:, 1:]
        return source.transpose(1, 2).reshape(batch, dim, rows, columns), tokens

    def _upscale(self, x: Tensor, stem: dict[int | str, Tensor]) -> Tensor:
        """Upscale features [B, C, h, w] to [B, C / 8, 4 h, 4 w], with SAM 2's skips and the detail branch's."""
        up1, norm, activation1, up2, activation2 = self.sam.mask_decoder.output_upscaling
        coarse, fine = SKIPS
        x = up1(x)
        if self.takes_skips:
            x = x + stem[coarse]
        if self.detail is not None:
            x = self.detail.skip(x, stem, self.patch_size // 2)
        x = up2(activation1(norm(x)))
        if self.takes_skips:
            x = x + stem[fine]
        if self.detail is not None:
            x = self.detail.skip(x, stem, self.patch_size // 4)
        return activation2(x)

    def _to_full_size(self, coarse: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        if self.enlarged == "logits":
            return F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        probabilities = F.interpolate(coarse.float().sigmoid(), size, mode="bilinear", align_corners=False)
        return probabilities.logit(eps=torch.finfo(torch.float32).eps)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the tensors that a run has to keep: all that train, or everything where there is no base."""
        state = self.state_dict()
        if self.base_sha256 is None:
            return state
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        kept |= {name for name, _ in self.named_buffers() if name.startswith("fusion.")}
        if self.own_positions:
            kept.add(POSITIONS)
        return {name: tensor for name, tensor in state.items() if name in kept}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Load what `trainable_state` gave.

        Raises:
            InputError: a key or a shape that is not this network's.
        """
        own = self.trainable_state()
        wrong = sorted(own.keys() ^ state.keys())
        if not wrong:
            wrong = sorted(key for key in own if own[key].shape != state[key].shape)
        if wrong:
            raise InputError(
                f"weights: {len(wrong)} keys or shapes do not fit the network ({wrong[0]}); use the run's own"
            )
        self.load_state_dict(state, strict=False)


def _check_options(
    num_classes: int,
    prompts: str | None,
    normalisation: str,
    mask_tokens: int | None,
    *,
    coarse_training: bool,
    detail: bool,
) -> None:
    """Refuse options by name, before anything is built."""
    if prompts not in (None, *PROMPTS):
        raise ValueError(f"prompts {prompts!r} is unknown; choose one of {', '.join(PROMPTS)}, or null for none")
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation {normalisation!r} is unknown; choose one of {', '.join(NORMALISATIONS)}")
    if coarse_training and detail:
        raise ValueError("coarse_training leaves the detail branch without a loss; switch one of them off")
    if mask_tokens is None:
        return
    if num_classes != 1 or mask_tokens < 2:
        raise ValueError(f"mask_tokens {mask_tokens}: 2 or more, for one organ; with {num_classes} set it to null")
    if prompts is not None:
        raise ValueError("mask_tokens: such a network answers prompts by its own masks; set prompts to null")


def _check_enlarged(enlarged: str, mask_tokens: int | None) -> None:
    if enlarged not in ENLARGED:
        raise ValueError(f"enlarged {enlarged!r} is unknown; choose one of {', '.join(ENLARGED)}")
    if enlarged != "logits" and mask_tokens is None:
        raise ValueError(f"enlarged {enlarged}: is for one organ by SAM's own masks; set mask_tokens, or take logits")


def _excuse_base(network: Segmenter, keys: Any) -> None:
    """Let `load_state_dict` do with what a run keeps, as MONAI's tools call it: the base weights are in already."""
    kept = network.trainable_state()
    keys.missing_keys[:] = [key for key in keys.missing_keys if key in kept]


def _middle(x: Tensor, stack: int) -> Tensor:
    """Return the middle slice of every stack: [B * stack, ...] to [B, ...]."""
    if stack == 1:
        return x
    return x.unflatten(0, (-1, stack))[:, stack // 2]


def _mask_weights(mlps: nn.ModuleList, tokens: Tensor) -> Tensor:
    """Return the weights of the mask product [B, M, C / 8] of the masks' tokens [B, M or more, C]."""
    return torch.stack([mlp(tokens[:, index]) for index, mlp in enumerate(mlps)], dim=1)


def _mask_product(weights: Tensor, features: Tensor) -> Tensor:
    """Multiply mask weights [B, M, C] with features [B, C, H, W]: logits [B, M, H, W]."""
    return torch.einsum("bkc,bchw->bkhw", weights, features)
