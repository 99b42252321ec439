"""On a phantom the labels' distribution is known: measured errors must agree with true ones."""

import numpy as np
import pytest
import torch

from datamodules.phantom.annotator import draw_labels, posterior
from datamodules.phantom.patient import make_patient
from datamodules.phantom.settings import CardiacPhantom
from mbls.metrics import CalibrationHistogram, estimate
from mbls.metrics.summary import summarize

GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")
PATIENTS = 16
REDRAWN = 4
DRAWS = 39


@pytest.fixture(scope="module")
def hearts():
    """Each patient's end-diastolic posterior and a function that draws labels from it."""
    found = []
    for number in range(PATIENTS):
        group = GROUPS[number % len(GROUPS)]
        case = make_patient(CardiacPhantom(), number=number, group=group).annotations["ED"]
        known = torch.from_numpy(posterior(case))[None]
        found.append((known, lambda rng, case=case: torch.from_numpy(draw_labels(case, rng))[None]))
    return found


def counted(hearts, predict, rng, with_posterior=False):
    histogram = CalibrationHistogram(4, num_cases=len(hearts))
    for n, (known, draw) in enumerate(hearts):
        truth = known if with_posterior else None
        index = torch.tensor([n])
        histogram.update(predict(known), draw(rng), index=index, posterior=truth)
    return histogram.bins()


def test_the_posteriors_own_error_is_that_of_redrawn_labels(hearts):
    some = hearts[:REDRAWN]
    first = counted(some, lambda p: p, np.random.default_rng(0), with_posterior=True)
    again = [counted(some, lambda p: p, np.random.default_rng(1 + i)) for i in range(DRAWS)]
    for region, pooling in (("all", "pooled"), ("union", "pooled"), ("all", "per_case")):
        settings = {"region": region, "pooling": pooling}
        drawn = [estimate(bins, "ece", **settings)[0] for bins in again]
        low, high = np.quantile(drawn, [0.025, 0.975])
        value = estimate(first, "ece", **settings)[0]
        assert low <= value <= high, (region, pooling, low, value, high)
    # The posterior is calibrated, to the precision it is stored with.
    assert estimate(first, "true_ece")[0] < 1e-6


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_measured_error_meets_the_true_one(hearts, sharpness):
    def predict(known):
        return (known.clamp_min(1e-12).log() * sharpness).softmax(1)

    bins = counted(hearts, predict, np.random.default_rng(7), with_posterior=True)
    names = ["background", "RV", "MYO", "LV"]
    about = {"dataset": "acdc", "origin": "phantom", "class_names": names}
    patients = [str(n) for n in range(PATIENTS)]
    counts = np.ones((PATIENTS, 4, 3), dtype=np.int64)
    metrics = summarize(bins, counts, cases=patients, patients=patients, meta=about)["sound"]
    for region in ("label", "union"):
        cells = metrics[region]["pooled"]
        for metric in ("ece", "cece", "signed"):
            measured, true = cells[metric], cells[f"true_{metric}"]["value"]
            assert measured["low"] <= true <= measured["high"], (region, metric, measured, true)
    # Over all voxels the error is small against what whole slices drawn in or out add to it: the
    # measured one is too high, more so per case, while the signed one has no such bias.
    for pooling in ("pooled", "per_case"):
        cells = metrics["all"][pooling]
        measured, true = cells["signed"], cells["true_signed"]["value"]
        assert measured["low"] <= true <= measured["high"]
        assert true * (1 if sharpness > 1 else -1) > 0
        for metric in ("ece", "cece"):
            assert cells[metric]["value"] > cells[f"true_{metric}"]["value"]
