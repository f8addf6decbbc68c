"""The report's 3D view: chosen cases as small volumes in the page, drawn by NiiVue, with still pictures beside them."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from itertools import filterfalse
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.report import viewer_volumes as small
from ragsam.report.case_volumes import read_case
from ragsam.report.figures import DIFFERENCE_COLOURS, organ_colours
from ragsam.report.formatting import readable
from ragsam.report.viewer_code import load_viewer_code

DEFAULT_CASES = 3
LIMITS = (
    f"Volumes are cropped to what is labelled and {small.MARGIN_MM:g} mm around it, and made coarser where they would "
    f"have more than {small.SIDE} voxels along an axis or {small.VOXELS / 1e6:g} million in all; the image is in "
    f"{small.GREYS} grey levels. The figures of this report are of the full volumes."
)
_DIFFERENCES = {
    1: ("in the reference only", DIFFERENCE_COLOURS["missed"]),
    2: ("in the prediction only", DIFFERENCE_COLOURS["added"]),
    3: ("another organ", DIFFERENCE_COLOURS["confused"]),
}


def viewer_choice(words: Sequence[str] | None, cases: Sequence[str]) -> int | tuple[str, ...]:
    """Return what `--viewer` with these words asks for: so many of the worst cases, or the named ones.

    Words are None if the option was not given, and empty where it was given alone. One whole number that is no
    case's name is a count.

    Raises:
        InputError: where a case is not among the cases.
    """
    if words is None:
        return 0
    if not words:
        return DEFAULT_CASES
    unknown = list(filterfalse(cases.__contains__, words))
    if not unknown:
        return tuple(dict.fromkeys(words))
    if len(words) == 1 and words[0].isdecimal():
        return int(words[0])
    raise InputError(f"--viewer {unknown[0]}: no such case among the {len(cases)}; name cases, or a count of the worst")


def viewer_content(
    choice: int | Sequence[str], ranked: Sequence[str], pairs: Mapping[str, CasePair], card: Card
) -> dict[str, Any] | None:
    """Return what viewer.html shows, or None if no case is asked for; one case's volumes are held at a time.

    The choice is that of `viewer_choice`, the ranked cases come the worst first; errors are `load_viewer_code`'s.
    """
    if isinstance(choice, int):
        choice = ranked[:choice]
    if not choice:
        return None
    code = load_viewer_code()
    labels = {organ.value: (readable(organ.name), organ.colour) for organ in card.organs}
    settings = {"greys": small.GREYS, "labels": _colour_table(labels), "differences": _colour_table(_DIFFERENCES)}
    return {
        "cases": [_case(pairs[name], card) for name in choice],
        "code": code,
        "packed": _base64(gzip.compress(code.module.encode("utf-8"), 9, mtime=0)),
        "limits": LIMITS,
        "settings": settings,
    }


def _case(pair: CasePair, card: Card) -> dict[str, Any]:
    """Return one case's name, notes, stills, and volumes in base64."""
    seen = read_case(pair, card)
    content: dict[str, Any] = {"case": pair.case, "notes": seen.notes, "volumes": {}, "stills": {}}
    if seen.expected is None or seen.found is None:
        return content
    box = small.labelled_box([seen.expected, seen.found], seen.spacing_mm)
    reference = seen.expected[box]
    shape = small.fitting_shape(reference.shape, seen.spacing_mm)
    extent_mm = np.multiply(seen.spacing_mm, reference.shape)
    spacing_mm = tuple(np.divide(extent_mm, shape).tolist())
    labels = {"reference": small.reduced_labels(reference, shape)}
    if seen.predicted:
        labels["prediction"] = small.reduced_labels(seen.found[box], shape)
    kind = np.min_scalar_type(card.num_classes)
    for name, volume in labels.items():
        content["volumes"][name] = _base64(small.nifti_gz(volume.astype(kind), spacing_mm))
        content["stills"][name] = small.still_png(volume, spacing_mm, organ_colours(card))
    if seen.image is not None:
        image = small.reduced_image(seen.image.array[box], seen.window, shape)
        content["volumes"]["image"] = _base64(small.nifti_gz(image, spacing_mm))
    content["size"] = _size(seen.expected.shape, reference.shape, shape, spacing_mm)
    content["start"] = small.start_place(labels["reference"], labels.get("prediction", labels["reference"]))
    return content


def _size(
    whole: tuple[int, ...], cropped: tuple[int, ...], shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> str:
    """Return in words what of a volume is shown, and how finely."""
    edges = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    words = f"{_by(shape)} voxels of {edges} mm"
    if cropped != whole:
        words += f", cropped from {_by(whole)}"
    if shape != cropped:
        words += f", a voxel for {math.prod(cropped) / math.prod(shape):.2f} of its own"
    return words


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _colour_table(entries: Mapping[int, tuple[str, Sequence[int]]]) -> dict[str, list[Any]]:
    """Return a colour map of labels as NiiVue takes it; background is clear."""
    names, colours = zip(("", (0, 0, 0)), *entries.values(), strict=True)
    red, green, blue = map(list, zip(*colours, strict=True))
    return {
        "R": red,
        "G": green,
        "B": blue,
        "A": [0] + [255] * len(entries),
        "I": [0, *entries],
        "labels": list(names),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
