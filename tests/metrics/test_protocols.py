"""The published arithmetic, quirks included."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.metrics import PROTOCOLS, CalibrationHistogram, DiceScore, estimate, protocol_values
from mbls.metrics.protocols import pooled_marginal_error, protocol_entries

FOLDER = Path(__file__).parents[1] / "golden"
CALIBRATION, DICE = (
    np.load(FOLDER / "metrics_calibration.npz"),
    np.load(FOLDER / "metrics_dice.npz"),
)
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


def volume(logits, labels):
    """Slices on the batch axis become one volume."""
    probs = torch.from_numpy(logits).double().softmax(1).movedim(0, -1)[None]
    return probs, torch.from_numpy(labels).movedim(0, -1)[None]


def stored(name):
    return volume(CALIBRATION[f"logits_{name}"], CALIBRATION[f"labels_{name}"])


@pytest.mark.parametrize(("name", "classes"), [("vol0", 4), ("vol1", 5)])
def test_foreground_of_a_volume_rounded_and_with_the_classes_seen(name, classes):
    bins, _ = counted([stored(name)], classes)
    rounded = protocol_values(bins, NAMED["murugesan-med"])
    expected = CALIBRATION[f"{name}_foreground_b15__calib_metrics_rounded4"]
    np.testing.assert_allclose([rounded["ece"][0], rounded["cece"][0]], expected, atol=1e-12)
    exact = protocol_values(bins, NAMED["mbls-voc"])
    for key in ("ece", "cece"):
        published = CALIBRATION[f"{name}_foreground_b15__{key}"]
        np.testing.assert_allclose(exact[key][0], published, rtol=1e-7)
        published = CALIBRATION[f"{name}_all_b15__{key}"]
        every = protocol_values(bins, NAMED["cals-voc"])[key][0]
        np.testing.assert_allclose(every, published, rtol=1e-7)


def test_evaluator_of_several_volumes():
    cases = [volume(DICE[f"eval_logits_{n}"], DICE[f"eval_labels_{n}"]) for n in range(3)]
    bins, dice = counted(cases, 4)
    values = protocol_values(bins, NAMED["murugesan-med"])
    np.testing.assert_allclose(values["ece"], DICE["evaluator__ece"][:, 0], atol=1.01e-4)
    np.testing.assert_allclose(values["cece"], DICE["evaluator__cece"][:, 0], atol=1.01e-4)
    cells = protocol_entries(bins, dice, NAMED["murugesan-med"], NAMES, None)["label"]["per_case"]
    _, _, ece, cece = DICE["evaluator__mean_mdsc_mhd_mece_mcece"]
    assert cells["ece"]["value"] == pytest.approx(ece, abs=1.01e-4)
    assert cells["cece"]["value"] == pytest.approx(cece, abs=1.01e-4)
    assert cells["ece"]["n_cases"] == 3


def test_zero_probability_falls_in_no_bin():
    n_bins = 10
    probs = torch.from_numpy(CALIBRATION["edge_logits"]).softmax(1)
    target = torch.from_numpy(CALIBRATION["edge_labels"])
    bins, _ = counted([(probs.T[None], target[None])], 4)
    protocol = replace(NAMED["cals-voc"], n_bins=n_bins)
    values = protocol_values(bins, protocol)
    loose = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(values["ece"][0], CALIBRATION["edge_b10__ece"], **loose)
    np.testing.assert_allclose(values["cece"][0], CALIBRATION["edge_b10__cece"], **loose)
    # Class 1 is certain to be absent and present all the same: only the sound value sees it.
    probs = torch.tensor([1.0, 0.0]).view(1, 2, 1).expand(1, 2, 4)
    bins, _ = counted([(probs, torch.ones(1, 4))], 2)
    assert protocol_values(bins, protocol)["cece"][0] == pytest.approx(0.5)
    assert estimate(bins, "cece")[0] == 1


@pytest.mark.parametrize("name", ["vol0", "vol1"])
@pytest.mark.parametrize("n_bins", [15, 20])
def test_marginal_errors_of_foreground_channels(name, n_bins):
    logits, labels = CALIBRATION[f"logits_{name}"], CALIBRATION[f"labels_{name}"]
    cases = [volume(logits[[n]], labels[[n]]) for n in range(2)]
    bins, dice = counted(cases, logits.shape[1])
    protocol = replace(NAMED["acl"], n_bins=n_bins)
    cells = protocol_entries(bins, dice, protocol, NAMES, None)["all"]["per_case"]
    stem = f"monai_{name}_b{n_bins}_nobg__"
    for key, metric in (("expected", "ece"), ("average", "ace"), ("maximum", "mce")):
        published = CALIBRATION[f"{stem}{key}_aggregate"]
        np.testing.assert_allclose(cells[metric]["value"], published, rtol=1e-7)


def test_micro_error_is_not_that_of_pooled_voxels():
    # Calibrated in each case: 10 voxels at 0.75 and 1000 at 0.73, both in the bin (0.7, 0.75].
    cases = []
    for voxels, p, hits in ((100, 0.75, 75), (1000, 0.73, 730)):
        probs = torch.tensor([1 - p, p]).view(1, 2, 1).expand(1, 2, voxels)
        cases.append((probs, (torch.arange(voxels) < hits).long()[None]))
    bins, _ = counted(cases, 2)
    share = 805 / 1100
    assert pooled_marginal_error(bins, NAMED["acl"]) == pytest.approx(0.74 - share, abs=1e-6)


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
