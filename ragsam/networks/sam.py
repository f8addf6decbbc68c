"""Segment Anything (SAM), built from segment-anything's own modules at any image and patch size.

Source: Kirillov et al., "Segment Anything", 2023 (arXiv:2304.02643).
"""

from __future__ import annotations

from dataclasses import dataclass

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam

from ragsam.networks.encoder import ImageEncoder
from ragsam.networks.encoders import Encoder
from ragsam.networks.hiera import SIZES, Hiera
from ragsam.networks.skip_decoder import SkipMaskDecoder
from ragsam.networks.tiny_vit import TinyViT
from ragsam.networks.two_way import two_way_transformer

WINDOW_SIZE = 14


@dataclass(frozen=True)
class Backbone:
    """Size of a SAM: the image encoder's width, depth and heads, and the width of prompts and decoder.

    Of a TinyViT width and depth are those of its last stage and of its transformer blocks; of a Hiera the width and the
    heads are those of its last stage.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    patch_size: int = 16
    family: str = "vit"
    prompt_dim: int = 256
    decoder_mlp_dim: int = 2048

    @property
    def image_step(self) -> int:
        """What the image size is to be a multiple of, pixels, where it is chosen for the data."""
        return 32 if self.family == "hiera" else 16


BACKBONES: dict[str, Backbone] = {
    "vit_tiny": Backbone(192, 4, 6, (1, 3), patch_size=8, decoder_mlp_dim=512),
    "vit_t": Backbone(320, 10, 10, (), family="tiny_vit"),
    "vit_b": Backbone(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Backbone(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Backbone(1280, 32, 16, (7, 15, 23, 31)),
    **{
        name: Backbone(size.widths[-1], sum(size.stages), 8 * size.num_heads, size.global_blocks, family="hiera")
        for name, size in SIZES.items()
    },
}


def build_sam(
    backbone: str,
    *,
    image_size: int,
    patch_size: int | None = None,
    num_masks: int = 3,
    efficient_decoder: str | None = None,
) -> Sam:
    """Build a SAM with random weights.

    `vit_b`, `vit_l` and `vit_h` are SAM's own sizes; `vit_t` is MobileSAM's and, with patches of 4, LiteMedSAM's;
    `hiera_tiny` to `hiera_large` are those of SAM 2, of slices that stand alone, and MedSAM2 has the first of them.
    `vit_tiny` is small enough for two CPU cores; on grids that fit one attention window its attention is global, since
    a window would only add padding.

    Args:
        backbone: name in `BACKBONES`.
        image_size: height and width of the input, pixels; a multiple of the patch size.
        patch_size: side of a patch, pixels; None takes the backbone's own (16; 8 for `vit_tiny`).
        num_masks: masks beside the first one: SAM has 3; K classes take K, the first being the background.
        efficient_decoder: see `two_way_transformer`.

    Raises:
        ValueError: unknown backbone or decoder, or an image size that the patch size does not divide.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone {backbone!r} is unknown; choose one of {', '.join(BACKBONES)}")
    size = BACKBONES[backbone]
    patch = patch_size or size.patch_size
    if image_size % patch:
        raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch}; choose one that is")
    if size.family == "hiera" and patch != size.patch_size:
        raise ValueError(f"patch_size {patch}: a Hiera has {size.patch_size}; leave it out")
    grid = image_size // patch
    decoder = SkipMaskDecoder if size.family == "hiera" else MaskDecoder
    return Sam(
        image_encoder=_build_encoder(backbone, image_size, patch),
        prompt_encoder=PromptEncoder(
            embed_dim=size.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=decoder(
            num_multimask_outputs=num_masks,
            transformer=two_way_transformer(size.prompt_dim, size.decoder_mlp_dim, efficient_decoder),
            transformer_dim=size.prompt_dim,
        ),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )


def _build_encoder(backbone: str, image_size: int, patch_size: int) -> Encoder:
    size = BACKBONES[backbone]
    if size.family == "tiny_vit":
        return TinyViT(img_size=image_size, patch_size=patch_size, out_chans=size.prompt_dim)
    if size.family == "hiera":
        return Hiera(backbone, img_size=image_size, out_chans=size.prompt_dim)
    window = 0 if backbone == "vit_tiny" and image_size // patch_size <= WINDOW_SIZE else WINDOW_SIZE
    return ImageEncoder(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=size.embed_dim,
        depth=size.depth,
        num_heads=size.num_heads,
        global_blocks=size.global_blocks,
        window_size=window,
        out_chans=size.prompt_dim,
    )
