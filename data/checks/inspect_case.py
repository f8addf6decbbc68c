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
from ragsam.data.checks.check_case import examine_case, missing_label
from ragsam.data.checks.slab_reader import Slab
from ragsam.data.checks.volume_fingerprint import Fingerprint, FingerprintReader
from ragsam.data.datalist import Case

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
_SAMPLED_VOXELS = 500_000


@dataclass(frozen=True)
class CaseInspection:
    """What was found of a case; everything after `warnings` is None if its file is at fault.

    `shape` and `spacing_mm` are in the file's axis order, `orientation` is where its axes point, such as LPS,
    `intensity` has "min", "p0.5", "p5", "p50", "p95", "p99.5" and "max", and `organs_ml` the organs annotated.
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
    """Check a case and measure it; whatever goes wrong is a fault of the case, so that the others continue."""
    intensity = IntensityReader()
    fingerprint = FingerprintReader()
    try:
        check = examine_case(case, card, intensity, fingerprint)
    except Exception as error:  # of a decoder, or no memory: no case may stop the others
        return failed_case(case, section, type(error).__name__)
    faults = (*missing_label(case, section), *check.faults)
    image = check.image
    if image is None:
        return CaseInspection(case.case, case.patient, section, faults, check.warnings)
    told = list(check.warnings)
    organs_ml = None
    if check.label_voxels is not None:
        voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
        volumes_ml = {name: check.label_voxels.get(value, 0) * voxel_ml for name, value in card.labels.items()}
        annotated = card.labels if case.annotated is None else case.annotated
        organs_ml = {name: volume for name, volume in volumes_ml.items() if name in annotated}
        left_out = ", ".join(name for name, volume in volumes_ml.items() if volume and name not in annotated)
        if left_out:
            told.append(f"{case.case}: the label holds {left_out}, which annotated leaves out; they are not used")
    return CaseInspection(
        case.case,
        case.patient,
        section,
        faults,
        tuple(told),
        shape=tuple(map(int, image.shape)),
        spacing_mm=tuple(nibabel.affines.voxel_sizes(image.affine).tolist()),
        orientation="".join(nibabel.aff2axcodes(image.affine)),
        voxel_type=image.get_data_dtype().name,
        intensity=intensity.percentiles(),
        organs_ml=organs_ml,
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
        self._step = max(1, math.prod(image.shape) // _SAMPLED_VOXELS)
        while math.gcd(self._step, image.shape[0]) > 1:
            self._step += 1
        self._next = 0
        self._low = math.inf
        self._high = -math.inf
        self._sample: list[NDArray] = []

    def add(self, slab: Slab) -> None:
        """Sample a slab."""
        voxels = slab.voxels.ravel(order="F")
        self._low = min(self._low, float(voxels.min()))
        self._high = max(self._high, float(voxels.max()))
        part = voxels[self._next :: self._step].astype(np.float64)
        self._sample.append(part)
        self._next += len(part) * self._step - len(voxels)

    def percentiles(self) -> dict[str, float]:
        """Return the statistics of all slabs together."""
        values = np.percentile(np.concatenate(self._sample), PERCENTILES)
        named = dict(zip(map("p{:g}".format, PERCENTILES), values.tolist(), strict=True))
        return {"min": self._low, **named, "max": self._high}
