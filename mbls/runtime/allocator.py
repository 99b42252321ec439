"""Keep glibc from returning freed memory to the system after each training step on the CPU."""

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_KEPT, _HEAP_BLOCK = 1 << 30, 32 << 20  # bytes; the second is glibc's maximum


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of the memory that a step frees, for the next step.

    By default glibc returns most of it, and the kernel has to zero new pages in each step: a tenth
    of a small U-Net's training time on two cores. If ``MALLOC_TRIM_THRESHOLD_`` or
    ``MALLOC_MMAP_THRESHOLD_`` is set, or the C library is not glibc, this does nothing.
    """
    set_by_user = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or set_by_user:
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _HEAP_BLOCK)
