"""A step of LoRA training, ViT-B at 512, two slices: ours against SAMed's, and what each part of ours gives.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--steps 2] [--low-memory]

Both start from the same weights and batch, with SAMed's loss and AdamW, each in a process of its own. The peer is
`benchmarks/samed.py`. Seconds are the processor's, the median of the steps after a first one; memory is the peak that
the kernel counts (ru_maxrss), and its part above what was resident once the network stood. `--low-memory` adds up what
the recipe `low_memory` keeps for the backward pass. Returns 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import record
from samed import CLASSES, SIZE, SAMed, ours, theirs, write_weights
from torch import Tensor, nn

from ragsam.console.malloc import keep_freed_memory
from ragsam.networks import Segmenter
from ragsam.networks.attention import Attention
from ragsam.networks.checkpointing import CHECKPOINTING
from ragsam.networks.linear import Linear
from ragsam.networks.supports import Supports
from ragsam.training.losses import PartialDiceCELoss, Target

BACKBONE, BATCH = "vit_b", 2
SIDES = {
    "samed": "SAMed's step",
    "folded": "+ attention folded and fused",
    "unpadded": "+ padded window tokens left out",
    "onednn": "+ the encoder's linear layers by oneDNN",
    "ours": "ours: + LoRA in one sum, our decoder and loss",
    "attention": "ours, checkpointing: attention",
    "mlp": "ours, checkpointing: mlp",
    "blocks": "ours, checkpointing: blocks",
}
OURS = ("ours", "attention", "mlp", "blocks")
FASTER, SMALLER, APART = 1.3, 0.7, 1e-3


def samed_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return 0.2 cross entropy + 0.8 Dice, squared, over the batch, of labels [B, h, w]."""
    chances, classes = logits.softmax(1), F.one_hot(label, CLASSES + 1).movedim(-1, 1)
    axes = (0, 2, 3)
    squares = chances.square().sum(axes) + classes.sum(axes)
    dice = 1 - (2 * (chances * classes).sum(axes) + 1e-5) / (squares + 1e-5)
    return 0.2 * F.cross_entropy(logits, label) + 0.8 * dice.mean()


def with_our_attention(network: SAMed, *, padded: bool) -> SAMed:
    """Put our attention into segment-anything's blocks; not padded, it cuts the windows itself."""
    encoder = network.sam.image_encoder
    side = encoder.pos_embed.shape[1]
    for block in encoder.blocks:
        old, window = block.attn, block.window_size
        grid = (window, window) if window and padded else (side, side)
        inner = 0 if padded else window
        block.attn = Attention(old.proj.in_features, num_heads=old.num_heads, grid=grid, window_size=inner)
        block.attn.qkv, block.attn.proj = old.qkv, old.proj
        block.attn.rel_pos_h, block.attn.rel_pos_w = old.rel_pos_h, old.rel_pos_w
        block.window_size = window if padded else 0
    return network


def with_our_linear(network: SAMed) -> SAMed:
    """Put our linear layers into an encoder's blocks."""
    for block in network.sam.image_encoder.blocks:
        for owner, name in ((block.attn.qkv, "qkv"), (block.attn, "proj"), (block.mlp, "lin1"), (block.mlp, "lin2")):
            old = getattr(owner, name)
            new = Linear(old.in_features, old.out_features)
            new.weight, new.bias = old.weight, old.bias
            setattr(owner, name, new)
    return network


def build(side: str, folder: Path) -> tuple[nn.Module, Any]:
    """Return a side's network and its loss, of logits and labels [B, h, w]."""
    if side in OURS:
        loss, annotated = PartialDiceCELoss(dice_weight=0.8, cross_entropy_weight=0.2, dice_squared=True), CLASSES + 1
        seen = torch.ones(BATCH, annotated, dtype=torch.bool)
        network = ours(folder, BACKBONE, checkpointing=None if side == "ours" else side)
        return network, lambda logits, label: loss(logits, Target(label[:, None], seen))
    network = theirs(folder, BACKBONE)
    if side != "samed":
        network = with_our_attention(network, padded=side == "folded")
    return with_our_linear(network) if side == "onednn" else network, samed_loss


