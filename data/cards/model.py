"""What a dataset card holds, as frozen records; `schema.py` makes them from yaml, `load.py` finds the files."""

from __future__ import annotations

import re
from dataclasses import dataclass

LAYOUTS = ("btcv", "flare22", "decathlon", "nnunet", "manifest", "plain")
#: As the metrics know them; a card names the one that its published figures were measured by.
PROTOCOLS = ("clinical", "btcv", "flare22", "flare22-2022", "flare22-2024", "flare22-fixed", "samed")


@dataclass(frozen=True)
class Code:
    """A coded concept as DICOM writes it: scheme (`SCT` is SNOMED CT), value, meaning; `modifier` such as a side."""

    scheme: str
    value: str
    meaning: str
    modifier: Code | None = None


@dataclass(frozen=True)
class Organ:
    """One label.

    `value` is its number in this package's label volumes, `colour` RGB 0-255, `tolerance_mm` that of NSD, `raw` the
    numbers it has in the data set's own label files (several where the card merges them; empty: `value`), `code`
    what a DICOM segmentation calls it.
    """

    name: str
    value: int
    colour: tuple[int, int, int]
    tolerance_mm: float
    raw: tuple[int, ...] = ()
    code: Code | None = None

    @property
    def raw_values(self) -> tuple[int, ...]:
        """The organ's numbers in the data set's own label files."""
        return self.raw or (self.value,)


@dataclass(frozen=True)
class PatientRule:
    """How a case gives its patient where no table does; exactly one of the three ways is set.

    `pattern` with `files_per_patient`: case names have a number, and so many in a row are one patient.
    `case_is_patient`: every case is another patient. `column`: of the data set's manifest.
    """

    note: str
    pattern: str | None = None
    files_per_patient: int = 1
    case_is_patient: bool = False
    column: str | None = None

    def patient(self, case: str) -> str | None:
        """Return the patient by a case's name alone, None if the name does not tell it.

        With two files a patient, cases 3 and 4 are `subj_002`.
        """
        if self.case_is_patient:
            return case
        if self.pattern is None:
            return None
        match = re.fullmatch(self.pattern, case)
        if match is None:
            return None
        last_of_patient = int(match.group(1)) + self.files_per_patient - 1
        return f"subj_{last_of_patient // self.files_per_patient:03d}"


@dataclass(frozen=True)
class SplitPart:
    """Who belongs to one section of a split; exactly one way is set.

    `count`: so many patients, dealt by the seed. `cases`, `patients`: by name. `column` and `values`: those whose
    cell in the data set's manifest is one of `values`.
    """

    count: int | None = None
    cases: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    column: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """The split that belongs to a data set; who is in neither part is for training."""

    note: str
    validation: SplitPart | None = None
    test: SplitPart | None = None


@dataclass(frozen=True)
class Card:
    """A data set as the package sees it.

    `window` is in Hounsfield units, or None if intensities have no scale of their own (MR) and every volume is
    scaled by its own percentiles. `left_right` pairs organs that change places when a volume is mirrored.
    `raw_ignored` are numbers of the data set's label files that the card takes for background. `layouts` are those in
    which the data set is given out; empty: any.
    """

    name: str
    title: str
    modality: str
    organs: tuple[Organ, ...]
    window: tuple[float, float] | None
    orientation: str
    left_right: tuple[tuple[str, str], ...]
    licence: str
    source: str
    citation: str
    patient_rule: PatientRule | None = None
    raw_ignored: tuple[int, ...] = ()
    split: Split | None = None
    protocol: str = "clinical"
    layouts: tuple[str, ...] = ()
    notes: str | None = None

    @property
    def labels(self) -> dict[str, int]:
        """Organ names to label values, without the background."""
        return {organ.name: organ.value for organ in self.organs}

    @property
    def num_classes(self) -> int:
        """Number of organs, without the background."""
        return len(self.organs)

    @property
    def label_map(self) -> dict[int, int] | None:
        """Values of the data set's label files to the card's (0 where ignored); None if they are the same."""
        value_of = {}
        for organ in self.organs:
            value_of |= dict.fromkeys(organ.raw_values, organ.value)
        value_of |= dict.fromkeys(self.raw_ignored, 0)
        if list(value_of) == list(value_of.values()):
            return None
        return dict(sorted(value_of.items()))
