"""Adaptive losses: combinations, what is observed, limits and warnings."""

import itertools

import pytest
import torch
from torch import Tensor

from mbls.losses import (
    AdaFocalLoss,
    AugmentedLagrangianLoss,
    ClassAdaptiveMarginLoss,
    CompoundLoss,
    CrossEntropyLoss,
    HeuristicMarginLoss,
    MarginConstraint,
    MarginLoss,
    NeighborConstraint,
    RegionAdaptiveLoss,
)
from mbls.losses._neighborhood import mixed_windows
from mbls.losses.adaptive import observation
from mbls.losses.adaptive.adafocal import equal_mass_edges
from tests.losses.every_loss import build

SPACES = [(), (9,), (6, 5), (4, 5, 3)]
ADAPTIVE = ["cals", "cals_p2", "cals_p3", "cals_regions", "cals_hr", "crac", "adafocal"]


def batch(space: tuple[int, ...] = (6, 5), n: int = 3) -> tuple[Tensor, Tensor]:
    target = torch.randint(4, (n, *space))
    target[torch.rand(target.shape) < 0.2] = -100
    return 6 * torch.randn(n, 4, *space, dtype=torch.float64), target


@pytest.mark.parametrize("space", SPACES, ids=["flat", "1d", "2d", "3d"])
@pytest.mark.parametrize("border", ["replicate", "background"])
def test_mixed_windows(space: tuple[int, ...], border: str) -> None:
    target = torch.randint(3, (2, *space)).where(torch.rand(2, *space) < 0.3, 0)
    target[0].view(-1)[:1] = -100
    found = mixed_windows(target, border=border)
    for place in itertools.product(*map(range, target.shape)):
        seen = set()
        for step in itertools.product((-1, 0, 1), repeat=len(space)):
            at = [p + s for p, s in zip(place[1:], step, strict=True)]
            inside = all(0 <= a < size for a, size in zip(at, space, strict=True))
            if border == "replicate":
                at = [min(max(a, 0), size - 1) for a, size in zip(at, space, strict=True)]
                inside = True
            seen.add(int(target[(place[0], *at)]) if inside else 0)
        assert bool(found[place]) == (len(seen - {-100}) > 1), place


@pytest.mark.parametrize("constraint", [MarginConstraint(2.0), NeighborConstraint(2.0)])
@pytest.mark.parametrize(("groups", "penalty"), [("class", "phr"), ("region", "p2"),
                                                 ("region", "p3")])  # fmt: skip
@pytest.mark.parametrize("space", SPACES, ids=["flat", "1d", "2d", "3d"])
def test_combination_of_constraint_penalty_and_groups(
    constraint, groups, penalty, space, monkeypatch
) -> None:
    """A gradient, after the multipliers moved by what was observed in pieces."""
    monkeypatch.setattr(observation, "PIECE", 16)
    loss = AugmentedLagrangianLoss(4, constraint, penalty, groups=groups, statistics="region")
    loss.observe(*batch(space))
    loss.adapt()
    assert loss.multipliers.max() > 1e-6
    logits, target = batch(space)
    logits.requires_grad_()
    terms = loss.terms(logits, target)
    assert list(terms) == ["ce", constraint.name]
    (gradient,) = torch.autograd.grad(terms[constraint.name], logits)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ADAPTIVE)
def test_what_is_observed_does_not_depend_on_batches(name: str) -> None:
    """Cases at once or one by one, in chunks or whole, ignored voxels or cut away ones."""
    logits, target = batch((6, 5), n=4)
    states = []
    for parts in ([slice(0, 4)], [slice(0, 1), slice(1, 4)], [slice(3, 4), slice(0, 3)]):
        loss = build(name)
        loss.bind(4)
        for _ in range(3):
            for part in parts:
                loss.observe(logits[part], target[part])
            loss.adapt()
        states.append(loss.state_dict())
    for key, value in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(other[key], value, rtol=1e-12, atol=0, msg=key)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_half_logits_do_not_lose_the_sums(name: str) -> None:
    """A hundred thousand voxels: float16 sums would end at 65504, float32 ones lose digits."""
    logits = (6 * torch.randn(1, 4, 100_000)).half()
    target = torch.randint(4, (1, 100_000))
    states = []
    for z in (logits, logits.double()):
        loss = build(name)
        loss.bind(4)
        loss.observe(z, target)
        loss.adapt()
        states.append(loss.state_dict())
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key], value, rtol=1e-5, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_state_keeps_float64_and_trains_after_inference_mode(name: str) -> None:
    loss = build(name).to(torch.bfloat16)
    loss.bind(4)
    before = {key: value.dtype for key, value in loss.state_dict().items()}
    assert set(before.values()) <= {torch.float64, torch.int64}
    logits, target = batch()
    with torch.inference_mode():
        loss.observe(logits, target)
        loss.adapt()
    loss(logits.requires_grad_(), target).backward()
    loss.load_state_dict(loss.state_dict())  # writes into what inference mode has changed