def made_batch() -> tuple[Tensor, Tensor]:
    """Return slices [B, 3, H, W] and labels [B, h, w] at the decoder's size."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    label = torch.randint(CLASSES + 1, (BATCH, 8, 8), generator=generator)
    return image, label.repeat_interleave(16, 1).repeat_interleave(16, 2)


def measure(side: str, folder: Path, steps: int) -> dict[str, Any]:
    """Train some steps in this process; ours keeps freed memory, as its configs have it."""
    if side in OURS:
        keep_freed_memory()
    network, loss_of = build(side, folder)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.1)
    image, label = made_batch()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident, seconds, losses = pages * os.sysconf("SC_PAGE_SIZE"), [], []
    network.train()
    for _ in range(steps + 1):
        start = time.process_time()
        optimizer.zero_grad()
        loss = loss_of(network(image), label)
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
        losses.append(loss.item())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(seconds[1:]), "peak": peak, "above": peak - resident, "losses": losses}


def kept_bytes(network: Segmenter) -> int:
    """Return what a slice of training keeps for the backward pass, bytes, each tensor once; parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    classes = network.num_classes + 1
    supports = Supports(torch.zeros(1, 8, SIZE, SIZE, dtype=torch.uint8), torch.full((1, 8), 1 / 8))
    target = Target(torch.zeros(1, 1, SIZE, SIZE, dtype=torch.int64), torch.ones(1, classes, dtype=torch.bool))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        PartialDiceCELoss()(network.train()(torch.rand(1, 3, SIZE, SIZE), supports=supports), target)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


def estimate(folder: Path) -> list[str]:
    """Return lines on the memory of a training by the recipe `low_memory`, float32."""
    network = Segmenter(13, backbone=BACKBONE, image_size=SIZE, base=folder / "base.pth", lora={"rank": 4})
    weights = sum(p.numel() for p in network.parameters()) * 4
    states = sum(p.numel() for p in network.parameters() if p.requires_grad) * 4 * 3
    encoder, kept = network.sam.image_encoder, {}
    for what in CHECKPOINTING:
        encoder.checkpoint(what)
        kept[what] = kept_bytes(network) / 1e9
    block = (kept[None] - kept["blocks"]) / len(encoder.blocks)
    fixed = (weights + states) / 1e9
    lines = [f"Weights, gradients and AdamW: {fixed:.2f} GB. A slice keeps, of sam_lora's defaults with base weights:"]
    lines += ["", "| checkpointing | GB a slice | slices within 7 GB |", "|---|---|---|"]
    for what, size in kept.items():
        each = size + (block if what == "blocks" else 0)
        lines.append(f"| {what or 'null'} | {each:.2f} | {int((7 - fixed) / each)} |")
    return lines


def main() -> int:
    """Measure every side, print the table, and return 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        sys.stdout.write(json.dumps(measure(args.side, args.folder, args.steps)))
        return 0
    found = {}
    with tempfile.TemporaryDirectory() as name:
        write_weights(Path(name), BACKBONE)
        if args.low_memory:
            record("low_memory", estimate(Path(name)))
            return 0
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--folder", name, "--steps", str(args.steps)]
            found[side] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    peer, mine = found["samed"], found["ours"]
    lines = ["| step | s | times as fast | peak, GB | of SAMed's | above the network, GB | of SAMed's | first loss |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for side, row in found.items():
        lines.append(
            f"| {SIDES[side]} | {row['seconds']:.1f} | {peer['seconds'] / row['seconds']:.2f} "
            f"| {row['peak'] / 1e9:.2f} | {row['peak'] / peer['peak']:.2f} "
            f"| {row['above'] / 1e9:.2f} | {row['above'] / peer['above']:.2f} | {row['losses'][0]:.6f} |"
        )
    apart = max(abs(a - b) for row in found.values() for a, b in zip(row["losses"], peer["losses"], strict=True))
    lines += ["", f"batch {BATCH}, {args.steps} steps after a first one, {torch.get_num_threads()} threads; "]
    lines[-1] += f"losses of all {args.steps + 1} steps at most {apart:.1e} apart"
    record("training_step", lines)
    fast = peer["seconds"] / mine["seconds"] >= FASTER
    return int(not fast or mine["peak"] > SMALLER * peer["peak"] or apart > APART)


if __name__ == "__main__":
    raise SystemExit(main())
