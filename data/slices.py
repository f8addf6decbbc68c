"""Slices on the fly: random access over (volume, slice, window), nothing copied to disk, memory bounded."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, RandCropByPosNegLabeld, Randomizable
from torch import Tensor
from torch.utils.data import Dataset, WeightedRandomSampler

from ragsam.data.cards import Card
from ragsam.data.datalist import Case
from ragsam.data.validation import require_sound
from ragsam.errors import InputError
from ragsam.transforms.slicing import pad_to_window, slice_channels, slice_height, slice_windows


class VolumeCache:
    """Preprocessed volumes, the least recently used dropped first.

    Args:
        load: gives (image [H, W, D] float, label [H, W, D] integer) of a case index.
        limit_bytes: most memory that the kept volumes take; one volume is always held, however large.
    """

    def __init__(self, load: Callable[[int], tuple[Tensor, Tensor]], limit_bytes: int) -> None:
        self._load = load
        self._limit = limit_bytes
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        self.bytes = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (image float16, label uint8), both [H, W, D] with contiguous slices."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        image, label = self._load(index)
        pair = (_slices_first(image).half(), _slices_first(label).to(torch.uint8))
        size = sum(part.nbytes for part in pair)
        while self._kept and self.bytes + size > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= sum(part.nbytes for part in dropped)
        self.bytes += size
        self._kept[index] = (pair[0].permute(1, 2, 0), pair[1].permute(1, 2, 0))
        return self._kept[index]


def _slices_first(volume: Tensor) -> Tensor:
    return volume.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class SliceKey:
    """Where an item of a `SliceDataset` lies: case, slice and window."""

    case: int
    slice: int
    window: tuple[slice, slice]
    foreground: bool


class SliceDataset(Dataset, Randomizable):
    """Slices of labelled volumes as a map-style dataset.

    An item is {"image": [3, S, S] float 0-1, "label": [1, S, S] int64, "patient": str, "case": str, "slice": int,
    "height": float 0-1}, S being the window size. Slices smaller than the window are padded evenly with zeros.
    Larger ones are cut: in training at random, two of three crops around a labelled pixel; otherwise on a fixed
    overlapping grid.

    Args:
        data: cases with labels; every file is checked against the card before anything else.
        card: the data set's card.
        preprocessing: chain from files to oriented volumes, see `ragsam.transforms.preprocessing`.
        image_size: side S of an item, pixels.
        slice_context: 2.5D (the slices below and above as channels), or the slice repeated.
        augmentation: random chain of one slice, for training; None gives every slice as it is.
        cache_gb: bound of the volume cache, GiB.

    Raises:
        InputError: no case, a case without label, or a faulty file.
    """

    def __init__(
        self,
        data: Sequence[Case],
        card: Card,
        preprocessing: Compose,
        *,
        image_size: int,
        slice_context: bool = True,
        augmentation: Compose | None = None,
        cache_gb: float = 2.0,
    ) -> None:
        if not data:
            raise InputError("datalist: no case to take slices from; fill the section")
        for case in data:
            if case.label is None:
                raise InputError(f"{case.case}: no label; slices for training and banks need one")
        require_sound(data, card)
        self.cases = list(data)
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.slice_context = slice_context
        self.augmentation = augmentation
        size = (image_size, image_size)
        self.crop = RandCropByPosNegLabeld(("image", "label"), "label", size, pos=2, neg=1, allow_smaller=True)
        self.volumes = VolumeCache(self._read, int(cache_gb * 2**30))
        self.keys = [key for index in range(len(self.cases)) for key in self._case_keys(index)]

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        case = self.cases[index]
        item = self.preprocessing({"image": str(case.image), "label": str(case.label)})
        return item["image"].as_tensor()[0].float(), item["label"].as_tensor()[0].round()

    def _case_keys(self, index: int) -> list[SliceKey]:
        label = self.volumes[index][1]
        rows, columns, count = label.shape
        if self.augmentation is not None:
            windows = [(slice(0, rows), slice(0, columns))]
        else:
            windows = slice_windows((rows, columns), self.image_size)
        present = (label > 0).flatten(0, 1).any(0).tolist()
        return [SliceKey(index, z, window, present[z]) for z in range(count) for window in windows]

    def __len__(self) -> int:
        return len(self.keys)

    def randomize(self, data: Any = None) -> None:
        """Nothing is drawn here: the random transforms draw for themselves."""

    def set_random_state(self, seed: int | None = None, state: Any = None) -> SliceDataset:
        """Seed the random transforms; without augmentation none is used, and `plain` shares them with its origin."""
        super().set_random_state(seed, state)
        if self.augmentation is not None:
            self.crop.set_random_state(seed, state)
            self.augmentation.set_random_state(seed, state)
        return self

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[index]
        image, label = self.volumes[key.case]
        rows, columns = key.window
        item: Mapping[str, Tensor] = {
            "image": slice_channels(image[rows, columns], key.slice, self.slice_context).float(),
            "label": label[rows, columns, key.slice][None].float(),
        }
        if self.augmentation is not None:
            if max(label.shape[:2]) > self.image_size:
                item = self.crop(dict(item))[0]
            item = {name: pad_to_window(tensor, self.image_size) for name, tensor in item.items()}
            tracking = get_track_meta()
            set_track_meta(False)
            try:
                item = self.augmentation(dict(item))
            finally:
                set_track_meta(tracking)
        case = self.cases[key.case]
        return {
            "image": pad_to_window(torch.as_tensor(item["image"]), self.image_size).clamp(0, 1),
            "label": pad_to_window(torch.as_tensor(item["label"]), self.image_size).long(),
            "patient": case.patient,
            "case": case.case,
            "slice": key.slice,
            "height": slice_height(key.slice, label.shape[-1]),
        }

    def plain(self) -> SliceDataset:
        """Return the same slices without augmentation, on the fixed grid of windows, sharing the volume cache."""
        other = copy.copy(self)
        other.augmentation = None
        other.keys = [key for index in range(len(self.cases)) for key in other._case_keys(index)]
        return other

    def sampler(self, samples: int, *, background_share: float = 0.15) -> WeightedRandomSampler:
        """Return a sampler that draws slices without any organ at a set share, and patients evenly.

        Args:
            samples: slices an epoch.
            background_share: share of a patient's drawn slices that hold no labelled pixel, where it has both kinds.
        """
        kinds = [(self.cases[key.case].patient, key.foreground) for key in self.keys]
        totals, share = Counter(kinds), {True: 1 - background_share, False: background_share}
        present: dict[str, float] = {}
        for patient, foreground in totals:
            present[patient] = present.get(patient, 0.0) + share[foreground]
        weights = [share[kind[1]] / (totals[kind] * (present[kind[0]] or 1.0)) for kind in kinds]
        return WeightedRandomSampler(weights, samples)
