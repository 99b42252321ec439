"""Surface distances in mm on paper, against all pairs of surface voxels, and missing structures."""

import itertools

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_erosion
from torchmetrics import MetricCollection

from mbls.metrics import HausdorffDistance95, NormalizedSurfaceDice
from mbls.metrics.surfaces import Surfaces, surfaces_between


def cube(*sides, shape=(12, 10, 8)):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(a, b) for a, b in sides)] = True
    return mask


def hausdorff_95(one, other, spacing):
    return Surfaces(0.0, surfaces_between(one.numpy(), other.numpy(), spacing)).hausdorff_95()


def surface_dice(one, other, spacing, tolerance):
    return Surfaces(0.0, surfaces_between(one.numpy(), other.numpy(), spacing)).within(tolerance)


def probs_of(labels, classes=3):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def test_a_shift_on_paper_in_mm():
    one = cube((2, 6), (2, 6), (2, 6))
    other = cube((5, 9), (2, 6), (2, 6))
    assert hausdorff_95(one, other, (2.0, 1.0, 1.0)) == pytest.approx(6.0)
    assert hausdorff_95(one, other, (0.5, 1.0, 1.0)) == pytest.approx(1.5)
    assert hausdorff_95(one, one, (2.0, 1.0, 1.0)) == 0
    assert surface_dice(one, other, (2.0, 1.0, 1.0), 6.0) == 1
    assert 0 < surface_dice(one, other, (2.0, 1.0, 1.0), 1.0) < 1


def surface(mask):
    return np.argwhere(mask & ~binary_erosion(mask))


def test_against_all_pairs():
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool3d(torch.randn(2, 1, 14, 13, 9), 5, 1, 2)[:, 0]
    one, other = (smooth > 0.02).numpy()
    spacing = np.array([1.5, 1.25, 5.0])
    gaps = np.linalg.norm((surface(one)[:, None] - surface(other)[None]) * spacing, axis=-1)
    both = (gaps.min(1), gaps.min(0))
    expected = max(np.percentile(d, 95) for d in both)
    found = hausdorff_95(torch.from_numpy(one), torch.from_numpy(other), spacing)
    assert found == pytest.approx(expected, rel=1e-5)
    share = sum((d <= 2).sum() for d in both) / sum(len(d) for d in both)
    found = surface_dice(torch.from_numpy(one), torch.from_numpy(other), spacing, 2.0)
    assert found == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("shape", [(15, 13), (13, 12, 9)], ids=["2d", "3d"])
