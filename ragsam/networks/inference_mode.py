"""Whether a CPU may work a batch off piece by piece: pieces stay in its cache, where whole batches would not."""

from __future__ import annotations

import torch
from torch import Tensor


def is_plain_inference(x: Tensor) -> bool:
    """Return whether nothing but the result is wanted: no gradient and no graph; on a CPU."""
    recorded = torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not recorded
