"""The fine grid and its metrics, against single voxels and published values."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.metrics import (
    AdaptiveCalibrationError,
    FineHistogram,
    SmoothCalibrationError,
    adaptive_error,
    smooth_error,
    smoothed_error,
    thresholded_error,
)
from mbls.metrics.adaptive import equal_mass_bins
from mbls.metrics.fine import FINE_CELLS, fine_cells
from tests.metrics import as_coded
from tests.metrics.answers import Case

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "metrics_extra.npz")


def overconfident(voxels=40_000, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(voxels, classes, generator=generator) * 2
    target = torch.distributions.Categorical(logits=logits).sample()
    return (logits * 1.5).softmax(1), target


def table_of(confidence, hits):
    """A table with one cell a voxel, ordered: the limit of a grid without width."""
    order = np.argsort(confidence, kind="stable")
    return np.stack([np.ones(len(order)), hits[order], confidence[order]])


def test_cells_are_ordered_narrow_and_cover_everything():
    probs = torch.cat([torch.linspace(0, 1, 100_001), torch.logspace(-44, -1, 1000)]).sort()[0]
    cells = fine_cells(probs)
    assert cells[0] == 0
    assert cells[-1] == FINE_CELLS - 1
    assert (cells.diff() >= 0).all()
    for cell in (1, 700, 2048, 4000):
        inside = probs[cells == cell]
        if len(inside):
            assert inside.max() - inside.min() <= 0.0025
    assert fine_cells(torch.tensor([0.5])).item() == FINE_CELLS // 2


def test_threads_do_not_matter():
    probs, target = overconfident(100_000)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(FineHistogram(3))
            found[-1].update(probs, target)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].cells, found[1].cells)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_those_of_the_voxels_for_any_split(dtype):
    probs, target = overconfident(3000)
    probs = probs.to(dtype)
    target[::7] = -100
    whole, parts = (FineHistogram(3, unions={"u": (1, 2)}) for _ in range(2))
    whole.update(probs, target)
    for order in torch.randperm(3000).split(700):
        parts.update(probs[order], target[order])
    assert torch.equal(whole.cells, parts.cells)
    predicted = probs.argmax(1)
    both = probs[:, 1] + probs[:, 2]
    for region, mask in {
        "all": target >= 0,
        "label": target > 0,
        "union": (target >= 0) & ((target > 0) | (predicted > 0)),
    }.items():
        count, hits, confidence = whole.table(region).sum(-1)
        assert (count == mask.sum().item()).all()
        expected = [(predicted == target), *[target == k for k in range(3)], target > 0]
        assert hits.tolist() == [(e & mask).sum().item() for e in expected]
        summed = [probs.amax(1), *probs.T, both]
        np.testing.assert_allclose(
            confidence, [s.double()[mask].sum() for s in summed], atol=3000 * 2**-31
        )


def test_equal_mass_on_paper():
    table = np.array([[1.0, 3.0], [0.0, 3.0], [0.1, 2.4]])
    expected = [[2, 2], [1, 3 - 1], [0.1 + 0.8, 1.6]]
    np.testing.assert_allclose(equal_mass_bins(table, 2), expected)
    one = equal_mass_bins(np.array([[9.0], [3.0], [9.0]]), 3)  # saturated: hits shared out evenly
    np.testing.assert_allclose(one, [[3, 3, 3], [1, 1, 1], [3, 3, 3]])


def cells_of(confidence, hits):
    probs = torch.from_numpy(np.stack([1 - confidence, confidence], 1))
    histogram = FineHistogram(2, regions=("all",))
    histogram.update(probs, torch.from_numpy(hits).long())
    return histogram.table("all")[:, 2]


def uncertainty(confidence, n_bins):
    """The stated bound: half the share of voxels, and a little, in cells that an edge cuts."""
    size = np.bincount(fine_cells(torch.from_numpy(confidence)).numpy(), minlength=FINE_CELLS)
    ends = np.cumsum(size)
    ranks = len(confidence) * np.arange(1, n_bins)[:, None] / n_bins
    cut = ((ends - size < ranks) & (ranks < ends)).any(0)
    return (1 + 0.0025) / 2 * size[cut].sum() / len(confidence)


@pytest.mark.parametrize("ties", ["none", "rounded", "saturated"])
@pytest.mark.parametrize("voxels", [30, 600, 30_000])
def test_equal_mass_error_is_within_its_bound_of_sorted_voxels_in_any_order_of_ties(ties, voxels):
    rng = np.random.default_rng(voxels)
    confidence = rng.beta(4, 1, voxels)
    if ties == "rounded":
        confidence = np.round(confidence, 2)
    if ties == "saturated":
        confidence[: voxels * 3 // 4] = 1.0
    hits = (rng.random(voxels) < confidence**2).astype(float)
    ours, bound = adaptive_error(cells_of(confidence, hits)), uncertainty(confidence, 15)
    for worst in (np.zeros(voxels), hits, -hits):  # as it comes, misses first, hits first
        order = np.lexsort((worst, confidence))
        gaps = [abs((hits - confidence)[part].sum()) for part in np.array_split(order, 15)]
        assert abs(ours - sum(gaps) / voxels) <= bound + 1e-8
    assert 0 < ours < 1


@pytest.mark.parametrize(
    "cuts",
    [
        as_coded.interpolated_cuts,
        as_coded.halfway_cuts,
        as_coded.rounded_cuts,
        as_coded.stepped_cuts,
    ],
)
@pytest.mark.parametrize("name", ["debiased_ce_b10", "debiased_ce_b15", "calibration_vol1_all_b15"])
def test_equal_mass_error_is_within_its_bound_of_the_published(cuts, name):
    case = Case(name)
    n_bins, voxels = case.n_bins, len(case.top[0])
    histogram = FineHistogram(case.probs.shape[1], regions=("all",))
    histogram.update(case.probs, case.target)
    fair = voxels * np.arange(1, n_bins) / n_bins
    for channel, (confidence, hits) in enumerate([case.top, *case.classes]):
        table = as_coded.table(cuts(confidence, n_bins), confidence, hits, n_bins)
        # A voxel on the other side of an edge changes two bins by at most one each.
        ends = voxels - np.cumsum(table[0][::-1])[::-1]
        moved = 2 * (np.abs(ends[1:] - fair).sum() + ends[0]) / voxels
        published = as_coded.l1_error(*table, total=voxels)
        ours = adaptive_error(histogram.table("all")[:, channel], n_bins=n_bins)
        assert abs(ours - published) <= uncertainty(confidence, n_bins) + moved + 1e-8


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("width", [0.01, 0.03, 0.08, 0.3])
def test_smooth_error_is_within_its_bound_of_the_integral(case, width):
    confidence, hits = GOLDEN[f"smece_f_{case}"], GOLDEN[f"smece_y_{case}"]
    points = (np.arange(4000) + 0.5) / 4000
    kernel = sum(
        np.exp(-np.square(points[:, None] - image) / (2 * width**2))
        for shift in (-2, 0, 2)
        for image in (confidence + shift, shift - confidence)
    ) / (width * np.sqrt(2 * np.pi))
    direct = np.abs((kernel * (confidence - hits)).mean(1)).mean()
    exact = table_of(confidence, hits)
    assert smoothed_error(exact, width) == pytest.approx(direct, rel=2e-4)
    bound = 0.002 / width * np.abs(confidence - hits).mean()
    cells = cells_of(confidence, hits)
    assert smoothed_error(cells, width) == pytest.approx(direct, rel=2e-4, abs=bound)
    value = smooth_error(cells)
    assert smoothed_error(cells, value) == pytest.approx(value, abs=1e-6)
    bound = 0.002 / value * np.abs(confidence - hits).mean()
    assert smooth_error(exact) == pytest.approx(value, rel=1e-6, abs=bound)


def test_scalars_and_limits():
    for empty in (SmoothCalibrationError(2), AdaptiveCalibrationError(2)):
        empty.update(torch.tensor([[0.1, 0.9]]), torch.tensor([-100]))
        assert np.isnan(empty.compute().item())
    metric = SmoothCalibrationError(2)  # one residual of 0.9, whose kernel has integral one
    metric.update(torch.tensor([[0.1, 0.9]]).expand(1000, 2), torch.zeros(1000))
    assert metric.compute().item() == pytest.approx(0.9, abs=1e-6)
    assert np.isnan(thresholded_error(np.zeros((3, 2, 5))))
    with pytest.raises(ValueError, match="threshold must be in"):
        AdaptiveCalibrationError(2, threshold=1.0)
    with pytest.raises(ValueError, match="ignore_index must not be one of the classes"):
        FineHistogram(2, ignore_index=1)
    with pytest.raises(ValueError, match="regions must be among"):
        FineHistogram(2, regions=("boundary",))
    with pytest.raises(ValueError, match=r"those counted, \('all',\), got 'label'"):
        FineHistogram(2, regions=("all",)).table("label")


def test_refused_values_change_nothing():
    metric = FineHistogram(2)
    for bad in (torch.tensor([[torch.nan, 1.0]]), torch.tensor([[0.9, 0.9]])):
        with pytest.raises(ValueError, match="sum to 1"):
            metric.update(bad, torch.tensor([0]))
    with pytest.raises(ValueError, match="labels from 2 to 2"):
        metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([2]))
    assert metric.cells.sum() == 0
