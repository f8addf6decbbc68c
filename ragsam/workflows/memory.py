"""How much memory a process has taken."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory() -> tuple[int, int]:
    """Return the most bytes that this process had resident, and that torch took of the GPU; 0 without one."""
    unit = 1 if sys.platform == "darwin" else 1024
    gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, gpu
