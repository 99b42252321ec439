"""torchmetrics, MONAI and others: they agree where they are right.

That is for few voxels, so that their float32 sums are exact, and no confidence on an edge or at 1,
where each has bins of its own.
"""

import numpy as np
import pytest
import torch
from monai.metrics import (
    CalibrationErrorMetric,
    DiceMetric,
    HausdorffDistanceMetric,
    SurfaceDiceMetric,
)
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from mbls.metrics import (
    CalibrationHistogram,
    ClasswiseCalibrationError,
    DiceScore,
    ExpectedCalibrationError,
    HausdorffDistance95,
    MaximumCalibrationError,
    NormalizedSurfaceDice,
    average_error,
    case_values,
    expected_error,
    maximum_error,
)

SHAPES = {"flat": (257,), "2d": (3, 13, 17), "3d": (2, 9, 8, 7)}
CLOSE = {"rtol": 3e-5, "atol": 1e-6}  # their sums are float32


@pytest.fixture(params=zip((2, 3, 7), SHAPES, strict=True), ids=lambda p: f"{p[0]}-{p[1]}")
def scored(request):
    classes, name = request.param
    shape = SHAPES[name]
    probs = (torch.randn(shape[0], classes, *shape[1:]) * 2).softmax(1)
    edges = torch.arange(61) / 60
    assert (probs.flatten()[:, None] - edges).abs().min() > 0  # also none at 0 or 1
    return probs, torch.randint(classes, shape)


def ours(metric, probs, target):
    metric.update(probs, target)
    return metric.compute().item()


@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_torchmetrics_top_label(scored, n_bins, norm):
    probs, target = scored
    target[0] = -100 if target[0].numel() > 1 else target[0]
    classes = probs.shape[1]
    peer = MulticlassCalibrationError(classes, n_bins=n_bins, norm=norm, ignore_index=-100)
    peer.update(probs, target)
    metric = (
        MaximumCalibrationError(classes, n_bins=n_bins)
        if norm == "max"
        else ExpectedCalibrationError(classes, n_bins=n_bins, norm=norm)
    )
    np.testing.assert_allclose(ours(metric, probs, target), peer.compute(), **CLOSE)


@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_torchmetrics_each_class_against_the_rest(scored, n_bins, norm):
    probs, target = scored
    histogram = CalibrationHistogram(probs.shape[1])
    histogram.update(probs, target)
    name = {"l1": "ece", "l2": "ece_l2", "max": "mce"}[norm]
    errors = []
    for k in range(probs.shape[1]):
        peer = BinaryCalibrationError(n_bins=n_bins, norm=norm)
        peer.update(probs[:, k], (target == k).long())
        errors.append(peer.compute())
        found = case_values(histogram.bins(), f"{name}/{k}", n_bins=n_bins)[0]
        np.testing.assert_allclose(found, errors[-1], **CLOSE)
    if norm != "max":
        metric = ClasswiseCalibrationError(probs.shape[1], n_bins=n_bins, norm=norm)
        np.testing.assert_allclose(ours(metric, probs, target), np.mean(errors), **CLOSE)


@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize(
    ("reduction", "error"),
    [("expected", expected_error), ("average", average_error), ("maximum", maximum_error)],
)
def test_monai_each_image_and_class(scored, n_bins, include_background, reduction, error):
    probs, target = scored
    if probs.ndim == 2:  # an image needs an axis of space
        probs, target = probs.T[None], target[None]
    one_hot = torch.nn.functional.one_hot(target, probs.shape[1]).movedim(-1, 1).float()
    peer = CalibrationErrorMetric(
        num_bins=n_bins,
        include_background=include_background,
        calibration_reduction=reduction,
        metric_reduction="none",
    )
    peer(y_pred=probs, y=one_hot)
    histogram = CalibrationHistogram(probs.shape[1], num_cases=len(probs))
    histogram.update(probs, target, index=torch.arange(len(probs)))
    first = 1 if include_background else 2
    found = error(*histogram.bins().table("all", n_bins)[:, :, first:])
    np.testing.assert_allclose(found, peer.aggregate(), **CLOSE)


@pytest.fixture(params=["2d", "3d"])
def volumes(request):
    """Two volumes of three blobs, predicted a little off, with unlike voxel sizes in mm."""
    shape, spacing = {
        "2d": ((40, 36), [[1.25, 0.8], [2.0, 0.5]]),
        "3d": ((18, 20, 9), [[1.25, 0.8, 5.0], [0.7, 1.5, 3.0]]),
    }[request.param]
    axes = [torch.linspace(-1, 1, n) for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    target = torch.zeros(2, *shape, dtype=torch.long)
    predicted = target.clone()
    for n in range(2):
        for k, radius in ((1, 0.8), (2, 0.5), (3, 0.3)):
            for labels, shift in ((target, 0.0), (predicted, 0.1 + 0.1 * n)):
                labels[n][(grid + shift * (k - 1)).norm(dim=0) < radius] = k
    probs = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    one_hot = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    return probs, target, one_hot, torch.tensor(spacing)


def test_monai_dice(volumes):
    probs, target, one_hot, _ = volumes
    peer = DiceMetric(include_background=True, reduction="none")
    metric = DiceScore(4, num_cases=2)
    metric.update(probs, target, index=torch.arange(2))
    np.testing.assert_allclose(metric.compute(), peer(probs, one_hot), rtol=1e-6)


@pytest.mark.parametrize(
    ("metric", "peer"),
    [
        (HausdorffDistance95(4, num_cases=2), HausdorffDistanceMetric(percentile=95)),
        *[
            (
                NormalizedSurfaceDice(4, num_cases=2, tolerance=mm),
                SurfaceDiceMetric(class_thresholds=[mm] * 3),
            )
            for mm in (1.0, 2.0)
        ],
    ],
    ids=["hd95", "nsd at 1 mm", "nsd at 2 mm"],
)
def test_monai_surface_distances_in_mm(volumes, metric, peer):
    probs, target, one_hot, spacing = volumes
    expected = [
        peer(p[None], y[None], spacing=s.tolist())[0]
        for p, y, s in zip(probs, one_hot, spacing, strict=True)
    ]
    metric.reset()
    metric.update(probs, target, spacing=spacing, index=torch.arange(2))
    found = metric.compute()
    np.testing.assert_allclose(found[:, 1:], torch.stack(expected), rtol=1e-6)
    assert found[:, 0].isnan().all()
    metric.reset()
    metric.update(probs, target, spacing=torch.ones_like(spacing), index=torch.arange(2))
    assert not torch.equal(metric.compute()[:, 1:], found[:, 1:])  # spacing matters
