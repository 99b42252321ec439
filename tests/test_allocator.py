"""Memory that a step frees is used by the next one."""

import ctypes
import os
import subprocess
import sys

import pytest

RETURNED_BYTES = """
import ctypes
import sys

import torch

from mbls.runtime.allocator import keep_freed_memory

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


if sys.argv[1] == "keep":
    keep_freed_memory()
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo


def held():
    found = mallinfo2()
    return found.arena + found.hblkhd  # from the system, on the heap and mapped


images = [torch.empty(1 << 20, dtype=torch.float64) for _ in range(4)]  # of 8 MiB
before = held()
del images
print(before - held())
"""


def returned_bytes(how: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", RETURNED_BYTES, how],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_freed_memory_is_kept() -> None:
    images = 4 * 8 << 20
    assert returned_bytes("plain") >= images
    assert returned_bytes("keep") == 0
    assert returned_bytes("keep", MALLOC_TRIM_THRESHOLD_="131072") >= images
