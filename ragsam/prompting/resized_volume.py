"""A volume whose slices answer prompts as pretrained SAMs see them: resized as a whole to the network's input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.networks.prompts import BoxPrompts, PointPrompts, Prompts
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.prompting.prompted_volume import SliceMask, coarse_logits
from ragsam.prompting.propagation import Following
from ragsam.transforms.voxel_prompts import MASK_LOGIT, SlicePrompts

#: Slices whose embeddings are kept: enough for an object that is being clicked at, not for a whole volume.
_MOST_EMBEDDINGS = 16


#: These weights were trained on boxes: a draft misleads them, and they do not know how good their masks are.
_FOLLOWING = Following(margin=1.0, drafts=False, lowest_quality=-math.inf)


class ResizedVolume:
    """Answers prompts in the slices of a volume, each resized until its longer side is the network's.

    The rest, at the right and below, is filled with the slice's minimum. Prompts are scaled like the slice, and the
    mask comes back bilinearly: as LiteMedSAM's code does, and SAM's. For SAM 2's networks a slice is stretched to the
    square instead, with antialiasing, as SAM 2's code does.

    Args:
        network: a `Segmenter` that answers prompts, and takes the slice repeated in all channels.
        volume: [1, H, W, D], 0-1.
    """

    following = _FOLLOWING

    def __init__(self, network: Segmenter, volume: Tensor) -> None:
        self.network = network.eval()
        self.voxels = volume[0].as_subclass(Tensor)
        self.depth = self.voxels.shape[-1]
        shape = self.voxels.shape[:2]
        scale = network.image_size / max(shape)
        self.resized = tuple(int(side * scale + 0.5) for side in shape)
        self.scale = (scale, scale)
        if network.takes_skips:
            self.resized = (network.image_size, network.image_size)
            self.scale = tuple(network.image_size / side for side in shape)
        self._embedded: dict[int, Embedded] = {}

    @torch.no_grad()
    def answer(self, number: int, prompts: SlicePrompts) -> SliceMask:
        """Return the object that prompts mean in a slice; of a lone click the best of SAM's three masks."""
        asked = self._scaled(prompts)
        best = self.network.decode_prompted(self._embed(number), asked).choose(ambiguous=prompts.ambiguous)
        rows, columns = self.resized
        seen = best.coarse if self.network.takes_skips else best.logits[:, :, :rows, :columns]
        logits = F.interpolate(seen.float(), tuple(self.voxels.shape[:2]), mode="bilinear", align_corners=False)
        return SliceMask(logits[0, 0], float(best.quality[0, 0]))

    def _embed(self, number: int) -> Embedded:
        if number not in self._embedded:
            image = self._resized(self.voxels[..., number].float())
            image = self._padded(image, float(image.min()))
            self._embedded[number] = self.network.embed(image.expand(-1, 3, -1, -1))
            if len(self._embedded) > _MOST_EMBEDDINGS:
                oldest = next(iter(self._embedded))
                del self._embedded[oldest]
        return self._embedded[number]

    def _resized(self, slice_: Tensor) -> Tensor:
        """Return a slice [H, W] as [1, 1, h, w]: averaged over areas where it shrinks, else bilinear."""
        if self.network.takes_skips:
            return F.interpolate(slice_[None, None], self.resized, mode="bilinear", antialias=True)
        if self.scale[0] < 1:
            return F.interpolate(slice_[None, None], self.resized, mode="area")
        return F.interpolate(slice_[None, None], self.resized, mode="bilinear", align_corners=False)

    def _padded(self, image: Tensor, value: float) -> Tensor:
        """Return [1, 1, h, w] as [1, 1, S, S]."""
        size = self.network.image_size
        rows, columns = self.resized
        return F.pad(image, (0, size - columns, 0, size - rows), value=value)

    def _scaled(self, prompts: SlicePrompts) -> Prompts:
        """Return a slice's prompts in pixels of the network's input."""
        device = self.voxels.device
        points = box = mask = None
        if prompts.points:
            places = torch.tensor([[point.row, point.column] for point in prompts.points], device=device)
            places = places * places.new_tensor(self.scale)
            kinds = torch.tensor([[int(point.inside) for point in prompts.points]], device=device)
            points = PointPrompts(places[None, :, 0], places[None, :, 1], kinds)
        if prompts.box is not None:
            sides = (prompts.box.top, prompts.box.left, prompts.box.bottom, prompts.box.right)
            scaled = (side * scale for side, scale in zip(sides, 2 * self.scale, strict=True))
            box = BoxPrompts(*(torch.tensor([side], device=device) for side in scaled))
        if prompts.mask is not None:
            draft = self._resized(prompts.mask.to(device).float())
            mask_size = self.network.sam.prompt_encoder.mask_input_size
            mask = coarse_logits(self._padded(draft, -MASK_LOGIT), mask_size)
        return Prompts(points, box, mask)
