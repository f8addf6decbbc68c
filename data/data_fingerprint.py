"""The fingerprint of a data set: tells whether two runs saw the same volumes, without telling what is in them."""

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
    name or compression is the same. Each file is read once.

    Raises:
        InputError: as `scan_volume`.
    """
    lines = sorted(" ".join(_digests(case)) for case in cases)
    return {
        "volumes": len(cases),
        "patients": len({case.patient for case in cases}),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def _digests(case: Case) -> list[str]:
    """Return the digests of a case's image and, where it has one, its label."""
    digests = []
    for path, fill in ((case.image, case.fill_nonfinite), (case.label, None)):
        if path is not None:
            reader = DigestReader()
            scan_volume(path, case.case, reader, fill_nonfinite=fill)
            digests.append(reader.digest())
    return digests
