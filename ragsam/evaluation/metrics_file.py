"""The metrics.json of an evaluation, read back."""

from __future__ import annotations

import os
from typing import Any

from ragsam.errors import InputError
from ragsam.io.documents import check_schema, read_json
from ragsam.metrics.protocols import PROTOCOLS
from ragsam.metrics.scoring import ALL_METRICS, DISTANCES, SHARES, VOLUMES

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_NUMBER = {"type": ["number", "null"]}
_SCORES = {
    **{key: {**_NUMBER, "minimum": 0, "maximum": 1} for key in SHARES},
    **{key: {**_NUMBER, "minimum": 0} for key in DISTANCES},
    **dict.fromkeys(VOLUMES, _NUMBER),
}
_ORGAN = {"type": "object", "required": ["dice"], "properties": {"status": _TEXT, **_SCORES}}
_MEAN = {
    "type": "object",
    "required": ["mean", "ci95", "n"],
    "properties": {"mean": _NUMBER, "n": _NUMBER, "n_cases": _NUMBER},
}
_MEANS = {"type": "object", "required": list(ALL_METRICS[:1]), "additionalProperties": _MEAN}
_MEAN["properties"]["ci95"] = {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_SCHEMA = {
    "type": "object",
    "required": ["card", "protocol", "cases", "summary"],
    "properties": {
        "card": _TEXT,
        "protocol": {"enum": list(PROTOCOLS)},
        "protocol_caveat": {"type": ["string", "null"]},
        "metrics": _TEXTS,
        "cases": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["case", "patient", "organs"],
                "properties": {
                    "case": _TEXT,
                    "patient": _TEXT,
                    "organs": {"type": "object", "additionalProperties": _ORGAN},
                },
            },
        },
        "summary": {
            "type": "object",
            "required": ["organs", "mean", "organs_left_out"],
            "properties": {
                "organs": {"type": "object", "additionalProperties": _MEANS},
                "mean": _MEANS,
                "organs_left_out": _TEXTS,
            },
        },
    },
}


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a metrics.json.

    Raises:
        InputError: no evaluation, or a field that is missing or wrong, named by its place in the file.
    """
    metrics = read_json(path)
    if not isinstance(metrics, dict) or not metrics.keys() >= set(_SCHEMA["required"]):
        raise InputError(f"{path}: not an evaluation's metrics.json; name a folder that `ragsam evaluate` wrote")
    check_schema(metrics, _SCHEMA, str(path))
    known = metrics["summary"]["organs"].keys()
    for number, case in enumerate(metrics["cases"]):
        for organ in sorted(known ^ case["organs"].keys()):
            told = "missing" if organ in known else "not in the summary"
            raise InputError(f"{path}: cases[{number}].organs.{organ} is {told}; evaluate again")
    return metrics
