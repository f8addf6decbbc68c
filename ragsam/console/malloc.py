"""A process keeps the memory of tensors that are freed for those that follow."""

from __future__ import annotations

import contextlib
import ctypes
import sys

#: Of glibc's `mallopt`: an option's number, and the bytes. Tensors of up to so many are on the heap, of which so many
#: may be free at its end before the system gets them back.
KEPT = ((-3, 2**26), (-1, 2**29))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, in this process, from now on; with another C library it does nothing.

    Otherwise the system takes the pages of every large tensor back, and gives and clears them again for the next one.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # another C library has no `mallopt`
        for option, size in KEPT:
            library.mallopt(option, size)
