"""The report's 3D view: chosen cases as small volumes in the page, drawn by NiiVue, with still pictures beside them."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.report.case_volumes import read_case
from ragsam.report.figures import DIFFERENCE_COLOURS
from ragsam.report.formatting import readable
from ragsam.report.viewer_code import load_viewer_code
from ragsam.report.viewer_volumes import (
    GREYS,
    MARGIN_MM,
    SIDE,
    VOXELS,
    fitting_shape,
    labelled_box,
    nifti_gz,
    reduced_image,
    reduced_labels,
    start_place,
    still_png,
)

DEFAULT_CASES = 3
LIMITS = (
    f"Volumes are cropped to what is labelled and {MARGIN_MM:g} mm around it, and made coarser where they would have "
    f"more than {SIDE} voxels along an axis or {VOXELS / 1e6:g} million in all; the image is in {GREYS} grey levels. "
    "The figures of this report are of the full volumes."
)
_DIFFERENCES = (("missed", "in the reference only"), ("added", "in the prediction only"), ("confused", "another organ"))


def viewer_choice(words: Sequence[str] | None, cases: Sequence[str]) -> int | tuple[str, ...]:
    """Return what `--viewer` with these words asks for: so many of the worst cases, or the named ones.

    Args:
        words: None where the option was not given, empty where it was given alone. One whole number that is no case's
            name is a count.
        cases: the names there are.

    Raises:
        InputError: where a case is not among them.
    """
    if words is None:
        return 0
    if not words:
        return DEFAULT_CASES
    if len(words) == 1 and words[0] not in cases and words[0].isdecimal():
        return int(words[0])
    for word in words:
        if word not in cases:
            raise InputError(
                f"--viewer {word}: no such case among the {len(cases)}; name cases, or a count of the worst"
            )
    return tuple(dict.fromkeys(words))


def viewer_content(
    choice: int | Sequence[str], ranked: Sequence[str], pairs: Mapping[str, CasePair], card: Card
) -> dict[str, Any] | None:
    """Return what viewer.html shows, or None where no case is asked for; one case's volumes are held at a time.

    Args:
        choice: of `viewer_choice`.
        ranked: the scored cases, the worst first.
        pairs: {case: its files}.
        card: organs, colours and window.

    Raises:
        InputError: of `load_viewer_code`.
    """
    names = list(ranked[:choice]) if isinstance(choice, int) else list(choice)
    if not names:
        return None
    code = load_viewer_code()
    return {
        "cases": [_case(pairs[name], card) for name in names],
        "code": code,
        "packed": _base64(gzip.compress(code.module.encode("utf-8"), 9, mtime=0)),
        "limits": LIMITS,
        "settings": {
            "greys": GREYS,
            "labels": _colour_table({o.value: (readable(o.name), o.colour) for o in card.organs}),
            "differences": _colour_table(
                {value: (words, DIFFERENCE_COLOURS[kind]) for value, (kind, words) in enumerate(_DIFFERENCES, start=1)}
            ),
        },
    }


def _case(pair: CasePair, card: Card) -> dict[str, Any]:
    """Return one case's name, notes, stills, and volumes in base64."""
    sight = read_case(pair, card)
    content: dict[str, Any] = {"case": pair.case, "notes": sight.notes, "volumes": {}, "stills": {}}
    if sight.expected is None or sight.found is None:
        return content
    box = labelled_box([sight.expected, sight.found], sight.spacing_mm)
    whole, cropped = sight.expected.shape, sight.expected[box].shape
    shape = fitting_shape(cropped, sight.spacing_mm)
    spacing = tuple(mm * old / new for mm, old, new in zip(sight.spacing_mm, cropped, shape, strict=True))
    labels = {"reference": reduced_labels(sight.expected[box], shape)}
    if sight.predicted:
        labels["prediction"] = reduced_labels(sight.found[box], shape)
    small = np.uint8 if len(card.organs) < 256 else np.uint16
    volumes = {name: nifti_gz(volume.astype(small), spacing) for name, volume in labels.items()}
    if sight.image is not None:
        volumes["image"] = nifti_gz(reduced_image(sight.image.array[box], sight.window, shape), spacing)
    colours = {organ.value: organ.colour for organ in card.organs}
    return content | {
        "size": _size(whole, cropped, shape, spacing),
        "start": start_place(labels["reference"], labels.get("prediction", labels["reference"])),
        "volumes": {name: _base64(data) for name, data in volumes.items()},
        "stills": {name: still_png(volume, spacing, colours) for name, volume in labels.items()},
    }


def _size(
    whole: tuple[int, ...], cropped: tuple[int, ...], shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> str:
    """Return in words what of a volume is shown, and how finely."""
    edges = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    part = "" if cropped == whole else f", cropped from {_by(whole)}"
    coarser = "" if shape == cropped else f", a voxel for {math.prod(cropped) / math.prod(shape):.2f} of its own"
    return f"{_by(shape)} voxels of {edges} mm{part}{coarser}"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _colour_table(entries: Mapping[int, tuple[str, Sequence[int]]]) -> dict[str, list[Any]]:
    """Return a colour map of labels as NiiVue takes it; background is clear."""
    channels = zip(*(colour for _, colour in entries.values()), strict=True)
    red, green, blue = ([0, *channel] for channel in channels)
    names = ["", *(name for name, _ in entries.values())]
    return {"R": red, "G": green, "B": blue, "A": [0] + [255] * len(entries), "I": [0, *entries], "labels": names}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
