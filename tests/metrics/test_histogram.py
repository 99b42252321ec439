"""The histogram on paper, equal sums for any order and batches, and refused values."""

import math
import threading

import numpy as np
import pytest
import torch

from mbls.metrics import CalibrationHistogram, FineHistogram, estimate
from mbls.metrics._kernel.counting import CellCounter
from tests.metrics import oracle

STATES = ("cells", "sums", "truth", "known")


def softmax_case(*shape, classes=4, scale=3.0, dtype=torch.float32):
    probs = (torch.randn(shape[0], classes, *shape[1:]) * scale).softmax(1).to(dtype)
    return probs, torch.randint(classes, shape)


def states(metric):
    return {name: getattr(metric, name).clone() for name in STATES}


def assert_same(one, other):
    for name in STATES:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_every_edge_belongs_to_the_bin_below_and_its_successor_to_the_next():
    edges = (torch.arange(61) / torch.tensor(60.0)).float()
    above = torch.nextafter(edges, torch.tensor(2.0))[:-1]
    below = torch.nextafter(edges, torch.tensor(-1.0))[1:]
    for values, cells in ((edges, range(61)), (above, range(1, 61)), (below, range(1, 61))):
        metric = CalibrationHistogram(2)
        metric.update(torch.stack([1 - values, values], 1), torch.zeros(len(values)))
        counted = metric.cells[0, 2, :, 0]
        assert counted.tolist() == np.bincount(list(cells), minlength=61).tolist()


def test_zero_one_and_the_smallest_number_on_paper():
    tiny = torch.finfo(torch.float32).smallest_normal
    probs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, tiny]])
    metric = CalibrationHistogram(2)
    metric.update(probs, torch.tensor([0, 0, 0]))
    top, zero, one = metric.cells[0]
    width = 2**30 - int(oracle.EDGES[59] * 2**30)
    assert top[60].tolist() == [3, 2, 3 * width]
    assert zero[0].tolist() == [1, 1, 0]  # p = 0 though the label is class 0
    assert zero[60].tolist() == [2, 2, 2 * width]
    assert one[0].tolist() == [1, 0, 0]
    assert one[1].tolist() == [1, 0, 0]
    assert one[60].tolist() == [1, 0, width]
    assert metric.cells[0, :, :, 0].sum(1).tolist() == [3, 3, 3]


def test_tiny_float64_probability_is_not_zero():
    probs = torch.tensor([[1.0, 1e-60]], dtype=torch.float64)
    metric = CalibrationHistogram(2)
    metric.update(probs, torch.tensor([0]))
    assert metric.cells[0, 2, :2, 0].tolist() == [0, 1]


def test_regions_on_paper():
    # background right, false foreground, foreground hit, foreground taken for another, missed
    predicted = [0, 1, 1, 2, 0]
    target = torch.tensor([0, 0, 1, 1, 2])
    probs = torch.full((5, 3), 0.1)
    probs[range(5), predicted] = 0.8
    metric = CalibrationHistogram(3)
    metric.update(probs, target)
    voxels, hits, _ = metric.cells[:, 0].sum(1).T
    assert voxels.tolist() == [5, 3, 4]
    assert hits.tolist() == [2, 1, 1]
    assert metric.sums[:, 0].tolist() == [5, 3, 4]


def test_floored_voxels_are_counted():
    probs = torch.tensor([[1.0, 0.0], [1.0, 1e-20], [0.25, 0.75]])
    metric = CalibrationHistogram(2)
    metric.update(probs, torch.tensor([1, 1, 0]))
    assert metric.sums[0, 3].item() == 2
    expected = (2 * -math.log(1e-12) + math.log(4)) / 3
    assert estimate(metric.bins(), "nll")[0] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("classes", [2, 5, 17])
def test_any_split_order_and_layout_gives_the_same_bits(classes):
    probs, target = softmax_case(6, 37, 41, 3, classes=classes)
    target[torch.rand(target.shape) < 0.1] = -100
    posterior = torch.rand_like(probs).softmax(1)
    whole = CalibrationHistogram(classes)
    whole.update(probs, target, posterior=posterior)
    for order, cuts in (([5, 3, 1, 0, 2, 4], [6]), ([0, 1, 2, 3, 4, 5], [1, 2, 3])):
        other = CalibrationHistogram(classes)
        parts = (t[order].split(cuts) for t in (probs, target, posterior))
        for p, y, q in zip(*parts, strict=True):
            other.update(p, y, posterior=q)
        assert_same(whole, other)
    by_voxel = CalibrationHistogram(classes)
    flat = [t.movedim(1, -1).flatten(0, -2) for t in (probs, posterior)]
    mixed = torch.randperm(flat[0].shape[0])
    by_voxel.update(flat[0][mixed], target.flatten()[mixed], posterior=flat[1][mixed])
    assert_same(whole, by_voxel)
    permuted = CalibrationHistogram(classes)
    channels_last = [t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (probs, posterior)]
    permuted.update(channels_last[0], target, posterior=channels_last[1])
    assert_same(whole, permuted)


