"""Checkpoints of random tensors in the exact formats that others publish, and plain readings of what they mean.

Built from segment-anything's own modules, with what the formats add patched in by hand; nothing of ours is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import nn

#: Of the encoder: width, blocks, heads, global blocks, patch, width of the decoder's MLP.
TINY = (192, 4, 6, (1, 3), 8, 512)
VIT_B = (768, 12, 12, (2, 5, 8, 11), 16, 2048)


def segment_anything_sam(image_size, *, masks=4, seed=0, size=TINY):
    """A SAM of segment-anything's own parts with so many mask tokens, no tensor of it zero."""
    width, depth, heads, blocks, patch, mlp = size
    torch.manual_seed(seed)
    grid = image_size // patch
    encoder = ImageEncoderViT(
        img_size=image_size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, use_rel_pos=True,
        window_size=0 if size is TINY and grid <= 14 else 14, global_attn_indexes=blocks,
        norm_layer=lambda channels: nn.LayerNorm(channels, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(grid, grid), input_image_size=(image_size,) * 2, mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=mlp, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=masks - 1)
    sam = Sam(encoder, prompts, decoder, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
    for parameter in sam.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return sam.eval()


def copied(sam):
    return {key: tensor.clone() for key, tensor in sam.state_dict().items()}


@torch.no_grad()
def plain_masks(sam, embedding, sparse=None, dense=None):
    """All masks of one slice's embedding [1, 256, h, w], at the input's size."""
    none = sam.prompt_encoder(points=None, boxes=None, masks=None)
    masks, _ = sam.mask_decoder.predict_masks(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=none[0] if sparse is None else sparse,
        dense_prompt_embeddings=none[1] if dense is None else dense,
    )
    size = sam.image_encoder.img_size
    return F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)


# SAMed and SAMed_s


def samed_file(base, *, classes, rank, decoder=False, seed=5):
    """SAMed's flat dict for a base of segment-anything's parts; with `decoder` SAMed_s's."""
    image_size, size = base.image_encoder.img_size, VIT_B if len(base.image_encoder.blocks) == 12 else TINY
    tuned = copied(segment_anything_sam(image_size, masks=classes + 1, seed=seed, size=size))
    matrix = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    tuned[matrix] = base.state_dict()[matrix]  # a buffer, which no training changes
    width, depth = size[:2]
    state = {}
    for number in range(2 * depth):
        state[f"w_a_{number:03d}"] = torch.randn(rank, width) / width**0.5
        state[f"w_b_{number:03d}"] = torch.randn(width, rank) * 0.1
    if decoder:
        for kind, outputs in (("sa", 256), ("cti", 128), ("cit", 128)):
            for number in range(4):
                state[f"{kind}_a_{number:03d}"] = torch.randn(rank, 256) / 16
                state[f"{kind}_b_{number:03d}"] = torch.randn(outputs, rank) * 0.2
        for letter in "qv":
            state[f"fati_{letter}a"] = torch.randn(rank, 256) / 16
            state[f"fati_{letter}b"] = torch.randn(128, rank) * 0.2
    for key, tensor in tuned.items():
        if key.startswith("prompt_encoder.") or (
            key.startswith("mask_decoder.") and not (decoder and ".transformer." in key)
        ):
            state[key] = tensor
    return state


class Updated(nn.Module):
    """A linear layer with B A x added to some of its outputs."""

    def __init__(self, linear, updates):
        super().__init__()
        self.linear, self.updates = linear, updates

    def forward(self, x):
        out = self.linear(x)
        for part, a, b in self.updates:
            out[..., part] += x @ a.T @ b.T
        return out


@torch.no_grad()
def samed_reading(base, state, image):
    """What SAMed gives for slices [B, 3, S, S]: K + 1 masks of the mask decoder, none of them sliced off."""
    image_size, size = base.image_encoder.img_size, VIT_B if len(base.image_encoder.blocks) == 12 else TINY
    sam = segment_anything_sam(image_size, masks=len(state["mask_decoder.mask_tokens.weight"]), size=size)
    kept = {key: value for key, value in base.state_dict().items() if not key.startswith("mask_decoder.")}
    if "sa_a_000" in state:
        kept |= {key: value for key, value in base.state_dict().items() if ".transformer." in key}
    sam.load_state_dict({**kept, **{key: value for key, value in state.items() if "." in key}})
    width = size[0]
    for index, block in enumerate(sam.image_encoder.blocks):
        parts = ((slice(0, width), 2 * index), (slice(2 * width, None), 2 * index + 1))
        pairs = [(part, state[f"w_a_{n:03d}"], state[f"w_b_{n:03d}"]) for part, n in parts]
        block.attn.qkv = Updated(block.attn.qkv, pairs)
    if "sa_a_000" in state:
        _update_decoder(sam.mask_decoder.transformer, state)
    return torch.cat([plain_masks(sam, sam.image_encoder(one[None])) for one in image])


def _update_decoder(transformer, state):
    whole = slice(None)
    for index, layer in enumerate(transformer.layers):
        attentions = {
            "sa": layer.self_attn, "cti": layer.cross_attn_token_to_image, "cit": layer.cross_attn_image_to_token
        }  # fmt: skip
        for kind, attention in attentions.items():
            for part, name in enumerate(("q_proj", "v_proj")):
                pair = (state[f"{kind}_{side}_{2 * index + part:03d}"] for side in "ab")
                setattr(attention, name, Updated(getattr(attention, name), [(whole, *pair)]))
    last = transformer.final_attn_token_to_image
    last.q_proj = Updated(last.q_proj, [(whole, state["fati_qa"], state["fati_qb"])])
    last.v_proj = Updated(last.v_proj, [(whole, state["fati_va"], state["fati_vb"])])


# Medical-SAM-Adapter


def medical_file(base, *, kinds=("MLP", "Space", "Depth"), seed=6, size=TINY):
    """Medical-SAM-Adapter's dict up to 2023-12: SAM, all adapters, used or not, and a decoder that has trained."""
    torch.manual_seed(seed)
    state = {}
    for key, tensor in copied(base).items():
        if key.startswith("mask_decoder."):
            tensor = tensor + 0.02 * torch.randn_like(tensor)
        state[key] = tensor
    width, depth = size[:2]
    for index in range(depth):
        for kind in kinds:
            for layer, shape in (("1", (width // 4, width)), ("2", (width, width // 4))):
                prefix = f"image_encoder.blocks.{index}.{kind}_Adapter.D_fc{layer}"
                state[f"{prefix}.weight"] = torch.randn(shape) / shape[1] ** 0.5
                state[f"{prefix}.bias"] = torch.randn(shape[0]) * 0.1
    records = {"epoch": 3, "model": "sam", "optimizer": {"state": {}, "param_groups": []}, "best_tol": 0.5}
    return {**records, "state_dict": state, "path_helper": {"prefix": "logs/a", "ckpt_path": "logs/a/Model"}}


def medical_file_of_2024(base, **options):
    """The same from 2024-01 on: tables and decoder MLPs have other names. `base` has a grid of 64 x 64 patches."""
    file = medical_file(base, **options)
    state = {}
    for key, tensor in file["state_dict"].items():
        key = key.replace(".attn.rel_pos_", ".attn.rel_")
        if "transformer.layers." in key:
            key = key.replace(".mlp.lin1.", ".mlp.layers.0.0.").replace(".mlp.lin2.", ".mlp.fc.")
        state[key] = tensor
    return {**file, "state_dict": state}


class MedicalBlock(nn.Module):
    """A block that cuts windows before its first norm, or after it, with a space adapter and one beside the MLP."""

    def __init__(self, block, state, index, *, cut_first=True):
        super().__init__()
        self.block, self.state, self.prefix = block, state, f"image_encoder.blocks.{index}."
        self.cut_first = cut_first

    def adapted(self, kind, x):
        weight = [
            self.state[f"{self.prefix}{kind}_Adapter.D_fc{n}.{part}"] for n in "12" for part in ("weight", "bias")
        ]
        return F.linear(F.gelu(F.linear(x, *weight[:2])), *weight[2:])

    def forward(self, x):
        tokens, side = x, self.block.window_size
        if not self.cut_first:
            tokens = self.block.norm1(tokens)
        if side:
            tokens, padded = window_partition(tokens, side)
        if self.cut_first:
            tokens = self.block.norm1(tokens)
        update = self.block.attn(tokens)
        update = update + self.adapted("Space", update)
        if side:
            update = window_unpartition(update, side, padded, x.shape[1:3])
        x = x + update
        normed = self.block.norm2(x)
        return x + self.block.mlp(normed) + 0.5 * self.adapted("MLP", normed)


def medical_network(file, image_size, *, size=TINY):
    """The SAM of a Medical-SAM-Adapter file in 2D mode."""
    state = file["state_dict"]
    sam = segment_anything_sam(image_size, masks=len(state["mask_decoder.mask_tokens.weight"]), size=size)
    sam.load_state_dict({key: value for key, value in state.items() if "_Adapter." not in key})
    for index, block in enumerate(sam.image_encoder.blocks):
        sam.image_encoder.blocks[index] = MedicalBlock(block, state, index)
    return sam


class EfficientLayer(nn.Module):
    """A layer of EfficientSAM's two-way transformer, its MLP read from the file."""

    def __init__(self, layer, state, index, activation):
        super().__init__()
        self.layer, self.state, self.activation = layer, state, activation
        self.first, self.prefix = index == 0, f"mask_decoder.transformer.layers.{index}.mlp."

    def mlp(self, x):
        inner, outer = ([self.state[f"{self.prefix}{n}.{p}"] for p in ("weight", "bias")] for n in ("layers.0.0", "fc"))
        return F.linear(self.activation(F.linear(x, *inner)), *outer)

    def forward(self, queries, keys, query_pe, key_pe):
        layer = self.layer
        if not self.first:
            queries = queries + query_pe
        queries = queries + layer.self_attn(q=queries, k=queries, v=queries)
        queries = layer.norm1(queries)
        queries = queries + layer.cross_attn_token_to_image(q=queries + query_pe, k=keys + key_pe, v=keys)
        queries = layer.norm2(queries)
        queries = queries + self.mlp(queries)
        queries = layer.norm3(queries)
        keys = keys + layer.cross_attn_image_to_token(q=keys + key_pe, k=queries + query_pe, v=queries)
        return queries, layer.norm4(keys)


def medical_network_of_2024(file, image_size, *, activation, cut_first, size=TINY):
    """The SAM of a Medical-SAM-Adapter file from 2024-01 on, in 2D mode, at any image size."""
    state = file["state_dict"]
    sam = segment_anything_sam(image_size, masks=len(state["mask_decoder.mask_tokens.weight"]), size=size)
    encoder = sam.image_encoder
    named = {}
    for key, tensor in state.items():
        if "_Adapter." not in key and ".transformer.layers." not in key:
            named[key.replace(".attn.rel_", ".attn.rel_pos_")] = tensor
    for index, block in enumerate(encoder.blocks):  # of another length than these; SAM's attention resizes them
        for table in ("rel_pos_h", "rel_pos_w"):
            setattr(block.attn, table, nn.Parameter(named.pop(f"image_encoder.blocks.{index}.attn.{table}")))
    grid = image_size // size[4]
    positions = named.pop("image_encoder.pos_embed").permute(0, 3, 1, 2)
    positions = F.interpolate(positions, (grid, grid), mode="bicubic", align_corners=False)
    encoder.pos_embed = nn.Parameter(positions.permute(0, 2, 3, 1))
    for index, layer in enumerate(sam.mask_decoder.transformer.layers):
        prefix = f"mask_decoder.transformer.layers.{index}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        layer.load_state_dict({key: value for key, value in own.items() if not key.startswith("mlp.")}, strict=False)
        sam.mask_decoder.transformer.layers[index] = EfficientLayer(layer, state, index, activation)
    loaded = sam.load_state_dict(named, strict=False)
    assert not loaded.unexpected_keys
    for index, block in enumerate(encoder.blocks):
        encoder.blocks[index] = MedicalBlock(block, state, index, cut_first=cut_first)
    return sam


# SAM-Adapter


def sam_adapter_file(base, *, seed=7, size=TINY):
    """SAM-Adapter's state dict: encoder with its prompt generator, decoder, and a code of positions of its own."""
    torch.manual_seed(seed)
    state = {}
    for key, tensor in copied(base).items():
        if key.startswith("mask_decoder."):
            state[key] = tensor + 0.02 * torch.randn_like(tensor)
        elif key.startswith("image_encoder."):
            state[key] = tensor
    gaussian = "pe_layer.positional_encoding_gaussian_matrix"
    state[gaussian] = torch.randn(2, 128)
    state["no_mask_embed.weight"] = torch.randn(1, 256)
    patch = base.image_encoder.patch_embed.proj.kernel_size
    width, depth = size[:2]
    narrow = width // 32
    shapes = {"shared_mlp": (width, narrow), "embedding_generator": (narrow, width)}
    shapes["prompt_generator.proj"] = (narrow, 3, *patch)
    shapes |= {f"lightweight_mlp_{index}.0": (narrow, narrow) for index in range(depth)}
    for name, shape in shapes.items():
        state[f"image_encoder.prompt_generator.{name}.weight"] = torch.randn(shape) * 0.3
        state[f"image_encoder.prompt_generator.{name}.bias"] = torch.randn(shape[0]) * 0.3
    return state


@torch.no_grad()
def sam_adapter_reading(file, image, *, size=TINY):
    """The one mask that SAM-Adapter gives for slices: the decoder's first, [B, 1, S, S]."""
    sam = segment_anything_sam(image.shape[-1], size=size)
    own = {**sam.state_dict(), **{key: value for key, value in file.items() if key in sam.state_dict()}}
    own["prompt_encoder.no_mask_embed.weight"] = file["no_mask_embed.weight"]
    own["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = file[
        "pe_layer.positional_encoding_gaussian_matrix"
    ]
    sam.load_state_dict(own)
    encoder = sam.image_encoder

    def linear(name, x):
        prefix = f"image_encoder.prompt_generator.{name}"
        return F.linear(x, file[f"{prefix}.weight"], file[f"{prefix}.bias"])

    spectrum, side = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1)), image.shape[-1]
    half = int((side * side * 0.25) ** 0.5 // 2)
    spectrum[..., side // 2 - half : side // 2 + half, side // 2 - half : side // 2 + half] = 0
    fine = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real.abs()
    proj = "image_encoder.prompt_generator.prompt_generator.proj"
    fine = F.conv2d(fine, file[f"{proj}.weight"], file[f"{proj}.bias"], stride=size[4]).permute(0, 2, 3, 1)
    patches = encoder.patch_embed(image)
    batch, rows, columns, width = patches.shape
    shuffled = patches.reshape(batch, width, rows * columns).transpose(1, 2).reshape(patches.shape)
    features = fine + linear("embedding_generator", shuffled)
    x = patches + encoder.pos_embed
    for index, block in enumerate(encoder.blocks):
        x = block(x + linear("shared_mlp", F.gelu(linear(f"lightweight_mlp_{index}.0", features))))
    embedding = encoder.neck(x.permute(0, 3, 1, 2))
    return torch.cat([plain_masks(sam, one[None])[:, :1] for one in embedding])
