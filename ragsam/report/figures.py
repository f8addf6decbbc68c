"""Pictures of slices: an image with its labels, and what differs between two label maps. Pure functions, PNG out."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.report.views import as_picture

Colour = tuple[int, int, int]

# Okabe and Ito's colours, which colour-blind readers distinguish, on grey.
DIFFERENCE_COLOURS: dict[str, Colour] = {
    "missed": (230, 159, 0),
    "added": (86, 180, 233),
    "confused": (204, 121, 167),
}
FILL, DIFFERENCE_FILL = 0.38, 0.6
MIN_PIXELS, MAX_PIXELS = 320, 448


def slice_png(
    image: NDArray | None,
    labels: NDArray[np.integer] | None,
    *,
    spacing_mm: tuple[float, float],
    window: tuple[float, float],
    colours: Mapping[int, Colour],
    pixels: int | None = None,
) -> bytes:
    """Draw one axial slice with its labels filled lightly and outlined.

    Args:
        image: [X, Y] in canonical orientation; None draws black.
        labels: [X, Y]; None draws the image alone. A value without a colour is not drawn.
        spacing_mm: of X and Y; the picture keeps the true proportions.
        window: values drawn black and white.
        colours: {label value: RGB, 0-255}.
        pixels: the longer side of the picture; None takes the slice's own size within 320-448.

    Returns:
        a PNG, anterior up, the patient's left on the right.
    """
    if image is None:
        image = np.full(labels.shape, window[0])
    size = _size(image.shape, spacing_mm, pixels)
    picture = _grey(image, window, size)
    if labels is not None:
        enlarged = _enlarge(labels, size)
        edge = _edges(enlarged)
        for value in np.intersect1d(enlarged, list(colours)).tolist():
            picture = _paint(picture, enlarged == value, edge, colours[value])
    return _png(picture)


def difference_png(
    image: NDArray | None,
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    *,
    spacing_mm: tuple[float, float],
    window: tuple[float, float],
    pixels: int | None = None,
) -> bytes:
    """Draw what is missed, added and given to another organ, in `DIFFERENCE_COLOURS`; arguments as in `slice_png`."""
    if image is None:
        image = np.full(reference.shape, window[0])
    size = _size(reference.shape, spacing_mm, pixels)
    picture = _grey(image, window, size)
    first = _enlarge(reference, size)
    second = _enlarge(prediction, size)
    missed = (first != 0) & (second == 0)
    added = (first == 0) & (second != 0)
    confused = (first != second) & (first != 0) & (second != 0)
    edge = _edges(missed + 2 * added + 3 * confused)
    for mask, colour in zip((missed, added, confused), DIFFERENCE_COLOURS.values(), strict=True):
        picture = _paint(picture, mask, edge, colour, fill=DIFFERENCE_FILL)
    return _png(picture)


def picture_png(picture: NDArray[np.uint8], *, extent: tuple[float, float], pixels: int) -> bytes:
    """Return a picture [rows, columns, 3] as a PNG of that width to height, the longer side in pixels."""
    from PIL import Image

    resized = Image.fromarray(picture).resize(_scaled(extent, pixels), Image.Resampling.BICUBIC)
    return _png(np.asarray(resized))


def organ_colours(card: Card) -> dict[int, Colour]:
    """Return {label value: RGB, 0-255} of a card's organs."""
    return {organ.value: organ.colour for organ in card.organs}


def _size(shape: tuple[int, ...], spacing_mm: tuple[float, float], pixels: int | None) -> tuple[int, int]:
    """Return a slice's width and height in pixels."""
    if pixels is None:
        pixels = int(np.clip(max(shape), MIN_PIXELS, MAX_PIXELS))
    return _scaled((shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]), pixels)


def _scaled(extent: tuple[float, float], pixels: int) -> tuple[int, int]:
    """Return width and height in pixels, of which the longer is given."""
    width, height = extent
    longer = max(extent)
    return max(1, round(pixels * width / longer)), max(1, round(pixels * height / longer))


def _grey(image: NDArray, window: tuple[float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the windowed image as RGB, [rows, columns, 3]."""
    from PIL import Image

    low, high = window
    scaled = (as_picture(image).astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    bytes_ = np.round(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
    resized = np.asarray(Image.fromarray(bytes_).resize(size, Image.Resampling.BICUBIC))
    return np.repeat(resized[..., None], 3, axis=2)


def _enlarge(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Resize labels to the nearest voxel, [rows, columns]: an outline shows voxels as they are."""
    picture = as_picture(labels)
    width, height = size
    rows = ((np.arange(height) + 0.5) * picture.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * picture.shape[1] / width).astype(int)
    return picture[np.ix_(rows, columns)]


def _edges(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the pixels with another label among the eight around them."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(labels, 1, mode="edge"), (3, 3))
    return (around != labels[..., None, None]).any(axis=(2, 3))


def _paint(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], edge: NDArray[np.bool_], colour: Colour, *, fill: float = FILL
) -> NDArray[np.uint8]:
    """Lay a colour over a mask, opaque on the edge."""
    weight = np.where(mask, np.where(edge, 1.0, fill), 0.0)[..., None]
    return np.round(picture * (1 - weight) + np.asarray(colour) * weight).astype(np.uint8)


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
