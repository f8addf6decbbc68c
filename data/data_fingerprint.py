"""The fingerprint of a data set: says whether two runs saw the same volumes, without telling what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ragsam.data.checks.check_case import scan_volume
from ragsam.data.checks.volume_fingerprint import DigestReader
from ragsam.data.datalist import Case


def data_fingerprint(cases: Sequence[Case]) -> dict[str, Any]:
    """Return {"volumes", "patients", "sha256"} of cases, whose order and names do not matter.

    The hash is over the voxels of images and labels as their files have them, so that the same volume under another
    name or compression is the same. Each file is read once; raises InputError as `scan_volume`.
    """
    lines = []
    for case in cases:
        files = [(case.image, case.fill_nonfinite)]
        if case.label is not None:
            files.append((case.label, None))
        digests = []
        for path, fill in files:
            reader = DigestReader()
            scan_volume(path, case.case, reader, fill_nonfinite=fill)
            digests.append(reader.digest())
        lines.append(" ".join(digests))
    text = "\n".join(sorted(lines))
    return {
        "volumes": len(cases),
        "patients": len({case.patient for case in cases}),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
