"""How much memory a process has taken, and how much it may take."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch


def peak_memory() -> tuple[int, int]:
    """Return the most bytes that this process had resident, and that torch took of the GPU; 0 without one."""
    unit = 1 if sys.platform == "darwin" else 1024
    gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, gpu


def memory_limit() -> int:
    """Return the bytes of the GPU's memory; without one those of the machine's, or of the container's where less."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a bound: "max"
        return machine
