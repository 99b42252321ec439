"""Limits of every metric: no voxel, one voxel, certainty, refused values."""

import math

import numpy as np
import pytest
import torch

from mbls.metrics import (
    AdaptiveCalibrationError,
    AverageCalibrationError,
    BrierScore,
    CalibrationHistogram,
    ClasswiseCalibrationError,
    DiceScore,
    ExpectedCalibrationError,
    FineHistogram,
    HausdorffDistance95,
    MaximumCalibrationError,
    NegativeLogLikelihood,
    NormalizedSurfaceDice,
    SmoothCalibrationError,
    estimate,
)
from mbls.metrics._kernel import pieces

CALIBRATION = {
    "ece": ExpectedCalibrationError,
    "ece l2": lambda c, **k: ExpectedCalibrationError(c, norm="l2", **k),
    "cece": ClasswiseCalibrationError,
    "ace": AverageCalibrationError,
    "mce": MaximumCalibrationError,
    "adaptive": AdaptiveCalibrationError,
    "tace": lambda c, **k: AdaptiveCalibrationError(c, threshold=0.01, **k),
    "smooth": SmoothCalibrationError,
    "brier": BrierScore,
    "nll": NegativeLogLikelihood,
}
VOLUMES = {"dice": DiceScore, "hd95": HausdorffDistance95, "nsd": NormalizedSurfaceDice}
every_calibration = pytest.mark.parametrize("build", CALIBRATION.values(), ids=CALIBRATION)
every_volume = pytest.mark.parametrize("build", VOLUMES.values(), ids=VOLUMES)


def feed(metric, probs, target):
    cases, axes = probs.shape[0], probs.ndim - 2
    spacing = torch.tensor([1.0, 2.0, 4.0])[:axes].expand(cases, axes)
    metric.update(probs, target, spacing=spacing, index=torch.arange(cases))
    return metric


def value(build, probs, target, **kwargs):
    return feed(build(probs.shape[1], **kwargs), probs, target).compute()


def volume_value(build, probs, target):
    return value(build, probs, target, num_cases=len(probs))


def exact_case(*shape, classes=4):
    """Probabilities in sixty-fourths, exact in every floating type."""
    cuts = torch.randint(65, (shape[0], classes - 1, *shape[1:])).sort(1)[0]
    ends = torch.full_like(cuts[:, :1], 64)
    probs = torch.cat([cuts, ends], 1).diff(dim=1, prepend=torch.zeros_like(ends)) / 64
    return probs, torch.randint(classes, shape)


@every_calibration
def test_calibration_of_nothing_is_nan(build):
    probs, target = exact_case(1, 5, 6, 3)
    assert value(build, probs, torch.full_like(target, -100)).isnan()
    background = torch.zeros_like(target)
    assert value(build, probs, background, region="label").isnan()
    assert value(build, probs, background).isfinite()


@every_volume
def test_overlap_and_surface_of_nothing_are_nan(build):
    probs, target = exact_case(2, 5, 6, 3)
    target[0], target[1] = -100, 0
    found = volume_value(build, probs, target)
    assert found[0].isnan().all()
    assert found[1, 1:].isnan().all()


