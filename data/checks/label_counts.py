"""Which label values a volume holds, counted while it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from nibabel.spatialimages import SpatialImage

from ragsam.data.cards.load import Card
from ragsam.data.checks.slab_reader import Slab

LABEL_TOLERANCE = 1e-3
_COUNTED_RANGE = 1 << 16
_SHOWN = 10


class LabelCounts:
    """Counts the voxels of each value; a float within 1e-3 of a whole number is that number.

    Attributes:
        voxels: {value in the file: number of voxels}.
        broken: number of voxels that are no whole numbers; `example` is one of them.
    """

    def __init__(self) -> None:
        self.voxels: Counter[int] = Counter()
        self.broken = 0
        self.example = 0.0

    def begin(self, image: SpatialImage) -> None:
        """Nothing is needed of the header."""

    def add(self, slab: Slab) -> None:
        """Count a slab's values."""
        values = slab.voxels.ravel(order="K")
        if not np.issubdtype(values.dtype, np.integer):
            whole = np.rint(values)
            off = np.abs(values - whole) > LABEL_TOLERANCE
            if off.any():
                self.broken += int(off.sum())
                self.example = float(values[off][0])
            values = whole[~off]
        if not values.size:
            return
        lowest = int(values.min())
        if int(values.max()) - lowest < _COUNTED_RANGE:  # counting is faster than sorting
            counts = np.bincount(np.subtract(values, lowest, dtype=np.int64, casting="unsafe"))
            found = np.flatnonzero(counts)
            counts = counts[found]
        else:
            lowest = 0
            found, counts = np.unique(values, return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            self.voxels[lowest + int(value)] += count

    def faults(self, case: str, card: Card, label_map: Mapping[int, int] | None) -> list[str]:
        """Return what is wrong with the values, a line each."""
        if self.broken:
            example = f"{self.broken} label voxels are not whole numbers (such as {self.example:.3g})"
            return [f"{case}: {example}; export labels unsmoothed"]
        known = {0, *card.labels.values()}
        missing = f"is not on card {card.name} (0-{card.num_classes})"
        if label_map is not None:
            known = {0} | {raw for raw, value in label_map.items() if value in known}
            missing += " by label_map"
        unknown = sorted(self.voxels.keys() - known)
        if not unknown:
            return []
        shown = ", ".join(map(str, unknown[:_SHOWN]))
        if len(unknown) > _SHOWN:
            shown += " ..."
        way_out = "set a label_map or choose another card"
        if label_map is None and set(unknown) <= (card.label_map or {}).keys():
            way_out = (
                "it is the data set's own number: give the datalist the card's label_map, as `ragsam prepare` does"
            )
        return [f"{case}: label {shown} {missing}; {way_out}"]

    def on_card(self, label_map: Mapping[int, int] | None) -> dict[int, int]:
        """Return {card value: number of voxels}, background included."""
        if label_map is None:
            return dict(self.voxels)
        found: Counter[int] = Counter()
        for value, count in self.voxels.items():
            found[label_map.get(value, 0)] += count
        return dict(found)
