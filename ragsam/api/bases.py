"""The base weights that are known by name: what they are, and whether they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ragsam.networks.bases import BASES, installed_file, places_of
from ragsam.networks.encoders import family_name
from ragsam.networks.sam import BACKBONES, build_sam


def known_bases() -> list[dict[str, Any]]:
    """Return what is known of every base, in the order of their names' table.

    Returns:
        Of each: name, family, backbone, patch_size, image_size (pixels), normalisation, parameters, licence, publisher,
        file, sha256 (None if it is not known), places (folders that are searched), path (of the file where it is
        installed, else None), install (what to do where it is not).
    """
    return [_description(name) for name in BASES]


def _description(name: str) -> dict[str, Any]:
    base = BASES[name]
    with torch.device("meta"):
        sam = build_sam(base.backbone, image_size=base.image_size, patch_size=base.patch_size)
    path = installed_file(name)
    return {
        "name": name,
        "family": BACKBONES[base.backbone].family,
        **{key: getattr(base, key) for key in ("backbone", "patch_size", "image_size", "normalisation")},
        "parameters": sum(parameter.numel() for parameter in sam.parameters()),
        **{key: getattr(base, key) for key in ("licence", "publisher", "file", "sha256")},
        "places": [str(place) for place in places_of(name)],
        "path": None if path is None else str(path),
        "install": base.install,
    }


def bases_page(bases: Sequence[dict[str, Any]]) -> str:
    """Return a description of bases for people."""
    return "\n\n".join(_paragraph(base) for base in bases)


def _paragraph(base: dict[str, Any]) -> str:
    where = ", ".join(base["places"]) or "the package that brings it"
    lines = [
        f"{base['name']}: {base['parameters'] / 1e6:.1f} M parameters, encoder {family_name(base['family'])}",
        f"  trained at {base['image_size']} pixels, stride {base['patch_size']}, slices normalised by "
        f"{base['normalisation']}; backbone {base['backbone']}",
        f"  {base['publisher']}; {base['licence']}",
    ]
    if base["path"] is not None:
        lines.append(f"  installed: {base['path']}")
    else:
        lines.append(f"  not installed: {base['install']}; {base['file']} is looked for in {where}")
    return "\n".join(lines)
