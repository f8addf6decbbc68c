"""Whole volumes for inference and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from monai.transforms import Compose
from nibabel.spatialimages import SpatialImage

from ragsam.data.annotation import annotated_classes
from ragsam.data.cards.load import Card
from ragsam.data.checks.check_case import require_sound
from ragsam.data.checks.empty_labels import empty_fault, lacking_organs
from ragsam.data.checks.load_volume import load_volume_checked
from ragsam.data.datalist import Case
from ragsam.data.served import as_cases
from ragsam.errors import InputError


class VolumeDataset(Dataset):
    """Preprocessed volumes: an item is what the chain returns for the case's files, with `case` and `patient`.

    Args:
        data: cases, or a server's items; see `as_cases`.
        card: given, every case is checked against it before anything else, and an item says which classes the case
            annotates: "annotated", [K + 1], bool.
        labels: whether labels are loaded too.

    Attributes:
        faults: by case, what was wrong with the files of items that were asked for.

    Raises:
        InputError: no case, one without label, or no labelled voxel at all, where labels are wanted; a faulty file: at
            once where there is a card, else on access.
    """

    def __init__(
        self,
        data: Sequence[Case | Mapping[str, Any]],
        transform: Compose,
        *,
        card: Card | None = None,
        labels: bool = False,
    ) -> None:
        data = as_cases(data)
        if labels and not data:
            raise InputError("validation: no case; label another volume, or give validation a larger share")
        for case in data:
            if labels and case.label is None:
                raise InputError(f"{case.case}: no label; validation needs one")
        if card is not None:
            found = require_sound(data, card)
            fault = empty_fault("validation", card, lacking_organs(card, found)) if labels else None
            if fault is not None:
                raise InputError(fault)
        super().__init__(data, transform)
        self.card = card
        self.labels = labels
        self.faults: dict[str, str] = {}

    @property
    def images(self) -> dict[str, Path]:
        """Return the path of each case's image."""
        return {case.case: case.image for case in self.data}

    def _transform(self, index: int) -> dict[str, Any]:
        case: Case = self.data[index]
        try:
            return self.item(case)
        except InputError as error:
            self.faults[case.case] = str(error)
            raise

    def item(self, case: Case, image: SpatialImage | None = None) -> dict[str, Any]:
        """Return the item of a case; `image` is its image where that is checked and in memory already."""
        item: dict[str, Any] = {"image": str(case.image), "case": case.case, "patient": case.patient}
        loaded = {}
        if image is None:
            loaded[item["image"]] = load_volume_checked(case.image, case.case, fill_nonfinite=case.fill_nonfinite)
        else:
            loaded[item["image"]] = image
        if self.labels:
            item["label"] = str(case.label)
            loaded[item["label"]] = load_volume_checked(case.label, case.case)
            item["label_map"] = case.label_map
        if case.fill_nonfinite is not None:
            item["fill_nonfinite"] = case.fill_nonfinite
        try:
            item = self.transform({**item, "loaded": loaded})
        except RuntimeError as error:
            if not isinstance(error.__cause__, KeyError | TypeError | AttributeError):
                raise
            reason = str(error.__cause__.args[0]).rstrip(".")
            told = f"{case.case}: the config's preprocessing: {reason}"
            raise InputError(f"{told}; take that part from a bundle of this package") from error
        return item if self.card is None else {**item, "annotated": annotated_classes(case, self.card)}
