"""Fingerprints: copies have like ones, whatever was done to them on the way, and other patients have not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ragsam.data.checks import slab_reader as slabs
from ragsam.data.checks.check_case import scan_volume
from ragsam.data.checks.duplicates import THRESHOLD, find_duplicates, similarity
from ragsam.data.checks.slab_reader import Slab
from ragsam.data.checks.volume_fingerprint import FingerprintReader, pooling

HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "hippocampus" / "imagesTr"
needs_hippocampus = pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the hippocampus set is not in ../shared/data")


def body(seed, shape=(30, 26, 40)):
    """Return smooth noise around a bright middle, alike in every seed as anatomy is."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return 100 * np.exp(-2 * (grid**2).sum(0)) + 400 * gaussian_filter(rng.normal(size=shape), 3)


def fingerprint(array, affine=None):
    reader = FingerprintReader()
    reader.begin(nib.Nifti1Image(array, np.eye(4) if affine is None else affine))
    for z in range(0, array.shape[2], 7):
        part = slice(z, min(z + 7, array.shape[2]))
        reader.add(Slab(array[:, :, part], slice(0, array.shape[1]), part))
    return reader.fingerprint()


ORIGINAL = body(1)


def noisy(array):
    return array + np.random.default_rng(5).normal(0, 0.1 * array.std(), array.shape)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: 3.7 * a + 11,
        lambda a: (4 * a).astype(np.int16),
        noisy,
        lambda a: a[:, :, 4:],
        lambda a: a[:, :, 2:-2],
        lambda a: a[:-3],
        lambda a: a[:, 2:],
        lambda a: noisy(0.5 * a[:, :, 3:]),
    ],
    ids=["scaled", "integers", "noise", "cut below", "cut both ends", "cut side", "cut back", "all together"],
)
def test_a_copy_is_found(change):
    prints = [fingerprint(ORIGINAL), fingerprint(body(2)), fingerprint(change(ORIGINAL))]
    found = find_duplicates(prints)
    assert [(pair.first, pair.second) for pair in found] == [(0, 2)]
    assert THRESHOLD <= found[0].similarity <= 1


def test_others_are_not_found():
    prints = [fingerprint(body(seed)) for seed in range(6)]
    assert find_duplicates(prints) == []
    assert find_duplicates([None, prints[0], None]) == []
    assert find_duplicates([]) == []


def test_a_copy_of_many_planes_is_found_whatever_the_cut():
    """Planes are averaged by threes first, and five that are cut off leave them out of step."""
    long = body(3, (16, 14, 200))
    prints = [fingerprint(long), fingerprint(body(4, (16, 14, 200))), fingerprint(noisy(long[:, :, 5:]))]
    assert [(pair.first, pair.second) for pair in find_duplicates(prints)] == [(0, 2)]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_pairs_join_all_that_are_alike_and_are_no_more_than_these(monkeypatch, block):
    """0, 2, 3, 5 and 6 are alike, 3 and 6 to the voxel; 1 and 4 are."""
    monkeypatch.setattr("ragsam.data.checks.duplicates._BLOCK", block)
    arrays = [ORIGINAL, body(2), 2 * ORIGINAL, noisy(ORIGINAL), noisy(body(2)), ORIGINAL[:, :, 3:], noisy(ORIGINAL)]
    found = find_duplicates(list(map(fingerprint, arrays)))
    assert [(pair.first, pair.second) for pair in found] == [(0, 2), (0, 3), (0, 5), (1, 4), (3, 6)]
    assert [pair.similarity == 1 for pair in found] == [False, False, False, False, True]


ALIKE = fingerprint(ORIGINAL)


def test_many_alike_volumes_take_little():
    """A list of all pairs would have 50 million."""
    one = fingerprint(np.zeros((5, 6, 1), np.uint8))
    assert len(find_duplicates([one] * 10_000)) == 9_999
    near = [replace(ALIKE, digest=str(number)) for number in range(500)]
    assert [pair.first for pair in find_duplicates(near)] == [0] * 499


@settings(max_examples=20, deadline=None)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_orientation_changes_nothing(order, flips):
    """The same voxels in the world, the file's axes swapped and run the other way."""
    ornt = np.array([[new, -1 if flip else 1] for new, flip in zip(order, flips, strict=True)])
    image = nib.Nifti1Image(ORIGINAL, np.eye(4)).as_reoriented(ornt)
    turned = fingerprint(np.asarray(image.dataobj), image.affine)
    assert similarity(fingerprint(ORIGINAL), turned) == pytest.approx(1, abs=1e-4)


def test_the_same_voxels_are_exactly_alike_even_where_nothing_varies():
    flat = np.zeros((5, 6, 1), np.uint8)
    assert similarity(fingerprint(flat), fingerprint(flat.copy())) == 1
    assert similarity(fingerprint(flat), fingerprint(flat + 1)) == 0  # one slice says too little
    assert find_duplicates([fingerprint(flat), fingerprint(flat.copy())])[0].similarity == 1


@given(st.integers(1, 40), st.integers(1, 12))
def test_pooling_is_a_mean(length, bins):
    """Rows sum to 1, and every part of the axis weighs the same in the whole."""
    weights = pooling(length, bins)
    assert weights.shape == (bins, length)
    assert np.allclose(weights.sum(1), 1)
    assert np.allclose(weights.sum(0), bins / length, atol=1e-5)


def test_pieces_of_slices_make_the_same_fingerprint(tmp_path, monkeypatch):
    """A volume whose slices are too large for a slab comes in rows."""
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(ORIGINAL.astype(np.float32), np.eye(4)), path)
    whole, pieces = FingerprintReader(), FingerprintReader()
    scan_volume(path, "a", whole)
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 100)
    scan_volume(path, "a", pieces)
    for one, other in zip(whole.fingerprint().profiles, pieces.fingerprint().profiles, strict=True):
        assert np.allclose(one, other, atol=2e-3)


@needs_hippocampus
def test_real_volumes_keep_a_margin():
    """Of 20 volumes no two are close to the threshold, and a copy of each, cut and noisy, is well above it."""
    arrays = [np.asarray(nib.load(path).dataobj, np.float64) for path in sorted(HIPPOCAMPUS.glob("*.nii.gz"))[::10]]
    prints = [fingerprint(array) for array in arrays]
    others = [similarity(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    copies = [similarity(one, fingerprint(noisy(array[:, :, 3:]))) for one, array in zip(prints, arrays, strict=True)]
    assert max(others) < 0.95
    assert min(copies) > 0.999