def test_wrappers_bind_observe_and_track() -> None:
    inner = ClassAdaptiveMarginLoss(margin=1.0)
    loss = CompoundLoss({"a": (1.0, CrossEntropyLoss()), "b": (1.0, MarginLoss(base=inner))})
    loss.bind(4)
    loss.observe(*batch())
    loss.adapt()
    keys = list("abcd")
    assert loss.tracked(keys).keys() == inner.tracked(keys).keys()
    assert loss.tracked(keys)["lambda/c"] == inner.multipliers[0, 2] > 1e-6


def test_a_region_without_voxels_keeps_its_multipliers() -> None:
    loss = RegionAdaptiveLoss(4)
    target = torch.zeros(1, 6, 6, dtype=torch.long)
    loss.observe(torch.randn(1, 4, 6, 6), target)
    loss.adapt()
    assert (loss.multipliers[0] == 1e-6).all()
    assert (loss.multipliers[1] > 1e-6).all()
    assert loss.seen.tolist() == [[0] * 4, [1] * 4]
    before = loss.multipliers.clone()
    loss.adapt()  # nothing was observed
    assert torch.equal(loss.multipliers, before)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_logits_that_are_not_finite_move_nothing_and_warn(name: str) -> None:
    loss = build(name)
    loss.bind(4)
    logits, target = batch()
    logits[0, 1, 0, 0], target[0, 0, 0] = float("nan"), 1
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss.observe(logits, target)
    with pytest.warns(UserWarning, match="observed logits that are not finite, and stay"):
        loss.adapt()
    state = loss.state_dict()
    main = "gammas" if name == "adafocal" else "multipliers"
    assert all(value.isfinite().all() for value in state.values())
    assert torch.equal(state[main][..., 1], before[main][..., 1])


def test_overflow_is_bounded_with_a_warning() -> None:
    loss = ClassAdaptiveMarginLoss(4, 1.0, "p2", normalize=False, lambda_max=50.0)
    logits = torch.tensor([[0.0, 0.0, 0.0, 1000.0]])
    loss.observe(logits, torch.tensor([3]))
    with pytest.warns(UserWarning, match=r"of class 0, 1, 2 are bounded by lambda_max=50\."):
        loss.adapt()
    assert loss.multipliers.tolist() == [[50.0, 50.0, 50.0, 1e-6]]
    assert loss(logits, torch.tensor([3])).isfinite()


@pytest.mark.filterwarnings("error")
def test_a_bound_that_only_some_voxels_meet_warns_once() -> None:
    """The mean of what is cut at each voxel stays below the bound that cuts it."""
    loss = RegionAdaptiveLoss(2, rho_min=1.0, lambda_max=0.7)  # 0.7 has no exact float32
    logits, target = torch.zeros(1, 2, 8), torch.zeros(1, 8, dtype=torch.long)
    logits[0, 1, 0] = 9.0
    loss.observe(logits, target)
    with pytest.warns(
        UserWarning, match=r"class 0 \(inner\), 1 \(inner\) are bounded by lambda_max"
    ):
        loss.adapt()
    assert loss.multipliers[1, 1] < 0.1
    loss.observe(logits, target)
    loss.adapt()
    logits[0, 1, 5] = 9.0
    loss.observe(logits, torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1]]))
    with pytest.warns(UserWarning, match=r"of class 1 \(boundary\) are"):
        loss.adapt()


def test_a_heuristic_multiplier_at_its_bound_warns() -> None:
    loss = HeuristicMarginLoss(2, 1.0, alpha=0.4, gamma=2.0, lambda_max=0.5)
    for distance in (2.0, 4.0):
        loss.observe(torch.tensor([[distance, 0.0]]), torch.tensor([0]))
        if distance == 4.0:
            with pytest.warns(UserWarning, match=r"class 1 are bounded by lambda_max=0\.5\."):
                loss.adapt()
        else:
            loss.adapt()
    assert loss.multipliers.tolist() == [[0.4, 0.5]]


@pytest.mark.parametrize("name", ["cals", "adafocal"])
def test_a_validation_without_a_voxel_warns(name: str) -> None:
    loss = build(name)
    loss.bind(4)
    with pytest.warns(UserWarning, match=r"Loss: observed no voxel in this validation: nothing"):
        loss.adapt()


