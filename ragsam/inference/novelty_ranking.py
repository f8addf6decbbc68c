"""Ranking: volumes without labels, those first that are most unlike a bank, and so worth labelling first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.inference.bank_building import bank_fit
from ragsam.inference.inputs import cases_of_inputs
from ragsam.inference.volume_retrieval import trace_novelty
from ragsam.retrieval.bank import Bank
from ragsam.runs.run import RunFolder, bad_input, root_cause
from ragsam.runs.weights import WeightsLoader

#: Once each slice is enough: the looks of `segment` are left out.
_ONE_LOOK = {"test_shift": 0, "test_mirror": False, "test_scales": []}


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
        run: whose slices and descriptor are used; trained only where the descriptor looks at the encoder.
        inputs, section, series: see `cases_of_inputs`.
        bank: folder of the bank; None takes the run's own.

    Returns:
        {"case", "score", "percentile", "p_value", "flagged"} of every volume, the most novel first; and a line for
        each that cannot be read.

    Raises:
        InputError: no run, a bank that does not fit it, or inputs that are none.
    """
    cases = cases_of_inputs(inputs, section=section, series=series)
    values = _ONE_LOOK if bank is None else {**_ONE_LOOK, "bank": str(Path(bank).absolute())}
    get = RunFolder(run).parser("inference", cases=list(cases), **values).get_parsed_content
    with bad_input():
        network, retriever = get("network"), get("retriever")
        if retriever.needs_embedding:
            WeightsLoader(network, get("weights")).load()
        retriever.attach(Bank.open(get("bank"), bank_fit(retriever, network, get("preparation"))))
        dataset, inferer = get("dataset"), get("inferer")
    inferer.restore_grid = False
    ranking, faults = [], []
    for index, case in enumerate(cases):
        try:
            volume = dataset[index]["image"]
        except Exception as error:
            if not isinstance(cause := root_cause(error), InputError):
                raise
            faults.append(str(cause))
            continue
        ranking.append({"case": case.case, **_novelty(volume, case, network, retriever, inferer)})
    return sorted(ranking, key=lambda entry: -entry["score"]), faults


@torch.no_grad()
def _novelty(volume: Tensor, case: Case, network: Any, retriever: Any, inferer: Any) -> dict[str, Any]:
    own, trace = retriever.bank.own_patients(case.patient, case.case), []
    device = next(network.parameters()).device

    def look(image: Tensor, height: Tensor) -> Tensor:
        embedding = network.encode(image.to(device)) if retriever.needs_embedding else None
        found = retriever.search(retriever.describe(image, embedding, height), [own] * len(image))
        trace.append((height.cpu().numpy(), found))
        return image.new_zeros(len(image), 1, *image.shape[-2:])

    network.eval()
    for _ in inferer.slabs(volume, look):
        pass
    new = trace_novelty(retriever.bank, trace)
    if new is None:
        raise InputError(f"{case.case}: the bank has no other patient; put more into it with `ragsam index RUN --add`")
    return new.as_json()
