"""Label values of a file turned into those of the card."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import MapLabelValue, MapTransform


class MapLabelsd(MapTransform):
    """Turns a label's values by the item's `label_map` {value in the file: value on the card}, and drops the map.

    An item without a map, or with None, keeps its values; so does background.
    """

    def __init__(self, keys: str = "label", map_key: str = "label_map") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.map_key = map_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the label in the card's values."""
        items = dict(data)
        values = items.pop(self.map_key, None)
        if not values:
            return items
        convert = MapLabelValue(list(values), list(values.values()))
        for key in self.key_iterator(items):
            items[key] = convert(items[key].round())  # files may hold 2.9999 for 3
        return items
