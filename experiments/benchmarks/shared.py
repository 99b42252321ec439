"""Counting and training next to busy processes, of this checkout and another one.

``python -m experiments.benchmarks.shared --old ../other-checkout`` takes turns, in random order, of
this checkout, the other one and each ``--also``, alone and next to one and two busy processes:

- ``CalibrationHistogram.update`` of 3 million voxels and 4 classes, in processes that have begun;
- ``mbls train`` of 40 batches on the phantom of ACDC, a process each, from start to end, without
  validation and with a test of one case.

It prints medians of the rounds, in seconds and as multiples of the first variant's alone. Each
command finds its own number of threads, unless ``--threads`` gives it. ``--also`` names a further
variant of this checkout by what is set in its environment, such as
``--also GOMP_SPINCOUNT=20000`` or ``--also OMP_WAIT_POLICY=PASSIVE``. About 12 minutes with two
checkouts on two CPUs; ``--rounds 1`` takes a third, ``--only count`` a minute.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parents[2]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
BUSY = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:  # also where that was killed
    for _ in range(100_000):
        pass
"""
COUNT = """
import sys, time
try:
    from mbls.runtime.threads import set_defaults
    set_defaults()
except ImportError:  # an older checkout
    pass
import torch
from mbls.metrics import CalibrationHistogram

torch.manual_seed(0)
slices = int(sys.argv[1]) // 30000
probs = torch.randn(1, 4, slices, 150, 200).mul_(2).softmax(1)
target = torch.randint(4, (1, slices, 150, 200))
CalibrationHistogram(4).update(probs, target)
print(flush=True)
for _ in sys.stdin:
    metric, start = CalibrationHistogram(4), time.perf_counter()
    metric.update(probs, target)
    print(time.perf_counter() - start, flush=True)
"""


@dataclass(frozen=True)
class Variant:
    """A checkout, and the environment variables of its processes."""

    name: str
    tree: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment of its processes."""
        env = {name: value for name, value in os.environ.items() if name not in THREADS}
        return env | {"PYTHONPATH": str(self.tree)} | self.variables


class Counting:
    """A process that counts on request."""

    def __init__(self, variant: Variant, voxels: int) -> None:
        command = [sys.executable, "-c", COUNT, str(voxels)]
        self.process = subprocess.Popen(
            command, env=variant.env, cwd=variant.tree, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._line()

    def seconds(self) -> float:
        """Return what it takes to count once."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("The process that counts has ended; see what it printed.")
        return line

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def training(variant: Variant, data: Path, steps: int) -> float:
    """Return the seconds of ``mbls train``; the phantom and its cache come with the first call.

    Raises:
        RuntimeError: It failed; the message has its output.
    """
    data = data / variant.name.split(",")[0]  # another checkout may write another phantom
    with tempfile.TemporaryDirectory() as name:
        command = [
            "train", "--dataset", "acdc", "--loss", "mbls", "--preset", "quick", "--epochs", "1",
            "--run", f"{name}/run", "--accelerator", "cpu",
            f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=0",
            "--trainer.limit_test_batches=1", "--trainer.num_sanity_val_steps=0",
            f"--data.init_args.phantom_root={data / 'acdc'}",
            f"--data.init_args.cache_dir={data / 'cache'}",
        ]  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mbls.cli", *command],
            env=variant.env, cwd=variant.tree, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"mbls train failed ({variant.name}):\n{done.stdout}{done.stderr}")
        return time.perf_counter() - start


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes computing."""
    started = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def measure(
    variants: list[Variant], *, only: str | None, loads: list[int], rounds: int, counts: int,
    steps: int, voxels: int,
) -> dict[tuple[str, str, int], list[float]]:  # fmt: skip
    """Return the seconds of each work (``count``, ``train``), variant and number of others."""
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = {}
        if only != "train":
            processes = {each.name: Counting(each, voxels) for each in variants}
            for process in processes.values():
                stack.callback(process.end)
        if only != "count":
            for each in variants:  # also compiles what Python keeps
                training(each, data, 1)
        for number in range(rounds):
            for others in loads:
                sys.stderr.write(f"round {number + 1} of {rounds}, {others} busy processes\n")
                with busy(others):
                    for _ in range(counts if processes else 0):
                        for each in random.sample(variants, len(variants)):
                            seconds = processes[each.name].seconds()
                            found["count", each.name, others].append(seconds)
                    for each in random.sample(variants, len(variants) if only != "count" else 0):
                        found["train", each.name, others].append(training(each, data, steps))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table for each work."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--old", type=Path, help="another checkout, the first variant")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=VALUE[,...]")
    parser.add_argument("--threads", type=int, help="of every variant, by OMP_NUM_THREADS")
    parser.add_argument("--only", choices=("count", "train"))
    parser.add_argument("--busy", default="0,1,2", help="numbers of busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, default=3, help="updates a round")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--voxels", type=int, default=3_000_000)
    given = parser.parse_args(arguments)
    all_have = {"OMP_NUM_THREADS": str(given.threads)} if given.threads else {}
    variants = [Variant("old", given.old.resolve(), all_have)] if given.old else []
    variants.append(Variant("new", HERE, all_have))
    for text in given.also:
        variables = dict(pair.split("=", 1) for pair in text.split(","))
        variants.append(Variant(f"new, {text}", HERE, all_have | variables))
    loads = [int(count) for count in given.busy.split(",")]
    found = measure(
        variants, only=given.only, loads=loads, rounds=given.rounds, counts=given.counts,
        steps=given.steps, voxels=given.voxels,
    )  # fmt: skip
    heads = ["alone" if not count else f"{count} busy" for count in loads]
    for work in dict.fromkeys(work for work, _, _ in found):
        title = {
            "count": f"CalibrationHistogram.update, {given.voxels} voxels, 4 classes",
            "train": f"mbls train, {given.steps} steps",
        }[work]
        base = statistics.median(found[work, variants[0].name, loads[0]])
        table = Table(
            title=title, caption=f"seconds, medians (times {variants[0].name}, {heads[0]})"
        )
        for head in ("", *heads):
            table.add_column(head, justify="right" if head else "left")
        for each in variants:
            medians = [statistics.median(found[work, each.name, count]) for count in loads]
            table.add_row(each.name, *(f"{m:.2f} ({m / base:.2f})" for m in medians))
        Console().print(table)


if __name__ == "__main__":
    main()
