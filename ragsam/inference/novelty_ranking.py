"""Ranking of volumes without labels by their novelty: those least like a bank are worth labelling first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragsam.console.case_progress import CaseProgress
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.inference.bank_building import attach_bank
from ragsam.inference.inputs import cases_of_inputs
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.retriever import Retriever
from ragsam.runs.run import RunFolder, bad_input, part_of
from ragsam.runs.weights import WeightsLoader

#: Once each slice is enough: the looks of `segment` are left out.
_ONE_LOOK = {"test_shift": 0, "test_mirror": False, "test_scales": [], "samed_size": None}


def rank_volumes(
    run: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    *,
    section: str = "test",
    bank: str | os.PathLike[str] | None = None,
    series: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score volumes by their novelty; see `ragsam.retrieval.novelty`. A volume's own patient is left out.

    Args:
        run: whose slices and descriptor are used; trained only if the descriptor uses the encoder.
        inputs, section, series: see `cases_of_inputs`.
        bank: folder of the bank; None takes the run's own.

    Returns:
        {"case", "score", "percentile", "p_value", "flagged"} of every volume, the most novel first; and a message for
        each that cannot be read.

    Raises:
        InputError: no run, a bank that does not fit it, or invalid inputs.
    """
    cases = cases_of_inputs(inputs, card=RunFolder(run).card, section=section, series=series)
    values = dict(_ONE_LOOK)
    if bank is not None:
        values["bank"] = str(Path(bank).absolute())
    parser = RunFolder(run).parser("inference", cases=list(cases), **values)
    get, part = parser.get_parsed_content, partial(part_of, parser)
    with bad_input():
        network = part("network")
        retriever = part("retriever")
        if retriever.needs_embedding:
            WeightsLoader(network, get("weights")).load()
        attach_bank(retriever, network, get("bank"), get("preparation"))
        dataset = part("dataset")
        inferer = part("inferer")
    ranking = []
    faults = []
    with CaseProgress("rank", len(cases)) as progress:
        for index, case in enumerate(cases):
            try:
                with bad_input():
                    volume = dataset[index]["image"]
            except InputError as error:
                faults.append(str(error))
            else:
                ranking.append({"case": case.case, **_novelty(volume, case, network, retriever, inferer)})
            progress(index + 1)
    ranking.sort(key=itemgetter("score"), reverse=True)
    return ranking, faults


class _Found(VolumeSupports):
    """Finds the neighbours of a volume's slices; nothing is read of them, and nothing decoded."""

    needs_embedding = False

    def __init__(self, network: Segmenter, retriever: Retriever, case: Case) -> None:
        super().__init__(retriever, case.patient, case.case)
        self.network = network

    def __call__(self, image: Tensor, embedding: Tensor | None, height: Tensor) -> None:
        if self.retriever.needs_embedding:
            embedding = self.network.encode(image.to(next(self.network.parameters()).device))
        self.trace.append((height.cpu().numpy(), self.find(image, embedding, height)))


def _nothing(image: Tensor, supports: None) -> Tensor:
    return image.new_zeros(len(image), 1, *image.shape[-2:])


@torch.no_grad()
def _novelty(
    volume: Tensor, case: Case, network: Segmenter, retriever: Retriever, inferer: VolumeInferer
) -> dict[str, Any]:
    network.eval()
    found = _Found(network, retriever, case)
    for _ in inferer.slabs(volume, _nothing, found, restore_grid=False):
        pass
    new = found.novelty()
    if new is None:
        raise InputError(f"{case.case}: the bank has no other patient; put more into it with `ragsam index RUN --add`")
    return new.as_json()
