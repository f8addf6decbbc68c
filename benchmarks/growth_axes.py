"""What `benchmarks/growth.py` measures at a point of each axis; every stage runs in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch import nn
from vector_store import SLICES_A_PATIENT, made_descriptors
from volume_memory import write_volumes

from ragsam.data.cards.load import Organ, load_card
from ragsam.data.datalist import Case
from ragsam.data.slices import SliceDataset
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.score_case import evaluated
from ragsam.inference.bank_building import build_bank
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.inference.volume_writer import write_label_volume
from ragsam.networks import Segmenter
from ragsam.networks.sam import BACKBONES
from ragsam.retrieval import bank_manifest
from ragsam.retrieval.bank import Bank, pseudonym
from ragsam.retrieval.bank_writer import BankWriter
from ragsam.retrieval.novelty import bank_scores
from ragsam.retrieval.retriever import Retriever
from ragsam.training.batches import prepare_slices
from ragsam.training.losses import PartialDiceCELoss
from ragsam.training.training_retrieval import TrainingRetrieval
from ragsam.transforms import augmentation, preprocessing

#: {series: (processor seconds, MB)}; None for what is not measured.
Costs = dict[str, tuple[float | None, float | None]]
Stage = Callable[[int, Path], Costs]

SIDE, SLICES, ORGANS = 128, 32, 13
WINDOW = (-160, 240)
SLAB, SLABS = 16, 10
#: The volumes' cache holds but a few of the smallest study's, so that every study is one that does not fit.
PATIENT_SHAPE, CACHE_MB, STEPS, BATCH = (48, 48, 12), 0.5, 20, 8


@dataclass(frozen=True)
class Axis:
    """What grows, and what is measured then.

    Attributes:
        title: of its panel.
        values: from the smallest.
        stages: one after the other, in one folder.
        scale: what a value counts as: the fit's abscissa.
        attention: series of attention over all tokens, which may grow faster than linearly.
    """

    title: str
    values: tuple[int, ...]
    stages: tuple[Stage, ...]
    scale: Callable[[int], int] = int
    attention: tuple[str, ...] = ()


@contextmanager
def spent(found: Costs, name: str) -> Iterator[None]:
    """Note what a block takes: processor seconds, and the process's peak above what was resident before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again: what came before does not count
    before, start = peak_mb(), time.process_time()
    yield
    found[name] = (time.process_time() - start, peak_mb() - before)


def peak_mb() -> float:
    """Return the most memory that this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def made_volume(value: int, folder: Path, *, classes: bool = False) -> Costs:
    """Write a volume of so many slices, or of so many classes."""
    write_volumes(folder, (SIDE, SIDE, SLICES if classes else value), value if classes else ORGANS)
    return {}


def small_network(organs: int) -> Segmenter:
    """Return a network that is not the point, warm."""
    network = Segmenter(organs, image_size=SIDE, patch_size=16).eval()
    with torch.inference_mode():
        network(torch.zeros(1, 3, SIDE, SIDE))
    return network


def segment(folder: Path, network: Segmenter, supports: VolumeSupports | None = None) -> None:
    """Segment the folder's volume as `ragsam segment` does: from file to file."""
    path = folder / "image" / "long.nii"
    with torch.inference_mode():
        image = preprocessing(window=WINDOW, keys=("image",))({"image": str(path)})["image"]
        labels = VolumeInferer(SIDE)(image[None], network, supports=supports)[0, 0]
        write_label_volume(folder / "out.nii.gz", labels.numpy(), path)


def segmenting(value: int, folder: Path) -> Costs:
    """Segment a volume of so many slices."""
    found: Costs = {}
    network = small_network(ORGANS)
    with spent(found, "segmenting"):
        segment(folder, network)
    return found


def evaluating(value: int, folder: Path, *, classes: bool = False) -> Costs:
    """Evaluate a prediction one voxel beside the reference."""
    found: Costs = {}
    card = card_of(value if classes else ORGANS)
    pair = CasePair("long", "someone", folder / "label" / "long.nii", folder / "prediction" / "long.nii.gz")
    evaluated(pair, card=card, protocol="clinical")  # its imports, once
    with spent(found, "evaluating"):
        evaluated(pair, card=card, protocol="clinical")
    return found


