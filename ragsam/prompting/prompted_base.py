"""Base weights that answer prompts on any volume: no run, no training."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, Orientationd, Transform
from torch import Tensor

from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case
from ragsam.data.volumes import VolumeDataset
from ragsam.errors import InputError
from ragsam.io.read_volume import LoadVolumed
from ragsam.networks.checkpoints import load_metadata
from ragsam.prompting.prompted_run import PromptedObjects
from ragsam.prompting.prompted_vote import load_answering
from ragsam.prompting.resized_volume import ResizedVolume
from ragsam.runs.weights import require_layout
from ragsam.transforms.intensity import scale_intensity
from ragsam.transforms.layout import orientation_step
from ragsam.transforms.nonfinite import FillNonfinited

logger = logging.getLogger(__name__)

#: Slices as a radiologist sees them: rows run to the patient's back, columns to the left.
_RADIOLOGICAL = "PLS"
#: Hounsfield units of soft tissue, as LiteMedSAM was trained on CT.
SOFT_TISSUE = (-160.0, 240.0)
#: Only CT has intensities below this one: air has -1000 Hounsfield units.
_ONLY_CT = -200.0
#: Where no card says what organs there are.
_NO_CARD = Card(
    name="objects", title="objects", modality="unknown", organs=(), window=None, orientation="RAS", left_right=(),
    licence="", source="", citation="",
)  # fmt: skip


class PromptedBase(PromptedObjects):
    """Base weights in memory that answer prompts.

    Args:
        base: a name of `ragsam bases`, or a file of weights; see `load_answering`.
        card: of organs that prompts may name; None knows none.
        window: lowest and highest intensity; None takes the card's, else `SOFT_TISSUE` where a volume looks like CT,
            else percentiles of the volume.

    Raises:
        InputError: base weights that are missing, or answer no prompts for a slice alone.
    """

    def __init__(
        self, base: str | os.PathLike[str], *, card: Card | None = None, window: Sequence[float] | None = None
    ) -> None:
        if Path(base).is_dir():
            raise InputError(f"--base {base}: a folder; a run is named before the inputs, without --base")
        network, repeated = load_answering(base)
        if not repeated:
            raise InputError(f"--base {Path(base).name}: takes neighbouring slices; segment with its run instead")
        super().__init__(card or _NO_CARD)
        if window is None and card is not None:
            window = card.window
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().requires_grad_(False).to(self.device)
        steps = [
            LoadVolumed(("image",), image_only=True),
            EnsureChannelFirstd(("image",), channel_dim="no_channel"),
            FillNonfinited(),
            _turn(Path(base)),
            FittingWindowd(window),
            EnsureTyped(("image",), dtype=None),
        ]
        self.dataset = VolumeDataset([], Compose(steps))

    def volume(self, case: Case) -> Tensor:
        """Return a case's volume [1, H, W, D], 0-1, its slices as the weights were trained, else `_RADIOLOGICAL`."""
        return self.dataset.item(case)["image"]

    def prompted(self, volume: Tensor) -> ResizedVolume:
        """Return a preprocessed volume that answers prompts."""
        return ResizedVolume(self.network, volume.to(self.device))


def _turn(base: Path) -> Transform:
    """Return what lays slices out: as a weights file of ours says, but for SAM's own, which saw no volumes.

    Raises:
        InputError: as `require_layout`.
    """
    if base.suffix == ".safetensors":
        about = load_metadata(base)
        layout = require_layout(base, about)
        if about.get("kind") != "sam" or layout == "file":
            slice_axis = (about.get("preparation") or {}).get("slice_axis", 2)
            return orientation_step(("image",), slice_axis, layout)
    return Orientationd(("image",), axcodes=_RADIOLOGICAL, labels=None)


class FittingWindowd(Transform):
    """Scales a volume to 0-1 by a window, or by what its intensities look like.

    Args:
        window: see `PromptedBase`.
    """

    def __init__(self, window: Sequence[float] | None) -> None:
        self.window = window

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the image scaled."""
        window = self.window
        if window is None and float(data["image"].min()) < _ONLY_CT:
            window = SOFT_TISSUE
            logger.info("%s: looks like CT; window %g to %g HU, see --window", data["case"], *window)
        return dict(scale_intensity(window)(data))
