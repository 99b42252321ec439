"""Where a loss must equal another one, or a number worked out by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss as MonaiDice
from monai.losses import NACLLoss

from mbls.losses import (
    AccuracyConfidenceLoss,
    AdaptiveConditionalSmoothingLoss,
    AdaptiveFocalLoss,
    BinnedCalibrationLoss,
    ClasswiseMeanCalibrationLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceCrossEntropyLoss,
    DiceLoss,
    DicePlusPlusLoss,
    EntropyPenaltyLoss,
    FocalCalibrationLoss,
    FocalLoss,
    FocalTverskyPlusPlusLoss,
    KernelCalibrationLoss,
    MarginLoss,
    NeighborAwareLoss,
    PairwiseConstraintLoss,
    SpatialLabelSmoothingLoss,
    TverskyPlusPlusLoss,
    UnifiedFocalPlusPlusLoss,
    UniformPenaltyLoss,
    kernel_calibration_error,
    neighbor_proportions,
    weighted_kernel_error,
)
from mbls.losses.ace import hard_bins

PENALTIES = [
    lambda **k: MarginLoss(0.5, **k),
    lambda **k: EntropyPenaltyLoss(**k),
    lambda **k: UniformPenaltyLoss(**k),
    lambda **k: NeighborAwareLoss(**k),
    lambda **k: KernelCalibrationLoss(**k),
    lambda **k: AdaptiveConditionalSmoothingLoss(margin=0.5, **k),
]


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(2, 4, 5, 6, dtype=torch.float64)


@pytest.fixture
def target() -> torch.Tensor:
    labels = torch.randint(4, (2, 5, 6))
    labels[0, 0, :4] = torch.arange(4)
    return labels


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("base", [None, DiceCrossEntropyLoss()], ids=["ce", "ce_dice"])
def test_alpha_zero_is_the_base(penalty, base, logits, target) -> None:
    expected = (base or CrossEntropyLoss())(logits, target)
    torch.testing.assert_close(penalty(alpha=0.0, base=base)(logits, target), expected)
    assert penalty(alpha=0.3, base=base)(logits, target) != expected


def test_factors_of_zero_are_the_base(logits, target) -> None:
    ce = CrossEntropyLoss()(logits, target)
    for loss in (
        ClasswiseMeanCalibrationLoss(0.0),
        AccuracyConfidenceLoss(0.0),
        PairwiseConstraintLoss(0.0, exclusion=0.0),
        CrossEntropyLoss(0.0),
        FocalLoss(0.0),
        FocalCalibrationLoss(0.0, alpha=0.0),
        CompoundLoss({"ce": (1.0, CrossEntropyLoss()), "none": (0.0, DiceLoss())}),
        SpatialLabelSmoothingLoss(kernel_size=1),
    ):
        torch.testing.assert_close(loss(logits, target), ce)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_margin_beyond_every_distance_is_the_base(norm, logits, target) -> None:
    loss = MarginLoss(1000.0, alpha=0.5, norm=norm)
    assert loss.terms(logits, target)["margin"] == 0
    torch.testing.assert_close(loss(logits, target), CrossEntropyLoss()(logits, target))
    loss = AdaptiveConditionalSmoothingLoss(0.5, margin=1000.0)
    torch.testing.assert_close(loss(logits, target), CrossEntropyLoss()(logits, target))


def test_margin_zero_is_the_mean_distance(logits, target) -> None:
    distance = logits.max(dim=1, keepdim=True).values - logits
    terms = MarginLoss(0.0, alpha=0.5).terms(logits, target)
    torch.testing.assert_close(terms["margin"], 0.5 * distance.mean())
    terms = MarginLoss(0.0, alpha=0.5, norm="l2").terms(logits, target)
    torch.testing.assert_close(terms["margin"], 0.5 * distance.square().mean())


def test_margin_worked_out_by_hand() -> None:
    """Distances 0, 5, 12 against a margin of 5: hinges 0, 0, 7, squares 0, 0, 49, over 3."""
    z, y = torch.tensor([[9.0, 4.0, -3.0]]), torch.tensor([0])
    assert MarginLoss(5.0, alpha=3.0).terms(z, y)["margin"].item() == pytest.approx(7)
    assert MarginLoss(5.0, alpha=3.0, norm="l2").terms(z, y)["margin"].item() == pytest.approx(49)


def test_label_smoothing_equals_pytorch(logits, target) -> None:
    target[1, 2:4] = -100
    expected = F.cross_entropy(logits, target, label_smoothing=0.2)
    torch.testing.assert_close(CrossEntropyLoss(0.2)(logits, target), expected)
    loss = CrossEntropyLoss(label_smoothing=0.2)
    torch.testing.assert_close(loss(logits, target), expected)


def test_adaptive_focal_is_focal_where_the_exponents_agree(logits, target) -> None:
    confident = logits + 9 * F.one_hot(target, 4).movedim(-1, 1)  # p_y >= 0.5 nearly everywhere
    keep = confident.softmax(1).gather(1, target[:, None])[:, 0] >= 0.5
    labels = target.masked_fill(~keep, -100)
    torch.testing.assert_close(
        AdaptiveFocalLoss(2.0)(confident, labels), FocalLoss(2.0)(confident, labels)
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_nacl_with_monais_border_is_monais(dims, kernel, distance) -> None:
    logits = torch.randn(2, 3, *(6, 7, 8)[:dims], requires_grad=True)
    target = torch.randint(3, (2, *logits.shape[2:]))
    theirs = NACLLoss(3, dims, kernel_ops=kernel, distance_type=distance, alpha=0.3, sigma=0.8)
    ours = NeighborAwareLoss(0.3, kernel=kernel, distance=distance, sigma=0.8, border="monai")
    values = [loss(logits, target) for loss in (ours, theirs)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits) for value in values))


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("squared", [True, False])
def test_dice_is_monais(background, squared, logits, target) -> None:
    theirs = MonaiDice(
        include_background=background, softmax=True, to_onehot_y=True, squared_pred=squared
    )
    ours = DiceLoss(background, squared=squared)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target[:, None]), rtol=1e-5,
                               atol=0)  # fmt: skip


def test_plus_plus_with_gamma_one_is_dice_and_tversky(logits, target) -> None:
    dice = DiceLoss(smooth_nr=1e-7, smooth_dr=1e-7)(logits, target)
    torch.testing.assert_close(DicePlusPlusLoss(1.0)(logits, target), dice)
    half = TverskyPlusPlusLoss(1.0, delta=0.5)(logits, target)
    dice = DiceLoss(smooth_nr=2e-7, smooth_dr=2e-7)(logits, target)
    torch.testing.assert_close(half, dice)
    focal = FocalTverskyPlusPlusLoss(2.0, delta=0.3, focal=1.0)
    torch.testing.assert_close(
        focal(logits, target), TverskyPlusPlusLoss(2.0, delta=0.3)(logits, target)
    )


def test_a_perfect_prediction_costs_nothing() -> None:
    target = torch.tensor([[[0, 0, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]])  # class 1 absent once
    logits = 200.0 * F.one_hot(target, 2).movedim(-1, 1)
    for loss in (
        DiceLoss(),
        DicePlusPlusLoss(1.0),
        DicePlusPlusLoss(),
        TverskyPlusPlusLoss(),
        FocalTverskyPlusPlusLoss(),
        UnifiedFocalPlusPlusLoss(),
        BinnedCalibrationLoss("hard"),
        BinnedCalibrationLoss("soft"),
        FocalLoss(0.5),
        ClasswiseMeanCalibrationLoss(base=CrossEntropyLoss()),
        AccuracyConfidenceLoss(),
    ):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6), loss
        assert leaf.grad.isfinite().all(), loss


def test_unified_focal_is_for_two_classes() -> None:
    message = "num_classes must be 2, got 4"
    with pytest.raises(ValueError, match=message):
        UnifiedFocalPlusPlusLoss().bind(4)
    with pytest.raises(ValueError, match=message):
        CompoundLoss({"u": (1.0, UnifiedFocalPlusPlusLoss())}).bind(4)
    with pytest.raises(ValueError, match=message):
        UnifiedFocalPlusPlusLoss()(torch.zeros(1, 4, 3), torch.zeros(1, 3))


def test_pairwise_constraints_by_hand() -> None:
    """Label 0, logits 2, 0, 1: pairs (0,1) and (0,2), and (1,2) both ways plus the diagonal."""
    z, y = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    terms = PairwiseConstraintLoss(1.0, exclusion=1.0).terms(z, y)
    soft = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    assert terms["discrimination"].item() == pytest.approx((soft(2) + soft(1)) / 2)
    pairs = soft(1) + soft(-1) + 2 * math.log(2)
    assert terms["exclusion"].item() == pytest.approx(0.5 * pairs / 2)
    two = PairwiseConstraintLoss().terms(torch.zeros(1, 2), y)
    assert two["exclusion"] == 0


def test_mmce_by_hand() -> None:
    """Confidences 0.75 (right) and 0.5 (tie, first wins, wrong): e = 0.25, -0.5."""
    z = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    value = KernelCalibrationLoss().terms(z, torch.tensor([0, 1]))["mmce"]
    kernel = math.exp(-0.25 / 0.4)
    expected = (0.25**2 + 0.5**2 - 2 * 0.25 * 0.5 * kernel) / 4
    assert value.item() == pytest.approx(expected)


def test_mmce_is_the_sum_over_the_matrix_of_pairs() -> None:
    r = torch.rand(50, dtype=torch.float64, requires_grad=True)
    c, w = (torch.rand(50) < 0.6).double(), (torch.rand(50) < 0.8).double()
    kernel = (-(r[:, None] - r[None]).abs() / 0.4).exp()
    error = w * (c - r)
    expected = (error[:, None] * error[None] * kernel).sum() / w.sum() ** 2
    value = kernel_calibration_error(r, c, w)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, r) for v in (value, expected)))


def test_weighted_mmce_by_hand_and_where_one_kind_is_missing() -> None:
    r, c = torch.tensor([0.75, 0.5, 0.6]), torch.tensor([1.0, 0.0, 0.0])
    k = lambda a, b: math.exp(-abs(a - b) / 0.4)  # noqa: E731
    wrong = (0.25 + 0.36 + 2 * 0.5 * 0.6 * k(0.5, 0.6)) / 4
    mixed = 0.25 * (0.5 * k(0.75, 0.5) + 0.6 * k(0.75, 0.6)) / 2
    expected = math.sqrt(0.25**2 + wrong - 2 * mixed)
    value = weighted_kernel_error(r, c, torch.ones(3))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    leaf = r.clone().requires_grad_()
    value = weighted_kernel_error(leaf, torch.ones(3), torch.ones(3))
    value.backward()
    assert value == 0
    assert (leaf.grad == 0).all()


def test_mmce_draws_labeled_voxels_only() -> None:
    """1000 ignored voxels and 8 labeled ones: a draw of 8 is those 8, so nothing is random."""
    z, y = torch.randn(1, 3, 1008), torch.full((1, 1008), -100)
    places = torch.randperm(1008)[:8]
    y[0, places] = torch.randint(3, (8,))
    few = KernelCalibrationLoss(max_samples=8).terms(z, y)["mmce"]
    exact = KernelCalibrationLoss().terms(z[..., places], y[..., places])["mmce"]
    torch.testing.assert_close(few, exact)


def test_mmce_of_a_draw_is_near_that_of_all() -> None:
    z, y = 2 * torch.randn(1, 3, 4000), torch.randint(3, (1, 4000))
    every = KernelCalibrationLoss().terms(z, y)["mmce"].item()
    drawn = KernelCalibrationLoss(max_samples=1000).terms(z, y)["mmce"].item()
    assert drawn == pytest.approx(every, rel=0.2)
    assert drawn != every


def slow_ace(p: list[float], q: list[int], n_bins: int, soft: bool) -> float:
    """One image and class, voxel by voxel."""
    weight, conf, hits = ([0.0] * n_bins for _ in range(3))
    top = 1 + 2**-23
    for value, hit in zip(p, q, strict=True):
        if not soft:
            shares = {next(b for b in range(n_bins) if value <= (b + 1) * top / n_bins): 1.0}
        else:
            place = value / top * n_bins - 0.5
            low = min(max(math.floor(place), 0), n_bins - 2)
            up = min(max(place - low, 0.0), 1.0)
            shares = {low: 1 - up, low + 1: up}
        for b, share in shares.items():
            weight[b] += share
            conf[b] += share * value
            hits[b] += share * hit
    bins = [b for b in range(n_bins) if weight[b] >= (0.01 if soft else 1)]
    return sum(abs(conf[b] - hits[b]) / weight[b] for b in bins) / len(bins)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_bins", [2, 7, 20])
def test_binned_calibration_against_a_voxel_loop(soft, n_bins, logits, target) -> None:
    target[1, 3] = -100
    loss = BinnedCalibrationLoss("soft" if soft else "hard", n_bins=n_bins)
    probs, errors = logits.softmax(1), []
    for n in range(2):
        keep = target[n] != -100
        for k in range(4):
            p, q = probs[n, k][keep].tolist(), (target[n][keep] == k).int().tolist()
            errors.append(slow_ace(p, q, n_bins, soft) if any(q) else 0.0)
    assert loss(logits, target).item() == pytest.approx(sum(errors) / 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_bins_at_their_edges(dtype) -> None:
    """A value on an edge joins the bin below, the next larger one the bin above."""
    edges = torch.linspace(0, 1 + 2**-23, 21, dtype=dtype)
    inner = edges[1:-1]
    probs = torch.cat(
        (edges[:1], inner, inner.nextafter(torch.ones_like(inner)), edges.new_ones(1))
    )
    ones = torch.ones(1, len(probs), dtype=dtype)
    count, _ = hard_bins(probs[None], 0 * ones, ones, 20)
    assert count.tolist() == [[2.0] * 20]


def slow_shares(labels: torch.Tensor, num_classes: int, radius: int, kernel: str) -> torch.Tensor:
    """Every voxel's window, voxel by voxel; the border is repeated, ignored voxels leave."""
    steps = list(itertools.product(range(-radius, radius + 1), repeat=labels.ndim))
    weights = dict.fromkeys(steps, 1.0)
    if kernel == "gaussian":
        weights = {step: math.exp(-sum(s * s for s in step) / 2) for step in steps}
        weights[(0,) * labels.ndim] = sum(weights.values()) - 1
    shares = torch.zeros(num_classes, *labels.shape)
    for place in itertools.product(*map(range, labels.shape)):
        total = 0.0
        for step, weight in weights.items():
            near = zip(place, step, labels.shape, strict=True)
            label = int(labels[tuple(min(max(i + s, 0), size - 1) for i, s, size in near)])
            if label != -100:
                shares[(label, *place)] += weight
                total += weight
        shares[(slice(None), *place)] /= max(total, 1e-9)
    return shares


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize(("size", "space"), [(3, (7,)), (3, (5, 6)), (5, (5, 6)), (3, (3, 4, 2))])
def test_neighbor_proportions_against_a_voxel_loop(kernel, size, space) -> None:
    labels = torch.randint(3, space)
    labels[torch.rand(space) < 0.3] = -100
    ours = neighbor_proportions(labels[None], 3, kernel=kernel, kernel_size=size)[0]
    torch.testing.assert_close(ours, slow_shares(labels, 3, size // 2, kernel))
    kept = labels != -100
    torch.testing.assert_close(ours.sum(0)[kept], torch.ones(int(kept.sum())))


def test_neighbor_proportions_at_a_corner() -> None:
    """A corner of class 2 in class 2: outside is 5 of the 9 voxels of the window."""
    labels = torch.full((1, 4, 4), 2)
    corner = {
        border: neighbor_proportions(labels, 3, border=border)[0, :, 0, 0].tolist()
        for border in ("replicate", "background", "monai")
    }
    assert corner["replicate"] == [0, 0, 1]
    assert corner["background"] == pytest.approx([5 / 9, 0, 4 / 9])
    assert corner["monai"] == pytest.approx([0, 0, 4 / 9])


def test_a_wide_window_does_not_overflow_its_counts() -> None:
    """17 x 17 = 289 voxels of one class do not fit a byte."""
    labels = torch.ones(1, 3, 3, dtype=torch.int64)
    assert (neighbor_proportions(labels, 2, kernel_size=17)[0, 1] == 1).all()


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("chunk", [1, 200])
def test_neighbors_are_counted_in_parts(kernel, ignored, chunk, monkeypatch) -> None:
    """However few maps are counted at once, value and gradient are those of the plain formula."""
    monkeypatch.setattr("mbls.losses._neighborhood.CPU_CHUNK", chunk)
    logits = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randint(4, (3, 5, 6))
    if ignored:
        target[torch.rand(target.shape) < 0.3] = -100
    keep = target != -100
    tau = torch.stack([slow_shares(image, 4, 1, kernel) for image in target])
    loss = NeighborAwareLoss(1.0, kernel=kernel, border="replicate")
    value = loss.terms(logits, target)["neighbors"]
    expected = (logits - tau).abs().mean(dim=1)[keep].mean()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits) for v in (value, expected)))


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 0.15, 0.2])
def test_a_narrow_gaussian_shares_half_with_the_nearest(sigma) -> None:
    """Its weights underflow long before their ratio matters; then the voxel stands alone."""
    labels = torch.tensor([[0, 1, 1, 1, 1]])
    tau = neighbor_proportions(labels, 2, kernel="gaussian", sigma=sigma)[0, 1]
    alone = sigma == 1e-3
    torch.testing.assert_close(tau, torch.tensor([0.0 if alone else 0.25, 1.0 if alone else 0.75,
                                                  1.0, 1.0, 1.0]))  # fmt: skip