def card_of(organs: int) -> Any:
    """Return a card of so many organs."""
    made = tuple(Organ(f"organ {value}", value, (value, 0, 0), 1.0) for value in range(1, organs + 1))
    return replace(load_card("btcv"), organs=made)


def decoding(value: int, folder: Path) -> Costs:
    """Segment a volume of so many classes with its neighbours in a bank, without the encoder; the fusion apart too."""
    found: Costs = {}
    network, retriever = small_network(value), Retriever(descriptor="centred", neighbours=8, carry=True)
    case = Case("other", "another", folder / "image" / "long.nii", folder / "label" / "long.nii")
    dataset = SliceDataset([case], card_of(value), preprocessing(window=WINDOW), image_size=SIDE)
    build_bank(retriever, network, dataset, {})
    encoding, fusing = clock(network.sam.image_encoder), clock(network.fusion.vote_product)
    with spent(found, "all"):
        segment(folder, network, VolumeSupports(retriever, "someone", "long"))
    seconds, mb = found["all"]
    whole = (seconds - sum(encoding), mb)
    return {"neighbours and decoding": whole, "of it, the fusion": (sum(fusing), None)}


def clock(module: nn.Module) -> list[float]:
    """Return a list whose sum is what the module's calls take, seconds."""
    seconds: list[float] = []
    module.register_forward_pre_hook(lambda *_: seconds.append(-time.process_time()))
    module.register_forward_hook(lambda *_: seconds.append(time.process_time()))
    return seconds


def one_slice(side: int, folder: Path, *, backbone: str) -> Costs:
    """Segment one slice of so many pixels a side, the quicker of two times; attention over the whole grid apart."""
    network = Segmenter(8, backbone=backbone, image_size=side).eval()
    clocks = [clock(network.sam.image_encoder.blocks[index].attn) for index in BACKBONES[backbone].global_blocks]
    volume, rounds = torch.rand(1, 1, side, side, 1), []
    for _ in range(2):
        found: Costs = {}
        with torch.inference_mode(), spent(found, "all"):
            VolumeInferer(side, context_slices=0)(volume, network)
        whole, mb = found["all"]
        rounds.append((whole, sum(map(sum, clocks)), mb))
        for seconds in clocks:
            seconds.clear()
    whole, apart, mb = min(rounds)
    return {f"{backbone}, global attention": (apart, None), f"{backbone}, all the rest": (whole - apart, mb)}


