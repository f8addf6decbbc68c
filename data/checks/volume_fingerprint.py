"""Fingerprints of volumes: small enough to keep for a whole data set, and near-identical volumes have like ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ragsam.data.checks.slab_reader import Slab

BINS = 8
_LARGEST = 1e30  # what float32 can hold and sum


@dataclass(frozen=True)
class Fingerprint:
    """What a volume is recognised by.

    Attributes:
        digest: hash of shape, voxel type and voxels as the file has them.
        profiles: for the right-left, front-back and head-foot axis: [n, 64] float16, the n planes across that axis,
            each averaged to 8 x 8; over the whole volume mean 0 and standard deviation 1.
    """

    digest: str
    profiles: tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16]]


def pooling(length: int, bins: int = BINS) -> NDArray[np.float32]:
    """Return the matrix [bins, length] that averages an axis into equal parts; rows sum to 1."""
    edges = np.linspace(0, length, bins + 1)
    index = np.arange(length)
    shared = np.minimum(edges[1:, None], index + 1) - np.maximum(edges[:-1, None], index)
    weights = np.clip(shared, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


class DigestReader:
    """Makes a volume's digest while its slabs are read."""

    def begin(self, image: SpatialImage) -> None:
        """Take shape and voxel type from the header."""
        self._hash = hashlib.blake2b(repr((image.shape, image.get_data_dtype().str)).encode(), digest_size=16)

    def add(self, slab: Slab) -> None:
        """Add a slab's voxels."""
        self._hash.update(np.ascontiguousarray(slab.voxels.T))  # [slices, rows, X]

    def digest(self) -> str:
        """Return the digest of all slabs together."""
        return self._hash.hexdigest()


class FingerprintReader(DigestReader):
    """Makes a volume's fingerprint while its slabs are read."""

    def begin(self, image: SpatialImage) -> None:
        """Take shape and orientation from the header."""
        super().begin(image)
        x, y, z = image.shape
        self._orientation = nibabel.io_orientation(image.affine)
        self._pooling = list(map(pooling, image.shape))
        self._planes = [
            np.zeros((x, BINS, BINS), np.float32),
            np.zeros((BINS, y, BINS), np.float32),
            np.zeros((BINS, BINS, z), np.float32),
        ]

    def add(self, slab: Slab) -> None:
        """Add a slab's voxels to the planes of every axis."""
        super().add(slab)
        voxels = np.ascontiguousarray(slab.voxels.T)  # [slices, rows, X]
        if voxels.dtype.itemsize > 4:
            voxels = np.clip(voxels, -_LARGEST, _LARGEST)
        voxels = voxels.astype(np.float32, copy=False)
        across_x, across_y, across_z = self._pooling
        rows = across_y[:, slab.rows]
        slices = across_z[:, slab.slices]
        thin = voxels @ across_x.T  # [slices, rows, 8]
        self._planes[0] += np.einsum("dz,zcx->xcd", slices, rows @ voxels)
        self._planes[1][:, slab.rows] += np.einsum("dz,zyb->byd", slices, thin)
        self._planes[2][:, :, slab.slices] += (rows @ thin).transpose(2, 1, 0)

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of all slabs together, turned to RAS."""
        centre = self._planes[2].mean(dtype=np.float64)
        scale = self._planes[2].std(dtype=np.float64) or 1.0
        profiles: dict[int, NDArray[np.float16]] = {}
        for axis, planes in enumerate(self._planes):
            turned = nibabel.apply_orientation((planes - centre) / scale, self._orientation)
            home = int(self._orientation[axis, 0])
            profiles[home] = np.moveaxis(turned, home, 0).reshape(-1, BINS * BINS).astype(np.float16)
        return Fingerprint(self.digest(), (profiles[0], profiles[1], profiles[2]))