def test_cases_kept_apart_sum_to_the_pooled_histogram():
    probs, target = softmax_case(5, 60, 70)
    pooled = CalibrationHistogram(4)
    pooled.update(probs, target)
    apart = CalibrationHistogram(4, num_cases=5)
    apart.update(probs[:2], target[:2], index=torch.tensor([4, 1]))
    apart.update(probs[2:], target[2:], index=torch.tensor([0, 2, 3]))
    assert torch.equal(apart.cells.sum(0), pooled.cells)
    assert torch.equal(apart.sums.sum(0), pooled.sums)
    alone = CalibrationHistogram(4)
    alone.update(probs[:1], target[:1])
    assert torch.equal(apart.cells[4], alone.cells)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_inputs_are_not_changed(dtype):
    probs, target = softmax_case(2, 9, 9, dtype=dtype)
    target = target.float()
    target[0, 0] = -100
    copies = probs.clone(), target.clone()
    metric = CalibrationHistogram(4, unions={"u": (1, 2)})
    metric.update(probs, target, posterior=probs)
    fine = FineHistogram(4)
    fine.update(probs, target)
    assert torch.equal(probs, copies[0])
    assert torch.equal(target, copies[1])


@pytest.fixture
def threads():
    """Give torch so many threads, until the test's end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.enable_grad])
def test_threads_do_not_matter(threads, context):
    results = []
    with context():
        probs, target = softmax_case(1, 400, 400)
    for number in (1, 2, 3):
        threads(number)
        with context():
            metric = CalibrationHistogram(4, regions=("all", "label", "boundary"), boundary_mm=2.0)
            metric.update(probs, target, spacing=torch.ones(1, 2), posterior=probs)
        results.append(metric)
        assert torch.get_num_threads() == number
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    assert torch.equal(results[0].truth, results[2].truth)


def test_a_thread_counts_its_pieces_by_itself(threads, monkeypatch):
    """Threads that share every operation wait for each other where a processor is shared."""
    seen = []
    barrier = threading.Barrier(2)  # so that one thread cannot take all pieces
    add = CellCounter.add

    def noted(counter, *piece):
        if threading.get_ident() not in dict(seen):
            seen.append((threading.get_ident(), torch.get_num_threads()))
            barrier.wait(10)
        add(counter, *piece)

    monkeypatch.setattr(CellCounter, "add", noted)
    threads(2)
    CalibrationHistogram(4).update(*softmax_case(1, 300, 300))
    assert [number for _, number in seen] == [1, 1]


def test_a_refused_piece_is_refused_by_any_number_of_threads(threads):
    probs, target = softmax_case(1, 300, 300)
    target[0, 299, 299] = 9
    threads(2)
    metric = CalibrationHistogram(4)
    with pytest.raises(ValueError, match="labels from 0 to 9"):
        metric.update(probs, target)
    assert not metric.cells.any()
    assert torch.get_num_threads() == 2


def test_under_inference_mode_and_with_gradients():
    results = []
    for context in (torch.inference_mode, torch.enable_grad):
        with context():
            torch.manual_seed(1)
            logits = torch.randn(1, 4, 300, 300, requires_grad=context is torch.enable_grad)
            metric = CalibrationHistogram(4)
            metric.update(logits.softmax(1), torch.randint(4, (1, 300, 300)))
            results.append(metric)
    assert_same(*results)
    assert not results[1].cells.requires_grad


def test_target_may_have_a_channel_and_be_float():
    probs, target = softmax_case(2, 9, 9)
    one, other = CalibrationHistogram(4), CalibrationHistogram(4)
    one.update(probs, target)
    other.update(probs, target[:, None].float())
    assert_same(one, other)
    small = CalibrationHistogram(4)
    small.update(probs, target.to(torch.uint8))
    assert_same(one, small)


def refused(change):
    probs, target = softmax_case(2, 5, 5)
    change(probs, target)
    return probs, target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y: p[0, 0, 0].fill_(math.nan), "sum off by nan"),
        (lambda p, y: p[1, :, 2, 2].copy_(torch.tensor([1.2, -0.2, 0, 0])), "smallest value of -0"),
        (lambda p, y: p[0, 1].mul_(1.01), "sum to 1 over the classes"),
        (lambda p, y: p.fill_(math.inf), "sum off by inf"),
        (lambda p, y: y[0, 0].fill_(4), "got labels from 0 to 4"),
        (lambda p, y: y[0, 0].fill_(-1), "got labels from -1 to 3"),
    ],
)
def test_refused_values_change_nothing(change, message):
    metric = CalibrationHistogram(4)
    metric.update(*softmax_case(1, 5, 5))
    before = states(metric)
    with pytest.raises(ValueError, match=message):
        metric.update(*refused(change))
    for name, value in before.items():
        assert torch.equal(getattr(metric, name), value)


def test_refused_shapes_dtypes_and_settings():
    probs, target = softmax_case(2, 5, 5)
    metric = CalibrationHistogram(4, num_cases=3)
    with pytest.raises(ValueError, match=r"index is required .* the \(N,\) number"):
        metric.update(probs, target)
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.2, got \[0, 3\]"):
        metric.update(probs, target, index=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"one case for each of 2 entries, got \[0\]"):
        metric.update(probs, target, index=torch.tensor([0]))
    pooled = CalibrationHistogram(4)
    with pytest.raises(ValueError, match=r"probs must be \(N, 4, \*S\)"):
        pooled.update(probs[:, :3], target)
    with pytest.raises(ValueError, match=r"target must be \(2, 5, 5\)"):
        pooled.update(probs, target[:, :4])
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        pooled.update(target[:, None].expand(2, 4, 5, 5), target)
    with pytest.raises(TypeError, match=r"torch.bool; convert it with .long\(\)"):
        pooled.update(probs, target > 1)
    with pytest.raises(ValueError, match=r"off by 0\.5"):
        pooled.update(probs, target + 0.5)
    with pytest.raises(ValueError, match="sum to 1"):  # the tolerance belongs to the dtype
        pooled.update(probs.bfloat16().double(), target)
    with pytest.raises(ValueError, match="posterior must have the shape"):
        pooled.update(probs, target, posterior=probs[:, :3])
    with pytest.raises(ValueError, match="num_classes must be >= 2"):
        CalibrationHistogram(1)
    with pytest.raises(ValueError, match=r"must consist of classes 0\.\.3"):
        CalibrationHistogram(4, unions={"x": (1, 4)})
    with pytest.raises(ValueError, match="classes once"):
        CalibrationHistogram(4, unions={"x": ()})
    with pytest.raises(ValueError, match="regions must be among"):
        CalibrationHistogram(4, regions=("all", "edge"))
    with pytest.raises(ValueError, match="num_cases must be >= 1"):
        CalibrationHistogram(4, num_cases=0)
    with pytest.raises(ValueError, match="ignore_index must not be one of the classes"):
        CalibrationHistogram(4, ignore_index=0)


def test_overflow_is_an_error_and_not_a_wrap():
    metric = CalibrationHistogram(2)
    metric.update(torch.tensor([[0.25, 0.75]]), torch.tensor([1]))
    metric.sums[0, 2] = (1 << 62) - 1
    before = states(metric)
    with pytest.raises(OverflowError, match="use num_cases"):
        metric.update(torch.tensor([[0.25, 0.75]]), torch.tensor([0]))
    assert torch.equal(metric.sums, before["sums"])


def test_true_error_of_an_overconfident_voxel_on_paper():
    # 2 classes, posterior (0.3, 0.7), prediction (0.1, 0.9); the drawn label does not matter.
    probs = torch.tensor([[0.1, 0.9]]).expand(10, 2)
    posterior = torch.tensor([[0.3, 0.7]]).expand(10, 2)
    metric = CalibrationHistogram(2)
    metric.update(probs, torch.tensor([0, 1] * 5), posterior=posterior)
    bins = metric.bins()
    assert estimate(bins, "true_ece")[0] == pytest.approx(0.2, abs=1e-7)
    assert estimate(bins, "true_signed")[0] == pytest.approx(0.2, abs=1e-7)
    assert estimate(bins, "ece")[0] == pytest.approx(0.4, abs=1e-7)
    # Given a foreground label the label is certain: every voxel hits.
    assert estimate(bins, "true_ece", region="label")[0] == pytest.approx(0.1, abs=1e-7)
    # All predicted as foreground, so the union is everything.
    assert estimate(bins, "true_ece", region="union")[0] == pytest.approx(0.2, abs=1e-7)


@pytest.mark.parametrize("region", ["all", "label", "union"])
def test_truth_is_the_mean_over_drawn_labels(region):
    posterior = (torch.randn(1, 3, 30, 30) * 1.5).softmax(1)
    probs = (posterior.log() * 1.5 + torch.randn_like(posterior) * 0.5).softmax(1)
    draws = torch.distributions.Categorical(posterior.movedim(1, -1)).sample((400,))
    drawn, once = CalibrationHistogram(3), CalibrationHistogram(3)
    drawn.update(probs.expand(400, -1, -1, -1), draws[:, 0])
    once.update(probs, draws[0], posterior=posterior)
    measured = drawn.bins().table(region, 5) / 400
    expected = once.bins().table(region, 5, against="posterior")
    # 900 voxels, 400 draws: a bin's mean count is off by at most sqrt(n/4/400), 5 sigma < 4.
    np.testing.assert_allclose(measured, expected, atol=4)
    assert np.abs(measured - expected).max() > 0


def test_without_posterior_there_is_no_truth():
    metric = CalibrationHistogram(4)
    metric.update(*softmax_case(1, 5))
    with pytest.raises(ValueError, match="needs a posterior"):
        estimate(metric.bins(), "true_ece")
