"""How the C library keeps memory for a network on the CPU."""

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of them
_KEPT, _HEAP_BLOCK = 1 << 30, 32 << 20  # bytes; the second is the most that glibc takes


def keep_freed_memory() -> None:
    """Let glibc keep up to a gigabyte of what a step frees, for the next step.

    Of itself it gives most of it back, and the system has to clear pages for each step: on two
    cores a tenth of a small U-Net's time. What was set by ``MALLOC_TRIM_THRESHOLD_`` or
    ``MALLOC_MMAP_THRESHOLD_`` stays, and with another C library nothing is done.
    """
    stated = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or stated:
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _HEAP_BLOCK)