@pytest.mark.parametrize("shape", [(), (11,), (7, 5), (6, 5, 4)], ids=["none", "1d", "2d", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_label_maps_do_not_depend_on_the_size_of_a_slab(shape, dtype, monkeypatch):
    probs, target = exact_case(3, *shape)
    probs = probs.to(dtype).movedim(1, -1).contiguous().movedim(-1, 1)
    target[1] = -100
    found = []
    for size in (1, 6, 1 << 20):
        monkeypatch.setattr(pieces, "SLAB_VOXELS", size)
        found.append(DiceScore(4).label_maps(probs, target, None))
    expected = probs.argmax(1).masked_fill(target == -100, 4)
    for maps in found:
        assert [m.case for m in maps] == [0, 1, 2]
        assert torch.equal(torch.stack([m.predicted for m in maps]).long(), expected)
        labels = torch.stack([m.labeled for m in maps]).long()
        assert torch.equal(labels, target.masked_fill(target == -100, 4))


def test_one_voxel_on_paper():
    probs, target = torch.tensor([[0.25, 0.75]]).view(1, 2, 1, 1, 1), torch.ones(1, 1, 1, 1)
    expected = dict.fromkeys(CALIBRATION, 0.25) | {"brier": 0.125, "nll": -math.log(0.75)}
    for name, build in CALIBRATION.items():
        assert value(build, probs, target).item() == pytest.approx(expected[name], abs=1e-7), name
    hit = {name: volume_value(build, probs, target)[0, 1] for name, build in VOLUMES.items()}
    assert hit == {"dice": 1, "hd95": 0, "nsd": 1}
    missed = {name: volume_value(b, probs.flip(1), target)[0, 1] for name, b in VOLUMES.items()}
    assert missed == {"dice": 0, "hd95": pytest.approx(21**0.5), "nsd": 0}  # 1, 2, 4 mm


def test_a_missing_class_on_paper():
    # Class 2 is neither there nor predicted; class 1 is right with 0.5 of confidence.
    probs = torch.tensor([0.25, 0.5, 0.25]).view(1, 3, 1, 1).expand(1, 3, 4, 5)
    target = torch.ones(1, 4, 5, dtype=torch.long)
    gaps = {"0": 0.25, "1": 0.5, "2": 0.25}
    bins = feed(CalibrationHistogram(3), probs, target).bins()
    for name, gap in gaps.items():  # its own probability is what is wrong with a missing class
        assert estimate(bins, f"ece/{name}")[0] == gap
    assert value(ClasswiseCalibrationError, probs, target).item() == pytest.approx(1 / 3)
    assert value(CALIBRATION["tace"], probs, target).item() == pytest.approx(1 / 3)
    found = {name: volume_value(build, probs, target)[0] for name, build in VOLUMES.items()}
    assert {name: scores[1] for name, scores in found.items()} == {"dice": 1, "hd95": 0, "nsd": 1}
    assert all(scores[2].isnan() for scores in found.values())


@pytest.mark.parametrize("name", [*CALIBRATION, *VOLUMES])
def test_the_type_of_equal_probabilities_does_not_matter(name):
    probs, target = exact_case(2, 7, 8, 5)
    target[0, :2] = -100
    find = value if name in CALIBRATION else volume_value
    build = (CALIBRATION | VOLUMES)[name]
    wide = find(build, probs, target)
    # The logarithm alone is computed in the type of the probabilities, float32 or wider.
    close = {"rtol": 3e-7, "atol": 0} if name == "nll" else {"rtol": 0, "atol": 0}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        found = find(build, probs.to(dtype), target)
        torch.testing.assert_close(found, wide, equal_nan=True, **close)
    assert not wide.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_bins", [10, 15, 20, 60])
def test_every_edge_belongs_to_the_bin_below(n_bins, dtype):
    edges = torch.arange(n_bins + 1, dtype=dtype) / n_bins
    probs = torch.stack([1 - edges, edges], 1)
    bins = feed(CalibrationHistogram(2), probs, torch.zeros(len(edges))).bins()
    count, _, confidence = bins.table("all", n_bins)[:, 0, 2]
    assert count.tolist() == [2, *[1] * (n_bins - 1)]  # 0 joins the first, 1 the last
    np.testing.assert_allclose(confidence, edges[1:], atol=1e-7)
    fine = feed(FineHistogram(2), probs, torch.zeros(len(edges))).table("all")
    assert fine[0, 2].sum() == n_bins + 1
    assert fine[2, 2].sum() == pytest.approx((n_bins + 1) / 2, abs=1e-6)


@every_calibration
def test_certainty_is_perfect_or_worst(build):
    """All mass on one class: never wrong is 0, always wrong the worst there is."""
    probs = torch.tensor([1.0, 0.0]).expand(50, 2)
    assert value(build, probs, torch.zeros(50)).item() == pytest.approx(0, abs=1e-6)
    worst = {BrierScore: 2.0, NegativeLogLikelihood: -math.log(1e-12)}.get(build, 1.0)
    assert value(build, probs, torch.ones(50)).item() == pytest.approx(worst, rel=1e-6)


@every_calibration
def test_values_that_are_no_distribution_are_refused_and_change_nothing(build):
    probs = torch.tensor([0.25, 0.75]).repeat(40, 1)
    metric = feed(build(2), probs, torch.ones(40))
    before = metric.compute()
    for bad in ([math.nan, 0.5], [math.inf, 0.5], [1.25, -0.25], [0.5, 0.25]):
        probs[17] = torch.tensor(bad)
        for dtype in (torch.float16, torch.float32, torch.float64):
            with pytest.raises(ValueError, match=">= 0 and sum to 1"):
                feed(metric, probs.to(dtype), torch.ones(40))
    metric._computed = None
    assert torch.equal(metric.compute(), before)


@every_volume
def test_volumes_refuse_nan_and_labels_that_are_no_class_as_a_whole(build):
    probs, target = exact_case(2, 4, 4)
    wrong = probs.clone()
    wrong[1, 2, 3, 3] = math.nan
    metric = build(4, num_cases=2)
    with pytest.raises(ValueError, match="NaN"):
        feed(metric, wrong, target)
    for label in (4, -1, 0.5):
        bad = target.float()
        bad[1, 0, 0] = label
        with pytest.raises(ValueError, match="target must be"):
            feed(metric, probs, bad)
    assert all(getattr(metric, s).sum() == 0 for s in metric._defaults if s != "settings")
    with pytest.raises(ValueError, match="ignore_index must not be one of the classes"):
        build(4, num_cases=1, ignore_index=3)
