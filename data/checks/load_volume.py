"""A volume checked while its voxels are loaded, so that its file is read once."""

from __future__ import annotations

from pathlib import Path

from nibabel.spatialimages import SpatialImage

from ragsam.data.checks.check_case import scan_opened, scan_volume, tell


def load_volume_checked(path: str | Path, case: str, *, fill_nonfinite: float | None = None) -> SpatialImage:
    """Load a volume as `read_volume_checked` opens one, its voxels in memory; its file is read once.

    NaN and infinite voxels come out as `fill_nonfinite` where that is given.
    """
    image, told = scan_volume(path, case, fill_nonfinite=fill_nonfinite, keep=True)
    tell(told)
    return image


def check_loaded(image: SpatialImage, case: str) -> None:
    """Check a volume in memory as `read_volume_checked` does one from a file."""
    tell(scan_opened(image, Path(), case))
