"""Processor time of the intervals: 10,000 draws of 200 patients for every number of a test run.

``python -m experiments.benchmarks.bootstrap`` fills histograms as a test run of 200 cases, 4
classes and five regions leaves them, and measures the whole summary of ``metrics.json``: all sound
metrics pooled and per case, the true ones of a phantom, the published protocols and Dice.
"""

import argparse
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mbls.evaluation import TestRun
from mbls.metrics._kernel.edges import GRID_CELLS
from mbls.metrics._kernel.fixed_point import FIXED_ONE
from mbls.metrics.bins import QUANTITIES, SCORES, CalibrationBins
from mbls.metrics.bootstrap import DRAWS
from mbls.metrics.regions import REGIONS


def make_bins(cases: int, classes: int, *, posterior: bool, seed: int = 0) -> CalibrationBins:
    """Return histograms of random voxels, a few thousand in each cell."""
    rng = np.random.default_rng(seed)
    shape = (cases, len(REGIONS), 1 + classes, GRID_CELLS)
    voxels = rng.integers(1, 5000, shape)
    hits = rng.binomial(voxels, np.linspace(0, 1, GRID_CELLS))
    offsets = voxels * rng.integers(0, FIXED_ONE // 60, shape)
    cells = np.stack([voxels, hits, offsets], axis=-1)
    whole = voxels * (np.arange(GRID_CELLS) * FIXED_ONE // 60)
    truth = np.stack([voxels * FIXED_ONE, hits * FIXED_ONE, whole], axis=-1)
    assert cells.shape[-1] == len(QUANTITIES)
    sums = rng.integers(1, 1 << 40, (cases, len(REGIONS), len(SCORES)))
    sums[..., 0] = voxels[:, :, 0].sum(-1)
    return CalibrationBins(
        cells=cells,
        sums=sums,
        truth=truth if posterior else None,
        regions=REGIONS,
        channels=("top", *map(str, range(classes))),
        num_classes=classes,
        pooled=False,
    )


def seconds(bins: CalibrationBins, patients: list[str]) -> tuple[float, int]:
    """Return the processor time of a whole summary, and the number of its intervals."""
    cases = [str(n) for n in range(len(bins.cells))]
    names = [f"class{k}" for k in range(bins.num_classes)]
    meta = {"dataset": "random", "origin": "real", "class_names": names}
    rng = np.random.default_rng(1)
    dice = np.sort(rng.integers(1, 9999, (len(cases), bins.num_classes, 3)), axis=-1)
    start = time.process_time()
    result = TestRun(bins, dice, cases, patients, meta).summary()
    return time.process_time() - start, count_intervals(result)


def count_intervals(value: Any) -> int:
    """Return the number of entries with an interval in the content of ``metrics.json``."""
    if not isinstance(value, dict):
        return 0
    own = 1 if value.get("low") is not None else 0
    return own + sum(count_intervals(part) for part in value.values())


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--classes", type=int, default=4)
    options = parser.parse_args(arguments)
    title = f"{DRAWS:,} draws, {options.cases} cases, {options.classes} classes, all regions"
    table = Table(title=title)
    for heading in ("", "intervals", "seconds of processor"):
        table.add_column(heading, justify="left" if not heading else "right")
    patients = [str(n) for n in range(options.cases)]
    for name, posterior in (("real data", False), ("phantom, with true errors", True)):
        bins = make_bins(options.cases, options.classes, posterior=posterior)
        used, number = seconds(bins, patients)
        table.add_row(name, str(number), f"{used:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
