"""The published arithmetic, quirks included."""

import numpy as np
import pytest
import torch

from mbls.evaluation import PROTOCOLS, protocol_values
from mbls.evaluation.protocols import drawn_marginal_errors, protocol_entries
from mbls.metrics import CalibrationHistogram, DiceScore, estimate

NAMED = {p.name: p for p in PROTOCOLS}
NAMES = {str(k): f"class {k}" for k in range(9)} | {"ET": "ET", "TC": "TC", "WT": "WT"}


def counted(cases, classes):
    histogram = CalibrationHistogram(classes, num_cases=len(cases))
    dice = DiceScore(classes, num_cases=len(cases))
    for n, (probs, target) in enumerate(cases):
        index = torch.tensor([n])
        histogram.update(probs, target, index=index)
        dice.update(probs, target, index=index)
    return histogram.bins(), dice.counts.numpy()


def test_zero_probability_falls_in_no_bin():
    # Class 1 has probability 0 and is present: only the sound value counts it.
    probs = torch.tensor([1.0, 0.0]).view(1, 2, 1).expand(1, 2, 4)
    bins, _ = counted([(probs, torch.ones(1, 4))], 2)
    assert protocol_values(bins, NAMED["cals-voc"])["cece"][0] == pytest.approx(0.5)
    assert estimate(bins, "cece")[0] == 1


def test_micro_error_is_not_that_of_pooled_voxels():
    # Calibrated in each case: 10 voxels at 0.75 and 1000 at 0.73, both in the bin (0.7, 0.75].
    cases = []
    for voxels, p, hits in ((100, 0.75, 75), (1000, 0.73, 730)):
        probs = torch.tensor([1 - p, p]).view(1, 2, 1).expand(1, 2, voxels)
        cases.append((probs, (torch.arange(voxels) < hits).long()[None]))
    bins, _ = counted(cases, 2)
    share = 805 / 1100
    (error,) = drawn_marginal_errors(bins, NAMED["acl"], np.ones((1, 2)))
    assert error == pytest.approx(0.74 - share, abs=1e-6)


def test_volumes_without_foreground():
    probs = torch.tensor([0.7, 0.3]).view(1, 2, 1).expand(1, 2, 10)
    cases = [(probs, torch.zeros(1, 10)), (probs, torch.ones(1, 10))]
    bins, dice = counted(cases, 2)
    values = protocol_values(bins, NAMED["murugesan-med"])
    assert values["ece"].tolist() == [0.0, 0.7]  # counted as perfect, as published
    assert np.isnan(values["cece"][0])
    cells = protocol_entries(bins, dice, NAMED["murugesan-med"], NAMES, None)["label"]["per_case"]
    assert cells["ece"]["value"] == pytest.approx(0.35)
    assert cells["cece"]["n_cases"] == 1
    assert cells["dice/mean"]["value"] == 0.5  # the absent structure scores 1
    weighted = protocol_entries(bins, dice, NAMED["mbls-voc"], NAMES, None)["label"]["weighted"]
    assert weighted["ece"]["value"] == pytest.approx(0.7)
