"""The peer of benchmarks: SAMed written plainly from its published facts, on segment-anything's own modules.

Source: Zhang and Liu, arXiv:2304.13785.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import zoom
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ragsam.networks import Segmenter
from ragsam.networks.exports import to_samed
from ragsam.networks.lora import lora_layers
from ragsam.networks.sam import BACKBONES, build_sam

SIZE, CLASSES, RANK = 512, 8, 4


class QueryValueLoRA(nn.Module):
    """Updates of rank 4 added to the query and to the value of a fused projection."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        self.qkv, self.dim = qkv, qkv.in_features
        self.a = nn.ModuleList(nn.Linear(self.dim, RANK, bias=False) for _ in range(2))
        self.b = nn.ModuleList(nn.Linear(RANK, self.dim, bias=False) for _ in range(2))

    @property
    def bias(self) -> Tensor:
        return self.qkv.bias

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        qkv[..., : self.dim] += self.b[0](self.a[0](x))
        qkv[..., -self.dim :] += self.b[1](self.a[1](x))
        return qkv


class SAMed(nn.Module):
    """SAM with a token a class; in the encoder LoRA trains, and prompt encoder and mask decoder train whole."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        size = BACKBONES[backbone]
        grid = SIZE // size.patch_size
        encoder = ImageEncoderViT(
            img_size=SIZE, patch_size=size.patch_size, embed_dim=size.embed_dim, depth=size.depth,
            num_heads=size.num_heads, out_chans=size.prompt_dim, use_rel_pos=True, window_size=14,
            global_attn_indexes=size.global_blocks, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )  # fmt: skip
        decoder = MaskDecoder(
            num_multimask_outputs=CLASSES,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=size.prompt_dim, mlp_dim=size.decoder_mlp_dim, num_heads=8
            ),
            transformer_dim=size.prompt_dim,
        )
        prompts = PromptEncoder(size.prompt_dim, (grid, grid), (SIZE, SIZE), 16)
        self.sam = Sam(encoder, prompts, decoder, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)

    def tune(self, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
        """Load base weights, add LoRA, load SAMed's flat dict, and freeze the rest of the encoder."""
        kept = {k: v for k, v in base.items() if k.startswith("image_encoder.")}
        kept |= {k: v for k, v in tuned.items() if k.startswith(("prompt_encoder.", "mask_decoder."))}
        self.sam.load_state_dict(kept)
        self.sam.image_encoder.requires_grad_(False)
        for index, block in enumerate(self.sam.image_encoder.blocks):
            lora = block.attn.qkv = QueryValueLoRA(block.attn.qkv)
            for part in range(2):
                lora.a[part].weight.data.copy_(tuned[f"w_a_{2 * index + part:03d}"])
                lora.b[part].weight.data.copy_(tuned[f"w_b_{2 * index + part:03d}"])

    def forward(self, image: Tensor) -> Tensor:
        """Return the decoder's logits [B, K + 1, 4 h, 4 w] of slices [B, 3, H, W]."""
        sam = self.sam
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        return sam.mask_decoder.predict_masks(
            image_embeddings=sam.image_encoder(sam.preprocess(image)),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )[0]


def segment(network: SAMed, volume: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Return the labels of a volume [H, W, D], slice by slice: to `side` and to 512 pixels by cubic zooms, and back."""
    labels = np.zeros(volume.shape, np.uint8)
    for z in range(volume.shape[2]):
        image = _zoomed(_zoomed(volume[..., z], (side, side), 3), (SIZE, SIZE), 3)
        logits = network(torch.from_numpy(image)[None, None].repeat(1, 3, 1, 1))
        full = F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
        chosen = full.softmax(1).argmax(1)[0].numpy().astype(np.uint8)
        labels[..., z] = _zoomed(chosen, volume.shape[:2], 0)
    return labels


def _zoomed(image: NDArray, shape: tuple[int, int], order: int) -> NDArray:
    if image.shape == shape:
        return image
    return zoom(image, [new / old for new, old in zip(shape, image.shape, strict=True)], order=order)


def write_weights(folder: Path, backbone: str) -> None:
    """Write random weights for both sides: a base, ours, and the same in SAMed's format."""
    torch.manual_seed(0)
    sam = build_sam(backbone, image_size=SIZE)
    for parameter in sam.image_encoder.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    torch.save(sam.state_dict(), folder / "base.pth")
    network = ours(folder, backbone, tuned=False)
    for layer in lora_layers(network):
        for update in layer.updates.values():
            nn.init.normal_(update.b.weight, std=0.02)
    torch.save(network.trainable_state(), folder / "ours.pth")
    torch.save(to_samed(network)[0], folder / "samed.pth")


def ours(folder: Path, backbone: str, *, tuned: bool = True, **options: str | None) -> Segmenter:
    """Return our network with the weights of a folder."""
    network = Segmenter(
        CLASSES, backbone=backbone, image_size=SIZE, base=folder / "base.pth", lora={"rank": RANK}, detail=False,
        fusion=None, coarse_training=True, **options,
    )  # fmt: skip
    if tuned:
        network.load_trainable_state(torch.load(folder / "ours.pth", weights_only=True))
    return network


def theirs(folder: Path, backbone: str) -> SAMed:
    """Return SAMed with the weights of a folder."""
    network = SAMed(backbone)
    network.tune(*(torch.load(folder / name, weights_only=True) for name in ("base.pth", "samed.pth")))
    return network
