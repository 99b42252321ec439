"""``python -m experiments.coverage.splits RUN ...``: promises on real patients, divided at random.

The validation and the test patients of each run, on whom its weights were not trained, are divided
again and again into patients who calibrate and patients who are tested. The epoch was selected on
the validation patients, which favors them a little. Needs the counts of ``make volumes RUN=...``;
with those of ``make guarantee``, whose tests are on the files' grid, ``--tag best-native`` has the
margins too. Writes ``experiments/results/coverage-NAME.csv``.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.coverage.worlds import Result, World, controlled_risk, draw_worlds, missed_patients
from mbls.decisions import Promise, nested_masks, quantities_of
from mbls.decisions.nested import Family, patient_means
from mbls.evaluation import TestRun
from mbls.runtime.files import replace_file

__all__ = ["divided", "main"]

ROOT = Path(__file__).parents[2]
SEED = 20261201
ALPHA = 0.1
PROMISES = (Promise(0.1), Promise(0.1, ALPHA))


def main() -> None:
    """Divide the patients of some runs, and write how often the promises were broken."""
    parser = argparse.ArgumentParser(prog="experiments.coverage.splits", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--name", required=True, help="of the CSV file")
    parser.add_argument("--tag", default="best", help="the test")
    parser.add_argument("--splits", type=int, default=2000)
    given = parser.parse_args()
    rows = []
    for run in given.runs:
        own = run / "decisions" / ("" if given.tag == "best" else given.tag)
        parts = [own / "val-bins.npz", run / "test" / given.tag / "bins.npz"]
        tests = [TestRun.load(path) for path in parts]
        for one in divided(tests, splits=given.splits):
            rows.append({"loss": tests[1].meta["loss"], "seed": tests[1].meta["seed"], **vars(one)})
    text = str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n", float_format="%.5g"))
    replace_file(ROOT / "experiments" / "results" / f"coverage-{given.name}.csv", text.encode())


def divided(tests: Sequence[TestRun], *, splits: int, seed: int = SEED) -> Iterator[Result]:
    """Yield how often intervals of volumes miss, and the risk of outer and inner masks.

    Args:
        tests: Counts of the validation and of the test. As many patients calibrate as validated.
        splits: How often the patients are divided.
        seed: Of the divisions.
    """
    names = [name for test in tests for name in dict.fromkeys(test.patients)]
    worlds = draw_worlds(
        splits, patients=len(names), calibrating=len(set(tests[0].patients)), labels=1, seed=seed
    )
    for parts in zip(*map(quantities_of, tests), strict=True):
        scores = {name: score for part in parts for name, score in part.scores().items()}
        wide = np.concatenate(
            [patient_means(2 * part.scale[:, None], part.patients)[0][:, 0] for part in parts]
        )
        own = np.array([scores[name] for name in names])[:, None]
        yield missed_patients(
            "volume", f"interval, {parts[0].unit}", parts[0].name, own, own, wide, worlds, ALPHA
        )
    for family in ("threshold", "margin"):
        if family == "threshold" or all(test.margins is not None for test in tests):
            for promise in PROMISES:
                yield from _masks(tests, family, promise, worlds)


def _masks(
    tests: Sequence[TestRun], family: Family, promise: Promise, worlds: list[World]
) -> Iterator[Result]:
    found = [nested_masks(test, family) for test in tests]
    kind = "mean" if promise.alpha is None else "share above"
    for s, name in enumerate(found[0].structures):
        counts = np.concatenate(
            [patient_means(one.counts[:, s].astype(float), one.patients)[0] for one in found]
        )
        inside, true = counts[..., 1], counts[:, -1:, 0]
        for what in ("outer mask", "inner mask"):
            each = [n.missed() if what == "outer mask" else n.outside() for n in found]
            shares = [
                patient_means(values[:, s], one.patients)[0]
                for values, one in zip(each, found, strict=True)
            ]
            loss = promise.loss(np.concatenate(shares))[:, None]
            yield controlled_risk(
                what, f"{family}, {kind}", name, loss, loss, inside, true, worlds, promise.level
            )


if __name__ == "__main__":
    main()
