"""SAM 2's mask decoder: SAM's, with skips from finer features and a token for whether the object is there.

Source: Ravi et al., "SAM 2", 2024 (arXiv:2408.00714).
"""

from __future__ import annotations

from collections.abc import Mapping

from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

#: Names of the skips, the coarser one first, as the upscaling meets them.
SKIPS = ("skip_8", "skip_4")


class SkipMaskDecoder(MaskDecoder):
    """SAM's mask decoder with what SAM 2 adds to it; `Segmenter` runs it.

    Its head that predicts whether the object is present is left out: nothing here asks for it.

    Attributes:
        obj_score_token: stands before the other tokens.
        conv_s0, conv_s1: bring features of strides 4 and 8 to the upscaling's channels.
    """

    def __init__(self, *, transformer_dim: int, transformer: nn.Module, num_multimask_outputs: int = 3) -> None:
        super().__init__(
            transformer_dim=transformer_dim, transformer=transformer, num_multimask_outputs=num_multimask_outputs
        )
        self.obj_score_token = nn.Embedding(1, transformer_dim)
        self.conv_s0 = nn.Conv2d(transformer_dim, transformer_dim // 8, 1)
        self.conv_s1 = nn.Conv2d(transformer_dim, transformer_dim // 4, 1)
        self.iou_prediction_head.sigmoid_output = True

    def skips(self, finer: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return what enters the upscaling: `skip_8` [B, C / 4, 2 h, 2 w] and `skip_4` [B, C / 8, 4 h, 4 w].

        Args:
            finer: features of the encoder by stride, {4: [B, C, 4 h, 4 w], 8: [B, C, 2 h, 2 w]}.
        """
        return {"skip_8": self.conv_s1(finer[8]), "skip_4": self.conv_s0(finer[4])}
