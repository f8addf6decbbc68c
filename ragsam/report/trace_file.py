"""The retrieval.json of segmented volumes, read back: which neighbours voted on each slice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ragsam.io.documents import check_schema, read_json

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NOVELTY = {
    "type": ["object", "null"],
    "required": ["score", "percentile", "p_value", "flagged"],
    "properties": {
        "score": {"type": "number"},
        "percentile": {"type": "number", "minimum": 0, "maximum": 100},
        "p_value": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "flagged": {"type": "boolean"},
    },
}
_CASE = {
    "type": "object",
    "required": ["slices"],
    "properties": {"axis": {"enum": [0, 1, 2]}, "novelty": _NOVELTY, "slices": {"type": "object"}},
}
_BANK = {
    "type": "object",
    "required": ["slices", "patients"],
    "properties": {"slices": _COUNT, "patients": _COUNT, "fingerprint": _TEXT},
}
_SCHEMA = {
    "type": "object",
    "required": ["cases"],
    "properties": {"bank": _BANK, "cases": {"type": "object", "additionalProperties": _CASE}},
}
_NEIGHBOUR = {
    "type": "object",
    "required": ["patient", "case", "slice", "similarity", "weight"],
    "properties": {
        "patient": _TEXT,
        "case": _TEXT,
        "slice": _COUNT,
        "similarity": {"type": "number"},
        "weight": {"type": "number", "minimum": 0},
    },
}


def read_trace(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a retrieval.json, of which the slices' neighbours are looked at by `neighbours_of`.

    Raises:
        InputError: no such file, or a field that is missing or wrong, named by its place in the file.
    """
    return read_json(path, _SCHEMA)


def neighbours_of(trace: Mapping[str, Any], case: str, z: int) -> list[dict[str, Any]]:
    """Return the neighbours of an axial slice; none where the slices lie across another axis.

    Raises:
        InputError: a neighbour with a field that is missing or wrong.
    """
    traced = trace.get("cases", {}).get(case, {"axis": None})
    if traced.get("axis", 2) != 2:
        return []
    found = traced["slices"].get(str(z), [])
    check_schema(found, {"type": "array", "items": _NEIGHBOUR}, f"retrieval.json: cases.{case}.slices.{z}")
    return found