def test_boxes_shared_among_metrics_give_the_bits_of_monai_on_the_whole_volume(shape):
    coarse = torch.randn(3, 4, *(size // 3 + 1 for size in shape))
    smooth = torch.nn.functional.interpolate(coarse, shape)
    probs = (smooth * 5).softmax(1)
    target = (smooth + torch.randn_like(smooth) / 9).argmax(1)
    target[1][target[1] == 2] = 0
    probs[2, 3] = 0  # class 3 is missed in the last
    target[:, :2, :3] = -100
    unions = {"outer": (0, 3), "inner": (1, 2)}
    spacing, index = torch.tensor([[0.7, 1.3, 5.0][: len(shape)]] * 3), torch.arange(3)
    settings = {"unions": unions, "num_cases": 3}
    hd95, nsd = HausdorffDistance95(4, **settings), NormalizedSurfaceDice(4, **settings)
    measured = nsd.measure(probs, target, spacing=spacing, index=index)
    for metric in (hd95, nsd):
        metric.update(probs, target, measured=measured)
        alone = type(metric)(4, **settings)
        alone.update(probs, target, spacing=spacing, index=index)
        assert torch.equal(alone.values, metric.values)
    mm = {"spacing": spacing[0].tolist(), "include_background": True}
    seen = target != -100
    for n, (k, members) in itertools.product(
        range(3), enumerate([(1,), (2,), (3,), (0, 3), (1, 2)])
    ):
        chosen = torch.tensor(members)
        masks = [torch.isin(m[n], chosen) & seen[n] for m in (probs.argmax(1), target)]
        whole = [mask[None, None] for mask in masks]
        found = [float(metric.values[n, 1 + k]) for metric in (hd95, nsd)]
        if not masks[1].any():
            assert found == [-1, -1]
        elif not masks[0].any():
            assert found == [pytest.approx(np.linalg.norm(spacing[0] * torch.tensor(shape))), 0]
        else:
            distance = compute_hausdorff_distance(*whole, percentile=95, **mm)
            share = compute_surface_dice(*whole, class_thresholds=[2.0], **mm)
            assert found == [float(distance), float(share)]


def test_without_a_number_of_cases_the_mean_over_classes_is_one_number():
    probs, target = torch.rand(5, 3, 9, 8), torch.randint(3, (5, 9, 8))
    target[3][target[3] == 2] = 0
    spacing, index = torch.rand(5, 2) + 0.5, torch.arange(5)
    for build in (HausdorffDistance95, NormalizedSurfaceDice):
        apart, mean, turned = build(3, num_cases=5), build(3), build(3)
        apart.update(probs, target, spacing=spacing, index=index)
        mean.update(probs, target, spacing=spacing)
        for n in (4, 1, 0, 2, 3):
            turned.update(probs[[n]], target[[n]], spacing=spacing[[n]])
        expected = apart.compute()[:, 1:].nanmean(0).mean()
        torch.testing.assert_close(mean.compute(), expected, rtol=1e-8, atol=1e-8)
        assert torch.equal(mean.compute(), turned.compute())
        with pytest.warns(UserWarning, match="before"):
            assert build(3).compute().isnan()


def test_missed_invented_and_absent():
    target = torch.zeros(1, 6, 8, 4, dtype=torch.long)
    target[0, 1:3, 1:3, 1:3] = 1
    predicted = torch.zeros_like(target)
    predicted[0, 4:, 4:, 2:] = 2  # class 1 missed, class 2 invented
    spacing, index = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
    for metric, worst in (
        (HausdorffDistance95(3, num_cases=1), np.sqrt(6**2 + 16**2 + 12**2)),
        (NormalizedSurfaceDice(3, num_cases=1), 0),
    ):
        metric.update(probs_of(predicted), target, spacing=spacing, index=index)
        values = metric.compute()[0]
        assert values[1] == pytest.approx(worst)
        assert values[[0, 2]].isnan().all()


def test_unions_cases_and_ignored_voxels():
    target = torch.zeros(2, 9, 9, dtype=torch.long)
    target[:, 2:4, 2:7], target[:, 4:6, 2:7] = 1, 2
    predicted = target.clone()
    predicted[0, 2:4, 2:7] = 2  # wrong class, right union
    predicted[1, 8] = 1
    target[1, 7:] = -100
    metric = HausdorffDistance95(3, unions={"both": (1, 2)}, num_cases=2)
    for case in (1, 0):
        one = slice(case, case + 1)
        index, spacing = torch.tensor([case]), torch.ones(1, 2)
        metric.update(probs_of(predicted[one]), target[one], spacing=spacing, index=index)
    values = metric.compute()
    assert values[:, 3].tolist() == [0, 0]
    assert values[1, 1:3].tolist() == [0, 0]
    assert values[0, 1] == pytest.approx(np.sqrt(2 * 81))
    assert values[0, 2] == 2


@pytest.mark.parametrize("build", [HausdorffDistance95, NormalizedSurfaceDice])
def test_any_order_and_any_merge_of_shards_gives_the_same_bits(build):
    probs, target = torch.rand(5, 3, 7, 8), torch.randint(3, (5, 7, 8))
    target[3][target[3] == 2] = 0  # an absent structure
    spacing, index = torch.rand(5, 2) + 0.5, torch.arange(5)
    whole, *shards = (build(3, num_cases=5) for _ in range(4))
    whole.update(probs, target, spacing=spacing, index=index)
    for shard, rows in zip(shards, ([4], [2, 0], [3, 1]), strict=True):
        shard.update(probs[rows], target[rows], spacing=spacing[rows], index=index[rows])
    shards[1].merge_state(shards[2])
    shards[0].merge_state(shards[1])
    assert torch.equal(shards[0].values, whole.values)
    assert shards[0].scored.tolist() == [1] * 5
    assert whole.compute()[3, 2].isnan()
    whole.merge_state(shards[2])
    with pytest.raises(ValueError, match=r"scored once, got cases \[1, 3\]"):
        whole.scores()


def test_tolerances_stay_apart_in_a_collection():
    target = torch.zeros(1, 9, 9, dtype=torch.long)
    target[0, 3:6, 3:6] = 1
    same, shifted = probs_of(target, 2), probs_of(target.roll(2, 1), 2)
    metrics = {f"mm{t}": NormalizedSurfaceDice(2, tolerance=t, num_cases=2) for t in (0, 9)}
    collection = MetricCollection(metrics)
    for case, probs in enumerate((same, shifted)):  # equal in the first case
        index, spacing = torch.tensor([case]), torch.ones(1, 2)
        collection.update(probs, target, index=index, spacing=spacing)
    found = collection.compute()
    assert found["mm9"][:, 1].tolist() == [1, 1]
    assert found["mm0"][1, 1] < 1


def test_refused_calls():
    metric = HausdorffDistance95(2, num_cases=1)
    probs, target, index = torch.rand(1, 2, 4, 4), torch.zeros(1, 4, 4), torch.tensor([0])
    with pytest.raises(ValueError, match=r"pass spacing \(1, 2\) .*, got None"):
        metric.update(probs, target, index=index)
    for mm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive voxel sizes"):
            metric.update(probs, target, index=index, spacing=torch.full((1, 2), mm))
    twice = HausdorffDistance95(2, num_cases=1)
    two = probs.expand(2, -1, -1, -1), target.expand(2, -1, -1)
    with pytest.raises(ValueError, match="Case 0 was scored already"):
        twice.update(*two, index=torch.tensor([0, 0]), spacing=torch.ones(2, 2))
    assert twice.scored.sum() == 0
    metric.update(probs, target, index=index, spacing=torch.ones(1, 2))
    with pytest.raises(ValueError, match="Case 0 was scored already"):
        metric.update(probs, target, index=index, spacing=torch.ones(1, 2))
    with pytest.raises(ValueError, match=">= 0 mm"):
        NormalizedSurfaceDice(2, num_cases=1, tolerance=-1)
