"""How the slices that files store are oriented: a bank of them needs one orientation."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib

from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.io.read_volume import open_volume


def slices_orientation(case: Case) -> str:
    """Return where the axes of a case's prepared volume point if its slices are the file's own, [j, i], such as PLS.

    The header alone is read.

    Raises:
        InputError: a file that cannot be read.
    """
    i, j, k = nib.aff2axcodes(open_volume(case.image, case.case).affine)
    return f"{j}{i}{k}"


def common_orientation(cases: Sequence[Case]) -> str:
    """Return the `slices_orientation` of all cases.

    Raises:
        InputError: cases that differ in it, whose slices could not vote for each other; or a file that cannot be read.
    """
    first = slices_orientation(cases[0])
    for case in cases[1:]:
        found = slices_orientation(case)
        if found != first:
            told = f"{case.case}: its file's slices are laid out as {found}, those of {cases[0].case} as {first}"
            raise InputError(f"{told}; for retrieval store all files alike, or train with --set retrieval=false")
    return first
