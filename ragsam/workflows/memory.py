"""How much memory a process has taken, how much it may take, and that it keeps what it will take again."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

#: Of glibc's `mallopt`: an option's number, and the bytes. Tensors of up to so many lie on the heap, of which so many
#: may be free at its end before the system gets them back.
KEPT = ((-3, 2**26), (-1, 2**29))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def keep_freed_memory() -> None:
    """Have glibc keep the memory of tensors that are freed for those that follow; elsewhere it does nothing.

    Otherwise the system gives and clears the pages of every layer's output anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for option, size in KEPT if mallopt is not None else ():
        mallopt(option, size)


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
