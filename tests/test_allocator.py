"""Memory that a step frees is used by the next one."""

import os
import subprocess
import sys

import pytest

FRESH_PAGES = """
import resource
import sys

import torch

from mbls.runtime.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()


torch.set_num_threads(1)
layers = [layer for _ in range(3) for layer in (torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU())]
network, image = torch.nn.Sequential(*layers), torch.ones(8, 16, 112, 112)


def step():
    network(image).sum().backward()


for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(how: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PAGES, how],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return int(done.stdout)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc")
def test_steps_take_memory_that_was_freed() -> None:
    given_back = fresh_pages("plain")
    assert given_back > 10_000
    assert fresh_pages("keep") < given_back / 4
    assert fresh_pages("keep", MALLOC_TRIM_THRESHOLD_="131072") > given_back
