"""Label volumes of parts become one folder, as a single call would have written it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.files import atomic_write, write_json_atomic
from ragsam.inference.evaluation import TRACE_NAME
from ragsam.inference.provenance import PROVENANCE_NAME
from ragsam.io.documents import read_json
from ragsam.outputs import Outputs, written_files
from ragsam.parts import STAMP_NAME, require_same_stamps
from ragsam.report.trace_file import read_trace


def merge_segmentations(folder: Path, parts: Sequence[Path], *, overwrite: bool = False) -> list[str]:
    """Copy what all parts wrote into one folder; `retrieval.json` gets the cases of all of them.

    Args:
        parts: folders of `segment`, which stay.

    Returns:
        Names of the files that were copied.

    Raises:
        InputError: parts that differ in run, bank, options or package, a file that is not as the part wrote it, two
            parts with one file, or an output that may not be replaced.
    """
    require_same_stamps(parts)
    provenance = _common_provenance(parts)
    files: dict[str, Path] = {}
    for part in parts:
        for name in written_files(part):
            if name in (PROVENANCE_NAME, TRACE_NAME, STAMP_NAME):
                continue
            if name in files:
                raise InputError(f"{name}: in {files[name].parent.name} and in {part.name}; segment the parts again")
            files[name] = part / name
    traces = [read_trace(part / TRACE_NAME) for part in parts if (part / TRACE_NAME).is_file()]
    names = [*files, PROVENANCE_NAME, *([TRACE_NAME] if traces else [])]
    with Outputs(folder, names, reads=parts, overwrite=overwrite):
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder / name) as temporary:
                shutil.copyfile(path, temporary)
        write_json_atomic(folder / PROVENANCE_NAME, provenance)
        if traces:
            cases = {name: case for trace in traces for name, case in trace["cases"].items()}
            write_json_atomic(folder / TRACE_NAME, {**traces[0], "cases": cases})
    return list(files)


def _common_provenance(parts: Sequence[Path]) -> dict[str, Any]:
    """Return what the parts were made with, which must be the same but for the date."""
    found = [read_json(part / PROVENANCE_NAME) for part in parts]
    for part, other in zip(parts, found, strict=True):
        for name in sorted(found[0].keys() | other.keys()):
            if name != "date" and found[0].get(name) != other.get(name):
                raise InputError(f"{part.name}: another {name} than in {parts[0].name}; segment the part again")
    return found[0]
