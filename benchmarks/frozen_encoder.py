"""What a step of training takes before the encoder is frozen, and after, with kept embeddings.

    OMP_NUM_THREADS=1 python benchmarks/frozen_encoder.py [--steps 3]

`vit_b` at 512 pixels with made base weights and LoRA, two slices a step, with the detail branch and without, and
`vit_tiny` at 64 pixels from scratch, 32 a step: otherwise `sam_lora`'s defaults, 8 organs, a made vote. Seconds are the
processor's, the median of the steps after a first one; slices are made before, so that reading and altering them is not
in it. What 1000 slices take is reckoned from these: each is seen 20 times, in 4 altered copies, and each copy encoded
once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from record import record
from torch import nn

from ragsam.console.durations import duration
from ragsam.networks import Segmenter
from ragsam.networks.sam import build_sam
from ragsam.networks.supports import Supports
from ragsam.training.batches import prepare_slices
from ragsam.training.frozen_encoder import FrozenEncoder
from ragsam.training.losses import PartialDiceCELoss
from ragsam.training.prompted_training import PromptedInferer, PromptedLoss

CASES = (("vit_b", 512, 2, True), ("vit_b", 512, 2, False), ("vit_tiny", 64, 32, True))
CLASSES = 9
SLICES, TIMES, VIEWS = 1000, 20, 4


def build(backbone: str, size: int, folder: Path, *, detail: bool) -> Segmenter:
    """Return a network: vit_b on made base weights, vit_tiny whole."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"backbone": backbone, "image_size": size, "detail": detail}
    if backbone == "vit_tiny":
        return Segmenter(CLASSES - 1, **options)
    sam = build_sam(backbone, image_size=size)
    for parameter in sam.image_encoder.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    torch.save(sam.state_dict(), folder / "base.pth")
    return Segmenter(CLASSES - 1, **options, base=folder / "base.pth", lora={"rank": 4})


def made_batch(size: int, count: int) -> dict[str, Any]:
    """Return a training batch of copies 0 to count - 1, with a vote."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(CLASSES, (count, 1, 8, 8), generator=generator)
    label = label.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)
    vote = nn.functional.one_hot(label[:, 0], CLASSES).movedim(-1, 1).float()
    return {
        "image": torch.rand(count, 3, size, size, generator=generator),
        "label": label,
        "annotated": torch.ones(count, CLASSES, dtype=torch.bool),
        "supports": Supports.of_vote(vote, torch.ones(count)),
        "copy": torch.arange(count),
    }


def median_s(job: Callable[[], Any], times: int) -> float:
    """Return the processor's seconds of a job, the median of some after a first one."""
    took = []
    for _ in range(times + 1):
        start = time.process_time()
        job()
        took.append(time.process_time() - start)
    return statistics.median(took[1:])


def measure(backbone: str, size: int, count: int, detail: bool, steps: int, folder: Path) -> str:
    """Return a network's row."""
    network, batch = build(backbone, size, folder, detail=detail).train(), made_batch(size, count)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    inferer, loss = PromptedInferer(), PromptedLoss(PartialDiceCELoss())

    def step() -> None:
        image, target, _, options = prepare_slices(batch)
        optimizer.zero_grad()
        loss(inferer(image, network, **options), target).backward()
        optimizer.step()

    trained = median_s(step, steps)
    frozen, engine = FrozenEncoder(network, range(count), first_epoch=1, views=1), Engine(lambda *_: None)
    engine.state.batch = batch
    start = time.process_time()
    frozen.inject(engine)
    encoding = (time.process_time() - start) / count
    for part in network.encoding_parts:
        part.zero_grad(set_to_none=True)

    def frozen_step() -> None:
        frozen.inject(engine)
        step()

    kept = median_s(frozen_step, steps)
    all_steps, once = SLICES * TIMES / count, encoding * SLICES * VIEWS
    before, after = duration(trained * all_steps), duration(kept * all_steps + once)
    name = f"{backbone}, {size} pixels, {count} a step{'' if detail else ', no detail branch'}"
    told = f"{trained:.2f} | {encoding:.3f} | {kept:.2f} | {trained / kept:.1f}"
    return f"| {name} | {told} | {before} | {after}, {duration(once)} of it encoding |"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    lines = ["| network | step, s | encoding, s a slice | step, frozen, s | times as fast | 1000 slices | frozen |"]
    lines.append("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        lines += [measure(*case, args.steps, Path(folder)) for case in CASES]
    lines += ["", f"{args.steps} steps after a first one, {torch.get_num_threads()} threads"]
    record("frozen_encoder", lines)


if __name__ == "__main__":
    main()
