"""One case looked at in full: its faults, and the statistics that show what a data set is like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.data.checks.check_case import CaseCheck, examine_case, missing_label
from ragsam.data.checks.slab_reader import Slab
from ragsam.data.checks.volume_fingerprint import Fingerprint, FingerprintReader
from ragsam.data.datalist import Case

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
_SAMPLED_VOXELS = 500_000


@dataclass(frozen=True)
class CaseInspection:
    """What was found of a case; everything after `warnings` is None where its file is at fault.

    Attributes:
        shape, spacing_mm: (3,), in the file's axis order.
        orientation: where the file's axes point, such as LPS.
        voxel_type: as stored, such as int16.
        intensity: {"min", "p0.5", "p5", "p50", "p95", "p99.5", "max"}.
        organs_ml: {organ: volume} of the organs that the case annotates.
    """

    case: str
    patient: str
    section: str
    faults: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    voxel_type: str | None = None
    intensity: Mapping[str, float] | None = None
    organs_ml: Mapping[str, float] | None = None
    fingerprint: Fingerprint | None = None


def inspect_case(case: Case, section: str, card: Card) -> CaseInspection:
    """Check a case and measure it, reading each of its files once.

    Whatever goes wrong is a fault of the case, so that the others go on.
    """
    intensity, fingerprint = IntensityReader(), FingerprintReader()
    names = (case.case, case.patient, section)
    try:
        check = examine_case(case, card, intensity, fingerprint)
    except Exception as error:  # of a decoder, or no memory: no case may stop the others
        return failed_case(case, section, type(error).__name__)
    faults = (*missing_label(case, section), *check.faults)
    if check.image is None:
        return CaseInspection(*names, faults, check.warnings)
    return CaseInspection(
        *names,
        faults,
        (*check.warnings, *_left_out(case, card, check)),
        shape=tuple(int(n) for n in check.image.shape),
        spacing_mm=_spacing_mm(check.image),
        orientation="".join(nibabel.aff2axcodes(check.image.affine)),
        voxel_type=check.image.get_data_dtype().name,
        intensity=intensity.percentiles(),
        organs_ml=_organs_ml(case, card, check),
        fingerprint=fingerprint.fingerprint(),
    )


def failed_case(case: Case, section: str, cause: str = "its process died") -> CaseInspection:
    """Return the inspection of a case that could not be checked at all."""
    fault = f"{case.case}: the check of this case failed ({cause}); free memory, or look at its files one by one"
    return CaseInspection(case.case, case.patient, section, (*missing_label(case, section), fault))


class IntensityReader:
    """Takes extremes of all voxels and percentiles of up to half a million, evenly spread."""

    def begin(self, image: SpatialImage) -> None:
        """Choose the step between sampled voxels; it shares no factor with a row, so no column is preferred."""
        step = max(1, math.prod(image.shape) // _SAMPLED_VOXELS)
        while math.gcd(step, image.shape[0]) > 1:
            step += 1
        self._step, self._next = step, 0
        self._low, self._high = math.inf, -math.inf
        self._sample: list[NDArray] = []

    def add(self, slab: Slab) -> None:
        """Sample a slab."""
        voxels = slab.voxels.ravel(order="F")
        self._low, self._high = min(self._low, float(voxels.min())), max(self._high, float(voxels.max()))
        part = voxels[self._next :: self._step].astype(np.float64)
        self._sample.append(part)
        self._next += len(part) * self._step - len(voxels)

    def percentiles(self) -> dict[str, float]:
        """Return the statistics of all slabs together."""
        values = np.percentile(np.concatenate(self._sample), PERCENTILES).tolist()
        named = {f"p{percent:g}": value for percent, value in zip(PERCENTILES, values, strict=True)}
        return {"min": self._low, **named, "max": self._high}


def _spacing_mm(image: SpatialImage) -> tuple[float, float, float]:
    x, y, z = nibabel.affines.voxel_sizes(image.affine).tolist()
    return x, y, z


def _organs_ml(case: Case, card: Card, check: CaseCheck) -> dict[str, float] | None:
    if check.label_voxels is None or check.image is None:
        return None
    voxel_ml = abs(float(np.linalg.det(check.image.affine[:3, :3]))) / 1000
    names = [name for name in card.labels if case.annotated is None or name in case.annotated]
    return {name: check.label_voxels.get(card.labels[name], 0) * voxel_ml for name in names}


def _left_out(case: Case, card: Card, check: CaseCheck) -> list[str]:
    """Return the warning of organs that the label holds although the datalist says they are not annotated."""
    if case.annotated is None or check.label_voxels is None:
        return []
    names = [n for n, value in card.labels.items() if n not in case.annotated and check.label_voxels.get(value)]
    if not names:
        return []
    return [f"{case.case}: the label holds {', '.join(names)}, which annotated leaves out; they are not used"]
