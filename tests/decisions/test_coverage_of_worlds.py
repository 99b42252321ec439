"""Coverage over relabeled worlds of the phantom is nominal, and falls where the annotator changes.

In a world a label of each patient is drawn, and the patients are divided at random, so the coverage
over all worlds is known: an interval misses exactly 1 - ceil((n + 1)(1 - alpha))/(n + 1) of them
without ties. Its Monte-Carlo error is the standard error over worlds; bounds are of 4 of them.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.phantom import PhantomSettings, draw_labels
from experiments.coverage.__main__ import ALPHA, QUALITIES, simulate
from experiments.coverage.bank import STRUCTURES, draw_banks, phantom_cases, tempered
from experiments.coverage.figure import coverage_figure
from mbls.decisions.nested import nested_masks
from mbls.evaluation import TestRun
from mbls.metrics import CalibrationHistogram, DiceScore
from mbls.metrics.margins import MarginCounts

pytestmark = pytest.mark.slow
CALIBRATING = 20


@pytest.fixture(scope="module")
def patients() -> list:
    return list(phantom_cases(28, seed=7, settings=PhantomSettings()))


@pytest.fixture(scope="module")
def table(patients: list) -> pd.DataFrame:
    """The shares that are missed, for probabilities of any quality."""
    rows = simulate(patients, QUALITIES, calibrating=CALIBRATING, labels=12, worlds=1500, seed=1)
    return pd.DataFrame(rows)


def test_intervals_miss_as_many_as_they_should(table: pd.DataFrame) -> None:
    own = table[(table.annotator == "the same") & table.how.str.startswith("interval")]
    assert set(own.probabilities) == set(QUALITIES)
    assert len(own) == len(QUALITIES) * (len(STRUCTURES) + 1)
    exact = 1 - np.ceil((CALIBRATING + 1) * (1 - ALPHA)) / (CALIBRATING + 1)
    assert (np.abs(own.share - exact) <= 4 * own.error).all(), own
    assert (own.error < 0.005).all()


def test_the_risk_of_masks_is_below_its_bound(table: pd.DataFrame) -> None:
    own = table[(table.annotator == "the same") & table.what.str.endswith("mask")]
    assert len(own) == len(QUALITIES) * len(STRUCTURES) * 2 * 2 * 2
    assert (own.share <= own.bound + 4 * own.error).all(), own
    outer = own[(own.what == "outer mask") & own.how.str.startswith("threshold")]
    assert (outer[outer.how.str.endswith("mean")].share > 0.01).all()  # no mask of all voxels
    assert (outer["size"] < 2).all()


def test_coverage_falls_with_another_annotator(table: pd.DataFrame) -> None:
    rows = table[table.how == "interval, ml"].groupby("annotator").share.mean()
    assert rows["1.5 mm larger"] > 0.2
    assert rows["twice as rough"] > 0.2
    assert len(coverage_figure(table, "PHANTOM").axes) == 3


def test_the_bank_counts_as_a_test_does(patients: list) -> None:
    """Of one label of each case: nested masks and volumes are those of the metrics."""
    two, number = patients[:2], 4
    (bank, *_) = draw_banks(two, {"true": QUALITIES["true"]}, labels=1, seed=5).values()
    settings = {"num_classes": 4, "num_cases": number}
    metrics = [each(**settings) for each in (CalibrationHistogram, DiceScore, MarginCounts)]
    size = []
    for n, case in enumerate(case for cases in two for case in cases):
        rng = np.random.default_rng([5, n // 2, 0])
        drawn = [draw_labels(one.annotation, rng) for one in two[n // 2]][n % 2]
        probs = torch.from_numpy(tempered(case, 1.0))[None]
        where = {
            "index": torch.tensor([n]), "spacing": torch.tensor([case.annotation.spacing]),
        }  # fmt: skip
        for metric in metrics:
            metric.update(probs, torch.from_numpy(drawn.astype(np.int64))[None], **where)
        size.append(np.prod(case.annotation.spacing) / 1000)
    histogram, dice, margins = metrics
    names = ["background", *STRUCTURES]
    run = TestRun.of(
        histogram, dice, margins=margins, cases=["a", "b", "c", "d"], patients=["p", "p", "q", "q"],
        meta={"dataset": "acdc", "origin": "phantom", "class_names": names},
    )  # fmt: skip
    for family in ("threshold", "margin"):
        missed = nested_masks(run, family).missed().reshape(2, 2, 3, -1).mean(1)
        np.testing.assert_allclose(bank.missed[family][:, 0], missed, atol=1e-12)
        outside = nested_masks(run, family).outside().reshape(2, 2, 3, -1).mean(1)
        np.testing.assert_allclose(bank.outside[family][:, 0], outside, atol=1e-12)
    voxels = run.dice[:, 1:, 2] * np.array(size)[:, None]
    np.testing.assert_allclose(bank.labeled[:, 0].reshape(4, 3), voxels)
    expected = run.bins.table("all", 60)[2][:, 2:].sum(-1) * np.array(size)[:, None]
    np.testing.assert_allclose(bank.expected.reshape(4, 3), expected, rtol=1e-6)