def test_acls_by_hand() -> None:
    """Logits 9, 4, -3, margin 10: range 12, so winner 2^2; losers 0 and 2^2 over 2."""
    z, y = torch.tensor([[9.0, 4.0, -3.0]]), torch.tensor([0])
    settings = {"margin": 10.0, "positive_weight": 3.0, "negative_weight": 5.0}
    terms = AdaptiveConditionalSmoothingLoss(1.0, **settings).terms(z, y)
    assert terms["winner"].item() == pytest.approx(12)
    assert terms["losers"].item() == pytest.approx(10)
    raw = AdaptiveConditionalSmoothingLoss(1.0, **settings, positive="raw").terms(z, y)
    assert raw["winner"] == 0


def test_mdca_by_image_sees_what_the_batch_cancels() -> None:
    """Two images with opposite gaps: nothing over the batch, 0.5 by image."""
    probs = torch.tensor([[[0.5], [0.5]], [[0.5], [0.5]]]).expand(2, 2, 6)
    target = torch.tensor([0, 1])[:, None].expand(2, 6)
    batch = ClasswiseMeanCalibrationLoss(1.0).terms(probs.log(), target)["mdca"]
    image = ClasswiseMeanCalibrationLoss(1.0, scope="image").terms(probs.log(), target)["mdca"]
    assert batch.item() == pytest.approx(0, abs=1e-7)
    assert image.item() == pytest.approx(0.5)


def test_flat_logits_are_one_image_of_the_image_wise_losses() -> None:
    logits, target = torch.randn(12, 3), torch.randint(3, (12,))
    for loss in (DiceLoss(), DicePlusPlusLoss(), TverskyPlusPlusLoss(), BinnedCalibrationLoss()):
        one = loss(logits.T[None], target[None])
        torch.testing.assert_close(loss(logits, target), one)
