"""Slices on the fly: random access over (volume, slice, window), nothing copied to disk, memory bounded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, RandCropByPosNegLabeld, Randomizable
from nibabel.spatialimages import SpatialImage
from torch import Tensor
from torch.utils.data import Dataset, Sampler, WeightedRandomSampler, get_worker_info

from ragsam.data.annotation import annotated_classes
from ragsam.data.cards.load import Card
from ragsam.data.checks.check_case import require_sound
from ragsam.data.checks.empty_labels import lacking_organs, training_fault
from ragsam.data.datalist import Case
from ragsam.data.fixed_copies import FixedCopies
from ragsam.data.pseudo_labels import counted, learnt_classes
from ragsam.data.sampling import VolumeWindowSampler
from ragsam.data.served import as_cases
from ragsam.data.volume_cache import VolumeCache, kept_bytes
from ragsam.errors import InputError
from ragsam.transforms.layout import orientation_of, runs_down, sides_axis
from ragsam.transforms.slicing import (
    context_offsets,
    pad_to_window,
    slice_channels,
    slice_height,
    slice_number,
    slice_spacing_mm,
    slice_windows,
)

#: Returns the votes [K + 1, S, S] of items; the flags say of each whether it is the same whenever it comes.
Vote = Callable[[Sequence[Mapping[str, Any]], Sequence[bool]], list[Tensor]]


@dataclass(frozen=True, slots=True)
class SliceKey:
    """Where an item of a `SliceDataset` lies, case, slice and window, and which organs the slice has."""

    case: int
    slice: int
    window: tuple[slice, slice]
    organs: tuple[int, ...]


class SliceDataset(Dataset, Randomizable):
    """Slices of labelled volumes as a map-style dataset.

    An item is {"image": [C, S, S] float 0-1, "label": [1, S, S] int64, "annotated": [K + 1] bool, "patient": str,
    "case": str, "slice": int, "height": float 0-1}, S being the window size, C the slice with its neighbours and
    `annotated` the classes that the case annotates. Slices smaller than the window are padded evenly with zeros.
    Larger ones are cut: in training at random, two of three crops around a labelled pixel; otherwise on a fixed
    overlapping grid.

    Memory: volumes are kept up to `cache_gb` in every process, so a loader with n workers keeps at most n + 1 times
    that (the main process reads too, for a bank). Beside them stands one volume while it is prepared, up to about 70
    bytes a voxel. Each worker draws from its own seed.

    Args:
        data: cases with labels, or a server's items; each file is read once, and checked against the card.
        preprocessing: chain from files to oriented volumes, see `ragsam.transforms.preprocessing`.
        image_size: side S of an item, pixels.
        context_slices, context_distance_mm: the slice's neighbours as channels, see `context_offsets`.
        augmentation: random chain of one slice, for training; None gives every slice as it is.
        cache_gb: bound of the volume cache, GiB.
        pseudo_labelled: cases whose labels a network wrote, see `ragsam.data.pseudo_labels`; they are in no bank.

    Attributes:
        labelled: the cases of `data`.
        cases: these, and then the pseudo-labelled ones.
        lacking: the organs that none of `data` has a labelled voxel of.

    Raises:
        InputError: no case, a case without label, or a faulty file.
    """

    def __init__(
        self,
        data: Sequence[Case | Mapping[str, Any]],
        card: Card,
        preprocessing: Compose,
        *,
        image_size: int,
        context_slices: int = 1,
        context_distance_mm: float | None = None,
        augmentation: Compose | None = None,
        cache_gb: float = 2.0,
        pseudo_labelled: Sequence[Case] = (),
    ) -> None:
        served = any(not isinstance(item, Case) for item in data)
        data = as_cases(data)
        if not data:
            raise InputError("datalist: no case to take slices from; fill the section")
        self.labelled = data
        self.cases = [*data, *pseudo_labelled]
        for case in self.cases:
            if case.label is None:
                raise InputError(f"{case.case}: no label; slices for training and banks need one")
        self.card = card
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.context_slices = context_slices
        self.context_distance_mm = context_distance_mm
        self.augmentation = augmentation
        size = (image_size, image_size)
        self.crop = RandCropByPosNegLabeld(("image", "label"), "label", size, pos=2, neg=1, allow_smaller=True)
        self.volumes = VolumeCache(self._read, int(cache_gb * 2**30))
        self._offsets: dict[int, tuple[float, ...]] = {}
        self._orientations: dict[int, str | None] = {}
        self._sizes: dict[int, int] = {}
        self._worker_seed: int | None = None
        self._vote: Vote | None = None
        self._copies: FixedCopies | None = None
        # Of every volume, to know its slices without reading it again: rows and columns, and each slice's organs.
        self._shapes: dict[int, tuple[int, int]] = {}
        self._organs: dict[int, list[tuple[int, ...]]] = {}
        self._learnt: dict[int, Tensor] = {}  # of pseudo-labelled volumes: the classes learnt in each slice
        found = require_sound(self.cases, card, self._take)
        self.lacking = lacking_organs(card, found[: len(self.labelled)])
        # A server trains on the few labels that it has got so far, with weights that know the other organs.
        nothing = len(self.lacking) == card.num_classes
        self._unlearnable = training_fault(card, self.lacking) if nothing or not served else None
        self.annotated = [annotated_classes(case, card) for case in self.cases]
        self.keys = self._make_keys()

    def vote_by(self, vote: Vote) -> None:
        """Let neighbours vote on every slice from now on: its item has "vote" [K + 1, S, S], augmented with it.

        `vote` gives the votes of items before augmentation, given for each whether it is the same every time.
        """
        self._vote = vote

    def draw_copies(self, copies: FixedCopies) -> None:
        """Draw one of a few altered copies of every slice from now on, instead of a new one.

        An item has the number of its copy as "copy", and is the same to the bit whenever that comes.
        """
        self._copies = copies

    def _take(self, index: int, loaded: dict[str, SpatialImage]) -> None:
        """Take in a volume that was read for its check."""
        image, label = self._read(index, loaded)
        self._shapes[index] = tuple(label.shape[:2])
        self._sizes[index] = kept_bytes(label.numel())
        self._organs[index] = []
        if index >= len(self.labelled):
            learnt = learnt_classes(self.cases[index], self.card, label.shape[-1])  # in RAS
            self._learnt[index] = learnt.flip(0) if runs_down(self._orientations[index]) else learnt
        for number, plane in enumerate(label.unbind(-1)):
            organs = (1 + plane.flatten().int().bincount()[1:].nonzero()[:, 0]).tolist()
            if index in self._learnt:
                organs = [organ for organ in organs if self._learnt[index][number, organ]]
            self._organs[index].append(tuple(organs))
        self.volumes.put(index, image, label)

    def _read(self, index: int, loaded: dict[str, SpatialImage] | None = None) -> tuple[Tensor, Tensor]:
        """Return a case's image and label; `loaded` has its volumes where they were read before."""
        case = self.cases[index]
        item: dict[str, Any] = {"image": str(case.image), "label": str(case.label), "loaded": loaded}
        if case.label_map is not None:
            item["label_map"] = case.label_map
        if case.fill_nonfinite is not None:
            item["fill_nonfinite"] = case.fill_nonfinite
        item = self.preprocessing(item)
        self._offsets[index] = context_offsets(
            self.context_slices, distance_mm=self.context_distance_mm, spacing_mm=slice_spacing_mm(item["image"])
        )
        self._orientations[index] = orientation_of(item["image"])
        return item["image"].as_tensor()[0].float(), item["label"].as_tensor()[0].round()

    def _make_keys(self) -> list[SliceKey]:
        """Return an item's place for every slice and window."""
        keys = []
        for index, (rows, columns) in self._shapes.items():
            windows = [(slice(0, rows), slice(0, columns))]
            if self.augmentation is None:
                windows = slice_windows((rows, columns), self.image_size)
            for z, organs in enumerate(self._organs[index]):
                if index in self._learnt and not self._learnt[index][z, 1:].any():
                    continue  # nothing to learn
                keys += [SliceKey(index, z, window, organs) for window in windows]
        return keys

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

    def _seed_worker(self) -> None:
        """Seed a worker process by its own seed once, as MONAI's loader does and torch's does not."""
        worker = get_worker_info()
        if worker is not None and self._worker_seed != worker.seed:
            self._worker_seed = worker.seed
            self.set_random_state(worker.seed % 2**32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the items of a batch, as torch's loaders ask for them: their neighbours are found together."""
        self._seed_worker()
        items = []
        for index in indices:
            item = self._read_slice(self.keys[index])
            if self.augmentation is not None and self._copies is not None:
                item["copy"] = self._copies.draw(index, self.R)
            items.append(item)
        if self.augmentation is not None:
            items = self.augment(items)
        for item in items:
            item["image"] = pad_to_window(torch.as_tensor(item["image"]), self.image_size).clamp(0, 1)
            item["label"] = pad_to_window(torch.as_tensor(item["label"]), self.image_size).long()
            del item["sides_axis"]
        return items

    def _read_slice(self, key: SliceKey) -> dict[str, Any]:
        """Return a window of a slice as its volume has it, and where it lies."""
        image, label = self.volumes[key.case]
        rows, columns = key.window
        case = self.cases[key.case]
        orientation = self._orientations[key.case]
        count = label.shape[-1]
        number = slice_number(key.slice, count, down=runs_down(orientation))
        return {
            "image": slice_channels(image[rows, columns], key.slice, self._offsets[key.case]).float(),
            "label": label[rows, columns, key.slice][None].float(),
            "annotated": self._learnt[key.case][key.slice] if key.case in self._learnt else self.annotated[key.case],
            "patient": case.patient,
            "case": case.case,
            "slice": number,
            "height": slice_height(number, count),
            "sides_axis": sides_axis(orientation),  # for mirroring, and taken out afterwards
        }

    def augment(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Crop at random what is larger than the window, pad what is smaller, and run the augmentation."""
        tracking = get_track_meta()
        set_track_meta(False)
        try:
            seen = []
            uncropped = []
            for item in items:
                uncropped.append(max(item["label"].shape[1:]) <= self.image_size)
                if not uncropped[-1]:
                    item = self._seeded(self.crop, item)(item)[0]
                padded = {name: pad_to_window(item[name], self.image_size) for name in ("image", "label")}
                seen.append({**item, **padded})
            if self._vote is not None:
                for item, vote in zip(seen, self._vote(seen, uncropped), strict=True):
                    item["vote"] = vote
            return [self._seeded(self.augmentation, item)(item) for item in seen]
        finally:
            set_track_meta(tracking)

    def _seeded(self, transform: Randomizable, item: Mapping[str, Any]) -> Any:
        """Return a random transform, which draws what belongs to the item's copy where it is one."""
        if "copy" in item:
            transform.set_random_state(self._copies.seed_of(item["copy"]))
        return transform

    def plain(self) -> SliceDataset:
        """Return the labelled slices without augmentation, on the fixed grid of windows, sharing the volume cache."""
        other = copy.copy(self)
        other.augmentation = other._vote = other._copies = None
        other.keys = [key for key in other._make_keys() if key.case < len(self.labelled)]
        return other

    @property
    def pseudo_labels(self) -> dict[str, int] | None:
        """How much is learnt from pseudo-labels, see `counted`; None for nothing."""
        return counted(self.cases[len(self.labelled) :], list(self._learnt.values()))

    def sampler(self, samples: int, *, background_share: float = 0.15, class_balanced: bool = True) -> Sampler[int]:
        """Return a sampler that draws patients evenly, slices without any organ at a set share, and organs evenly.

        Where the volumes do not fit the cache together, an epoch's slices are ordered so that each is read once.

        Args:
            samples: slices an epoch.
            background_share: share of a patient's drawn slices that hold no labelled pixel, where it has both kinds.
            class_balanced: draw as many of the others for each of a patient's organs, however few slices it is in;
                False draws them all alike.

        Raises:
            InputError: no case has a labelled voxel of an organ, which could not be learned.
        """
        if self._unlearnable is not None:
            raise InputError(self._unlearnable)
        # What each slice is drawn for: its patient's organs that it shows, or 0, background.
        drawn_for: list[list[tuple[str, int]]] = []
        for key in self.keys:
            organs = key.organs or (0,)
            if key.organs and not class_balanced:
                organs = (1,)
            patient = self.cases[key.case].patient
            drawn_for.append([(patient, organ) for organ in organs])
        slices = Counter(chain.from_iterable(drawn_for))
        organs_of = Counter(patient for patient, organ in slices if organ > 0)
        shares = {}
        for (patient, organ), count in slices.items():
            share = background_share
            if organ > 0:
                share = (1.0 - background_share if slices[patient, 0] else 1.0) / organs_of[patient]
            elif organs_of[patient] == 0:
                share = 1.0
            shares[patient, organ] = share / count
        weights = [sum(map(shares.get, kinds)) for kinds in drawn_for]
        drawn = WeightedRandomSampler(weights, samples)
        if sum(self._sizes.values()) <= self.volumes.limit_bytes:
            return drawn
        volumes = [key.case for key in self.keys]
        return VolumeWindowSampler(drawn, volumes, self._sizes, self.volumes.limit_bytes)
