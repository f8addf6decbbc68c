"""Banks of a run's slices: what a bank is made for, and its slices as the network describes them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from monai.data import DataLoader

from ragsam.data.datalist import Case
from ragsam.data.file_orientation import common_orientation
from ragsam.data.slices import SliceDataset
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.bank_manifest import has_bank
from ragsam.retrieval.retriever import Retriever
from ragsam.transforms.layout import DEFAULT_LAYOUT

logger = logging.getLogger(__name__)


def bank_fit(
    retriever: Retriever, network: Segmenter, preparation: Mapping[str, Any], cases: Sequence[Case] = ()
) -> dict[str, Any]:
    """Return what a bank and its user must share: the preparation of slices, the descriptor, and its encoder if any.

    Args:
        cases: of the bank; where its slices are the files' own, it says their orientation too.

    Raises:
        InputError: files' own slices of several orientations.
    """
    fit = {"slice_layout": DEFAULT_LAYOUT, **preparation, "descriptor": retriever.descriptor, "carry": retriever.carry}
    if cases and fit["slice_layout"] == "file":
        fit["orientation"] = common_orientation(cases)
    if retriever.needs_embedding:
        fit["encoder"] = encoder_fingerprint(network)
    return fit


def attach_bank(
    retriever: Retriever, network: Segmenter, folder: str | os.PathLike[str], preparation: Mapping[str, Any]
) -> None:
    """Open a bank and have a retriever search in it.

    Raises:
        InputError: the bank is damaged, or made for something else.
    """
    retriever.attach(Bank.open(folder, bank_fit(retriever, network, preparation)))


def finds_bank(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a bank to segment with; its absence is logged once per folder."""
    found = has_bank(folder)
    if not found:
        _tell_missing(os.fspath(folder))
    return found


@cache
def _tell_missing(folder: str) -> None:
    logger.warning("%s: no bank there; segments without retrieval (`ragsam index` makes a bank)", folder)


def encoder_fingerprint(network: Segmenter) -> str:
    """Return the SHA-256 of the weights that the embedding depends on."""
    digest = hashlib.sha256()
    for part in network.encoding_parts:
        for tensor in part.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_bank(
    retriever: Retriever, network: Segmenter, dataset: SliceDataset, preparation: dict[str, Any], batch_size: int = 32
) -> Bank:
    """Put every slice of a dataset, unaugmented, into a bank in memory and attach it to the retriever."""
    fit = bank_fit(retriever, network, preparation, dataset.cases)
    bank = Bank.collect(bank_batches(retriever, network, dataset, batch_size), fit, retriever.keeps)
    retriever.attach(bank)
    return bank


def bank_batches(
    retriever: Retriever, network: Segmenter, dataset: SliceDataset, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Yield every slice of a dataset, unaugmented, as a bank takes them; see `Retriever.described`."""
    # A generator of its own: MONAI's loader would set torch's global one back to its first seed.
    generator = torch.Generator().manual_seed(0)
    slices = dataset if dataset.augmentation is None else dataset.plain()
    loader = DataLoader(slices, batch_size=batch_size, num_workers=0, generator=generator)
    return retriever.described(loader, partial(encoding, network))


@torch.no_grad()
def encoding(network: Segmenter, image: torch.Tensor) -> torch.Tensor:
    """Return the embedding [B, C, h, w] of slices [B, C, S, S], whatever the network is doing otherwise."""
    training = network.training
    network.eval()
    embedding = network.encode(image.to(next(network.parameters()).device))
    network.train(training)
    return embedding


def encode_alone(network: Segmenter, image: torch.Tensor) -> torch.Tensor:
    """Return what `encoding` does, of every slice the same to the bit whatever others come with it."""
    return torch.cat([encoding(network, each) for each in image.split(1)])
