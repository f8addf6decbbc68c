"""What a run finds in a volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.inference.volume_writer import on_grid_of
from ragsam.io.nifti import mm_per_unit
from ragsam.retrieval.novelty import Novelty


@dataclass(frozen=True)
class Result:
    """What a run found in a volume.

    Attributes:
        case: what the volume is called.
        labels: label volume, whole numbers (uint8 with the card's), on the input's own grid.
        values: label value by organ, and by object where objects were asked for.
        neighbours: by the slice's number, counted in RAS along the axis of the run's slices, the bank's slices that
            voted, the weightiest first: `patient`, `case` (pseudonyms), `slice`, `similarity`, `weight` and `row`.
            Empty without retrieval.
        novelty: how unlike the bank's volumes it is; None without retrieval.
        objects: what `prompts.json` gives of each object that was asked for.

    Examples:
        >>> import ragsam
        >>> result = ragsam.load("runs/hippocampus").segment("mr.nii.gz")
        >>> list(result.volumes_ml)
        ['anterior', 'posterior']
        >>> result.probabilities("anterior").shape
        (32, 32, 6)
        >>> sorted(result.neighbours[2][0])
        ['case', 'patient', 'row', 'similarity', 'slice', 'weight']
        >>> result.labels.to_filename("labels.nii.gz")
    """

    case: str
    labels: nib.Nifti1Image
    values: Mapping[str, int]
    neighbours: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    novelty: Novelty | None = None
    objects: Sequence[Mapping[str, Any]] = ()
    _probabilities: NDArray[np.uint8] | None = field(default=None, repr=False)
    _image: SpatialImage | None = field(default=None, repr=False)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """The volume of every organ in ml; 0 where it was not found."""
        voxel_ml = abs(np.linalg.det(self.labels.affine[:3, :3])) * mm_per_unit(self.labels.header) ** 3 / 1000
        numbers, counts = np.unique(np.asarray(self.labels.dataobj), return_counts=True)
        found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return {name: float(found.get(value, 0) * voxel_ml) for name, value in self.values.items()}

    def probabilities(self, organ: str) -> nib.Nifti1Image:
        """Return an organ's probabilities, 0 to 1 in 255 steps, float32, on the input's own grid.

        Raises:
            InputError: no such organ, or a result without probabilities: they are left out where that was asked for,
                and where there are prompts.
        """
        if self._probabilities is None:
            raise InputError(f"{self.case}: no probabilities; segment it with probabilities=True and without prompts")
        if organ not in self.values:
            raise InputError(f"{organ}: no organ of this run; it has {', '.join(self.values)}")
        index = list(self.values).index(organ)
        return on_grid_of(self._image, self._probabilities[index] / np.float32(255), self.case)
