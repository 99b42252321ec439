"""Published estimators: those a histogram holds, and by name those it cannot, by sorting.

Not held by a histogram, and why:

- equal-mass edges (``*_equal_mass_*``, ``gce_*__ace``, ``gce_*__tace``, ``mdca_*__ace``,
  ``mdca_*__tace``, ``*__aece``): each implementation cuts the sorted confidences its own way; the
  fine grid gives an equal-mass error of its own (``test_fine.py``);
- ECE-sweep (``sweep__*``): the number of bins depends on the order of the voxels;
- ``crac_seg_brier_*``: the target is a 3x3 neighbourhood of labels;
- ``thresh_cece_*``: the threshold 1e-3 lies inside the first bin.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.metrics import CalibrationHistogram, estimate

FOLDER = Path(__file__).parents[1] / "golden"
EXTRA, STORED = np.load(FOLDER / "metrics_extra.npz"), np.load(FOLDER / "metrics_calibration.npz")
PROBS, LABELS = EXTRA["metric_probs"], EXTRA["metric_labels"]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def counted():
    histogram = CalibrationHistogram(PROBS.shape[1])
    histogram.update(torch.from_numpy(PROBS), torch.from_numpy(LABELS))
    return histogram.bins()


@pytest.mark.parametrize("n_bins", [10, 15])
def test_equal_width_estimators(n_bins):
    bins = counted()

    def value(metric):
        return estimate(bins, metric, n_bins=n_bins)[0]

    loose = {"rtol": 1e-7, "atol": 1e-9}  # confidences are kept to 2**-31
    stem = f"debiased_b{n_bins}__"
    for key, metric in (("top_label", "ece"), ("marginal", "cece")):
        published = EXTRA[f"{stem}ece_plugin_equal_width_{key}"]
        np.testing.assert_allclose(value(metric), published, **loose)
    square = value("ece_debiased_square")
    published = EXTRA[f"{stem}l2_debiased_equal_width_top_label"]
    np.testing.assert_allclose(max(square, 0) ** 0.5, published, **loose)
    # The reference averages the classes' squares after cutting each at zero.
    squares = [value(f"ece_debiased_square/{k}") for k in range(PROBS.shape[1])]
    published = EXTRA[f"{stem}l2_debiased_equal_width_marginal"]
    np.testing.assert_allclose(np.maximum(squares, 0).mean() ** 0.5, published, **loose)
    for source, key, metric in (
        ("gce", "ece", "ece"),
        ("gce", "sce_class_conditional", "cece"),
        ("mdca_metrics", "ece", "ece"),
        ("mdca_metrics", "mce", "mce"),
        ("mdca_metrics", "sce", "cece"),
    ):
        published = EXTRA[f"{source}_b{n_bins}__{key}"]
        np.testing.assert_allclose(value(metric), published, **loose, err_msg=key)


def test_overconfidence_error_weighted_by_confidence():
    table = counted().table("all", 15)[:, 0, 0]
    count, hits, confidence = table
    n = np.maximum(count, 1)
    published = (count / count.sum() * confidence / n * np.maximum(confidence - hits, 0) / n).sum()
    np.testing.assert_allclose(published, EXTRA["mdca_metrics_b15__oe"], rtol=1e-7)


def test_classes_in_the_same_bins():
    for n_bins in (10, 15):
        count, hits, confidence = counted().table("all", n_bins)[:, 0, 1:].sum(1)
        pooled = np.abs(hits - confidence).sum() / count.sum()
        np.testing.assert_allclose(pooled, EXTRA[f"gce_b{n_bins}__sce_pooled"], rtol=1e-7)


def interpolated_error(confidence, hits, n_bins=15):
    """The adaptive error of the margin-based codes: the smallest confidence is in no bin."""
    n = len(confidence)
    edges = np.interp(np.linspace(0, n, n_bins + 1), np.arange(n), np.sort(confidence))
    error = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        error += abs((hits - confidence)[inside].sum()) / n
    return error


@pytest.mark.parametrize("volume", ["vol0", "vol1"])
def test_adaptive_error_by_sorting(volume):
    probs = torch.from_numpy(STORED[f"logits_{volume}"]).double().softmax(1)
    target = torch.from_numpy(STORED[f"labels_{volume}"])
    confidence, predicted = probs.max(1)
    hits = (predicted == target).double()
    for scope, mask in (("all", target >= 0), ("foreground", target > 0)):
        found = interpolated_error(confidence[mask].numpy(), hits[mask].numpy())
        np.testing.assert_allclose(found, STORED[f"{volume}_{scope}_b15__aece"], **EXACT)


@pytest.mark.parametrize("volume", ["vol0", "vol1"])
def test_brier_against_neighbourhoods(volume):
    probs = torch.from_numpy(STORED[f"logits_{volume}"]).double().softmax(1)
    target = torch.from_numpy(STORED[f"labels_{volume}"])
    one_hot = torch.nn.functional.one_hot(target, probs.shape[1]).movedim(-1, 1).double()
    padded = torch.nn.functional.pad(target, (1, 1, 1, 1))  # outside counts as class 0
    outside = torch.nn.functional.one_hot(padded, probs.shape[1]).movedim(-1, 1).double()
    shares = torch.nn.functional.avg_pool2d(outside, 3, 1)
    assert shares.shape == one_hot.shape
    squares = ((probs - shares) ** 2).sum(1)[target != 0].mean()
    np.testing.assert_allclose(squares, STORED[f"crac_seg_brier_{volume}__value"], rtol=1e-7)


@pytest.mark.parametrize("volume", ["vol0", "vol1"])
def test_thresholded_classwise_error_by_selection(volume):
    probs = torch.from_numpy(STORED[f"logits_{volume}"]).double().softmax(1)
    target = torch.from_numpy(STORED[f"labels_{volume}"])
    published = STORED[f"{volume}_all_b15__thresh_cece_per_class"]
    for k, value in enumerate(published):
        p, hit = probs[:, k].flatten().numpy(), (target == k).flatten().numpy()
        p, hit = p[p > 1e-3], hit[p > 1e-3]
        index = np.ceil(p * 15).astype(int) - 1
        gaps = np.bincount(index, hit - p, 15)
        np.testing.assert_allclose(np.abs(gaps).sum() / len(p), value, rtol=1e-7)


def test_sweep_by_sorting():
    confidence, hits = PROBS.max(1), (PROBS.argmax(1) == LABELS).astype(float)
    order = np.argsort(confidence, kind="stable")

    def sweep(place):
        best = None
        for n_bins in range(2, len(order)):
            index = place(n_bins)
            count = np.bincount(index, minlength=n_bins)
            shares = (np.bincount(index, hits[order], n_bins) / np.maximum(count, 1))[count > 0]
            if (np.diff(shares) < 0).any():
                break
            gaps = np.bincount(index, (hits - confidence)[order], n_bins)
            best = n_bins, np.abs(gaps).sum() / len(order)
        return best

    mass = sweep(lambda b: np.floor(np.arange(len(order)) / len(order) * b).astype(int))
    np.testing.assert_allclose(
        mass, [EXTRA["sweep__em_n_bins"], EXTRA["sweep__em_ece_l1"]], **EXACT
    )
    width = sweep(lambda b: np.minimum((confidence[order] * b).astype(int), b - 1))
    stored = [EXTRA["sweep__ew_n_bins"], EXTRA["sweep__ew_ece_l1"]]
    np.testing.assert_allclose(width, stored, **EXACT)
