"""The scores of a part of an evaluation, kept until all parts are merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ragsam.console.case_progress import CaseProgress
from ragsam.data.cards.model import Card
from ragsam.data.checks.parallel import cores, run_each
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.score_case import crashed, evaluated
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json
from ragsam.outputs import Outputs

SCORES_NAME = "scores.json"
Results = list[tuple[dict[str, Any] | None, list[str]]]
_SCHEMA = {
    "type": "object",
    "required": ["arguments", "cases", "results"],
    "properties": {
        "arguments": {"type": "object"},
        "cases": {"type": "array", "items": {"type": "string"}},
        "results": {
            "type": "array",
            "items": {
                "type": "array",
                "prefixItems": [{"type": ["object", "null"]}, {"type": "array", "items": {"type": "string"}}],
                "minItems": 2,
                "maxItems": 2,
            },
        },
    },
}


def write_scores(
    pairs: Sequence[CasePair],
    card: Card,
    folder: str | os.PathLike[str],
    arguments: dict[str, Any],
    *,
    protocol: str,
    jobs: int | None = None,
    overwrite: bool = False,
) -> None:
    """Score the pairs of a part, and write `scores.json`.

    Args:
        arguments: of the evaluation, as JSON; all parts must have the same.
        jobs: processes; None takes one a core.

    Raises:
        InputError: files that cannot be written, see `Outputs`.
    """
    reads = [path for pair in pairs for path in (pair.reference, pair.prediction) if path is not None]
    path = Path(folder) / SCORES_NAME
    job = partial(evaluated, card=card, protocol=protocol)
    with Outputs.of_file(path, reads=reads, overwrite=overwrite), CaseProgress("evaluate", len(pairs)) as progress:
        results = run_each(job, pairs, jobs=min(jobs or cores(), len(pairs)), crashed=crashed, done=progress)
        names = [pair.case for pair in pairs]
        write_json_atomic(path, {"arguments": arguments, "cases": names, "results": list(results)})


def read_scores(folders: Sequence[Path]) -> tuple[dict[str, Any], list[str], Results]:
    """Return the arguments of an evaluation, and its cases with their results, of all parts in order.

    Raises:
        InputError: a part without scores, or one that was evaluated with other arguments.
    """
    contents = [read_json(folder / SCORES_NAME, _SCHEMA) for folder in folders]
    arguments = contents[0]["arguments"]
    cases: list[str] = []
    results: Results = []
    for folder, content in zip(folders, contents, strict=True):
        for name in sorted(arguments.keys() | content["arguments"].keys()):
            if arguments.get(name) != content["arguments"].get(name):
                raise InputError(f"{folder.name}: another {name} than in {folders[0].name}; evaluate the part again")
        if len(content["cases"]) != len(content["results"]):
            raise InputError(f"{folder.name}: its {SCORES_NAME} is damaged; evaluate the part again")
        cases += content["cases"]
        results += [(organs, lines) for organs, lines in content["results"]]
    return arguments, cases, results