def writing(slices: int, folder: Path) -> Costs:
    """Write a bank, its slices made block by block; the scores of its volumes, see `bank_scores`, are timed apart."""
    total: Costs = {}
    patients, seconds, scoring = 4, 0.0, 0.0

    def scores(*rows: np.ndarray) -> dict[str, float]:
        nonlocal scoring
        start = time.process_time()
        result = bank_scores(*rows)
        scoring = time.process_time() - start
        return result

    bank_manifest.bank_scores = scores  # in this process alone
    block = patients * SLICES_A_PATIENT
    with spent(total, "all"), BankWriter(folder / "bank", {"card": "made"}, salt="0" * 32) as writer:
        for first in range(0, slices, block):
            keys = [f"{number}" for number in range(first // SLICES_A_PATIENT, first // SLICES_A_PATIENT + patients)]
            rows = {
                "descriptors": made_descriptors(patients, seed=first),
                "labels": np.ones((block, 8, 8), np.uint8),
                "patients": np.repeat([pseudonym(key, writer.salt, "p") for key in keys], SLICES_A_PATIENT),
                "cases": np.repeat([pseudonym(key, writer.salt, "c") for key in keys], SLICES_A_PATIENT),
                "slices": np.tile(np.arange(SLICES_A_PATIENT), patients),
                "heights": np.tile(np.linspace(0, 1, SLICES_A_PATIENT), patients),
                "present": np.tile(np.array([False, True]), (block, 1)),
                "annotated": np.ones((block, 0), bool),
            }
            start = time.process_time()
            writer.append(rows)
            seconds += time.process_time() - start
        start = time.process_time()
        writer.commit()
        seconds += time.process_time() - start
    return {"writing": (seconds - scoring, total["all"][1]), "scores of its volumes": (scoring, None)}


def searching(slices: int, folder: Path, *, store: str, fewest: int = 0) -> Costs:
    """Open a bank, index it and search it for slabs of slices of its own patients, who are left out."""
    found: Costs = {}
    if slices < fewest:
        return found
    with spent(found, "opening"):
        bank = Bank.open(folder / "bank")
    retriever = Retriever(descriptor="thumbnail", neighbours=8, carry=False, store=store)
    with spent(found, f"index {store}"):
        retriever.attach(bank)
    with spent(found, f"search {store}, {SLAB * SLABS} slices"):
        for number in range(SLABS):
            own = bank.own_patients(str(number % (slices // SLICES_A_PATIENT)), None)
            retriever.search(made_descriptors(1, seed=-number - 1 + 2**32)[:SLAB], [own] * SLAB)
    if fewest:
        del found["opening"]
    return found


def made_patients(patients: int, folder: Path) -> Costs:
    """Write small volumes of so many patients."""
    draw, label = np.random.default_rng(0), np.zeros(PATIENT_SHAPE, np.uint8)
    label[16:24, 16:24, 4:8], label[24:32, 16:24, 4:8] = 1, 2
    for number in range(patients):
        image = (draw.normal(100, 20, PATIENT_SHAPE) + 40 * label).astype(np.int16)
        for kind, voxels in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{number:04d}_{kind}.nii")
    return {}


def training(patients: int, folder: Path) -> Costs:
    """Check and read patients, make their bank, and train some steps."""
    found: Costs = {}
    names = [f"{number:04d}" for number in range(patients)]
    cases = [Case(name, name, folder / f"{name}_image.nii", folder / f"{name}_label.nii") for name in names]
    card, size = load_card("hippocampus"), PATIENT_SHAPE[0]
    network, retriever = (
        Segmenter(card.num_classes, image_size=size),
        Retriever(descriptor="centred", neighbours=8, carry=True),
    )
    with spent(found, "checking and reading"):
        options = {"image_size": size, "augmentation": augmentation(), "cache_gb": CACHE_MB / 1024}
        dataset = SliceDataset(cases, card, preprocessing(), **options)
    with spent(found, "bank in memory"):
        build_bank(retriever, network, dataset, {})
    with spent(found, f"an epoch of {STEPS} steps"):
        loader = DataLoader(dataset, batch_size=BATCH, sampler=dataset.sampler(STEPS * BATCH), num_workers=0)
        SupervisedTrainer(
            torch.device("cpu"), 1, loader, network, torch.optim.AdamW(network.parameters()), PartialDiceCELoss(),
            prepare_batch=prepare_slices, decollate=False,
            train_handlers=[TrainingRetrieval(network, retriever, dataset, {})],
        ).run()  # fmt: skip
    return found


AXES = {
    "slices": Axis("slices of a volume", (50, 100, 200, 400, 800), (made_volume, segmenting, evaluating)),
    "size": Axis(
        "pixels of a slice",
        (256, 384, 512, 768, 1024),
        (partial(one_slice, backbone="vit_tiny"), partial(one_slice, backbone="vit_b")),
        scale=lambda side: side**2,
        attention=("vit_tiny, global attention", "vit_b, global attention"),
    ),
    "classes": Axis(
        "classes",
        (2, 6, 13, 26, 52, 104),
        (partial(made_volume, classes=True), decoding, partial(evaluating, classes=True)),
    ),
    "bank": Axis(
        "slices in the bank",
        (1000, 10_000, 100_000, 1_000_000),
        (writing, partial(searching, store="exact"), partial(searching, store="ivfpq", fewest=100_000)),
    ),
    "patients": Axis("patients in training", (10, 30, 100, 300, 1000), (made_patients, training)),
}