def test_the_number_of_classes() -> None:
    loss = ClassAdaptiveMarginLoss()
    logits, target = batch()
    assert loss(logits, target) == ClassAdaptiveMarginLoss(4)(logits, target)
    with pytest.raises(ValueError, match=r"cannot observe before .* call bind\(4\), or give num"):
        loss.observe(logits, target)
    loss.bind(4)
    loss.bind(4)
    with pytest.raises(ValueError, match=r"multipliers for num_classes=4, the data have 3"):
        loss.bind(3)
    with pytest.raises(ValueError, match=r"logits must have 4 classes, those of the multipliers"):
        loss(logits[:, :3], target.clamp(max=2))


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (ClassAdaptiveMarginLoss, {"margin": -1.0}, "margin must be >= 0"),
        (ClassAdaptiveMarginLoss, {"margin": 0.0}, "margin must be > 0 to measure in margins"),
        (ClassAdaptiveMarginLoss, {"penalty": "relu"}, "penalty must be one of 'phr', 'p2', 'p3'"),
        (ClassAdaptiveMarginLoss, {"num_classes": 1}, "num_classes must be >= 2"),
        (ClassAdaptiveMarginLoss, {"lambda_min": 0.0}, "lambda_min must be > 0"),
        (ClassAdaptiveMarginLoss, {"lambda_max": 1e-7}, "lambda_max must be > 1e-06"),
        (ClassAdaptiveMarginLoss, {"lambda_step": 0}, "lambda_step must be an integer >= 1, got 0"),
        (ClassAdaptiveMarginLoss, {"rho_min": 0.0}, "rho_min must be > 0"),
        (ClassAdaptiveMarginLoss, {"rho_max": 0.5}, "rho_max must be >= rho_min=1, got 0.5"),
        (ClassAdaptiveMarginLoss, {"rho_step": 0}, "rho_step must be >= 1, or -1 for never"),
        (ClassAdaptiveMarginLoss, {"gamma": 1.0}, "gamma must be > 1"),
        (ClassAdaptiveMarginLoss, {"tau": 1.5}, r"tau must lie in \[0, 1\]"),
        (ClassAdaptiveMarginLoss, {"groups": "voxel"}, "groups must be one of 'class', 'region'"),
        (ClassAdaptiveMarginLoss, {"statistics": "some"}, "statistics must be one of"),
        (RegionAdaptiveLoss, {"margin": 0.0}, "margin must be > 0"),
        (RegionAdaptiveLoss, {"border": "monai"}, "border must be one of 'replicate', 'backgr"),
        (RegionAdaptiveLoss, {"kernel_size": 2}, "kernel_size must be an odd integer >= 1, got 2"),
        (HeuristicMarginLoss, {"alpha": 0.0}, r"alpha must lie in \[1e-06, 1e\+06\], got 0"),
        (HeuristicMarginLoss, {"alpha": 2.0, "lambda_max": 1.0}, r"alpha must lie in \[1e-06, 1\]"),
        (HeuristicMarginLoss, {"gamma": 0.9}, "gamma must be > 1"),
        (HeuristicMarginLoss, {"tau": 0.9}, "tau must be >= 1"),
        (HeuristicMarginLoss, {"step": 0}, "step must be an integer >= 1, got 0"),
        (AdaFocalLoss, {"n_bins": 0}, "n_bins must be an integer >= 1, got 0"),
        (AdaFocalLoss, {"rate": -1.0}, "rate must be >= 0"),
        (AdaFocalLoss, {"switch": 0.0}, "switch must be > 0"),
        (AdaFocalLoss, {"gamma_max": 0.1}, "gamma_max >= switch=0.2"),
        (AdaFocalLoss, {"gamma": 0.1}, r"gamma must lie in \[-2, 20\] and be at least"),
    ],
)
def test_settings(cls: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**settings)


def test_adafocals_cells_are_near_the_sorted_samples() -> None:
    """65536 cells move an edge by less than 0.0002, an exponent by less than 1 %."""
    logits, target = 3 * torch.randn(20_000, 4), torch.randint(4, (20_000,))
    confidence = logits.double().softmax(1).max(1)
    order = confidence.values.argsort()
    values = confidence.values[order]
    hits = (confidence.indices == target)[order]
    edges = equal_mass_edges(values, torch.ones(20_000, dtype=torch.long), 15)
    loss = AdaFocalLoss()
    loss.observe(logits, target)
    loss.adapt()
    torch.testing.assert_close(loss.edges, edges, rtol=0, atol=2e-4)
    for b in range(15):
        inside = (values > edges[b]) & (values <= edges[b + 1])
        gap = (values[inside].mean() - hits[inside].double().mean()).exp()
        assert loss.gammas[b].item() == pytest.approx(gap.item(), rel=1e-2)
