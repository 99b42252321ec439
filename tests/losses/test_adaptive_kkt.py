"""Problems of known solution: logits as free parameters, multipliers that meet KKT.

Each kind of voxel has its own logits, found for the multipliers in force by Newton's method; then
they are observed and the multipliers adapt. Nothing is left of the network or the optimizer.
"""

import math

import pytest
import torch
from torch import Tensor

from mbls.losses import (
    ClassAdaptiveMarginLoss,
    NeighborConstraint,
    RegionAdaptiveLoss,
    neighbor_proportions,
)
from mbls.losses._neighborhood import mixed_windows

CLASSES = 3


def solve(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """Return the logits that minimize the loss, to a gradient of 1e-12."""
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], lr=1, max_iter=500, history_size=50, tolerance_grad=1e-13,
        tolerance_change=1e-15, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits, target) * target.numel()
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()


def labels(frequent: int, rare: int) -> Tensor:
    """Class 0 is common, class 2 rare."""
    return torch.cat([torch.full((n,), k) for k, n in enumerate((frequent, 10, rare))])


@pytest.mark.parametrize(("frequent", "margin"), [(4, 2.0), (100, 1.0)])
def test_margin_by_class(frequent: int, margin: float) -> None:
    """Cross-entropy drives every distance to infinity; at the margin KKT gives one multiplier.

    A loser has probability p = exp(-m) / (1 + (C - 1) exp(-m)) there, and lambda / (C m) = p.
    """
    target = labels(frequent, 1)
    loss = ClassAdaptiveMarginLoss(CLASSES, margin, rho_step=-1, statistics="active")
    logits = torch.nn.functional.one_hot(target, CLASSES).double()
    for _ in range(60):
        logits = solve(loss, logits, target)
        loss.observe(logits, target)
        loss.adapt()
    loser = math.exp(-margin) / (1 + (CLASSES - 1) * math.exp(-margin))
    wanted = torch.full((1, CLASSES), CLASSES * margin * loser, dtype=torch.float64)
    torch.testing.assert_close(loss.multipliers, wanted, rtol=1e-3, atol=0)
    distance = logits.amax(1, keepdim=True) - logits
    assert (distance.max() - margin).abs() < 1e-3 * margin
    assert distance.max(0).values.min() > (1 - 1e-3) * margin  # every class's constraint binds


def test_the_published_mean_leaves_a_frequent_class_beyond_its_margin() -> None:
    """Voxels that a class wins count as d = 0 there, and hold its multiplier down."""
    target = labels(100, 1)
    loss = ClassAdaptiveMarginLoss(CLASSES, 1.0, rho_step=-1, statistics="all")
    logits = torch.nn.functional.one_hot(target, CLASSES).double()
    for _ in range(20):
        logits = solve(loss, logits, target)
        loss.observe(logits, target)
        loss.adapt()
    excess = (logits.amax(1, keepdim=True) - logits).amax(0) - 1
    assert excess[0] > 0.3
    assert excess[2] < 0.05


def pulled(logits: Tensor, target: Tensor) -> Tensor:
    """The derivative of each voxel's cross-entropy by its logits, p - q."""
    return logits.softmax(1) - torch.nn.functional.one_hot(target, CLASSES).movedim(-1, 1)


def towards(goal: Tensor, start: Tensor, target: Tensor, lam: Tensor, rho: float) -> Tensor:
    """Return the logits that minimize CE + sum_k (lam_k u_k + rho u_k^2 / 2) / 2C, u = |goal - z|.

    Proximal gradient steps: the penalty has a kink at the goal.
    """
    logits, step = start.clone(), 1.5
    lam, rho = lam / (2 * CLASSES), rho / (2 * CLASSES)
    for _ in range(40):
        moved = logits - step * pulled(logits, target) - goal
        shrunk = moved.sign() * (moved.abs() - step * lam).clamp_min(0)
        logits = goal + shrunk / (1 + step * rho)
    return logits


def adapted(loss: RegionAdaptiveLoss, target: Tensor, epochs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the goal, the boundary and the logits after some epochs of solving and adapting."""
    boundary = mixed_windows(target)
    tau = neighbor_proportions(target, CLASSES, dtype=torch.float64)
    goal = NeighborConstraint(loss.constraint.margin).goal(tau, boundary)
    loss.bind(CLASSES)
    logits = torch.zeros_like(goal)
    for _ in range(epochs):
        lam = torch.where(boundary.unsqueeze(1), *loss.multipliers.view(2, 1, CLASSES, 1))
        logits = towards(goal, logits, target, lam, float(loss.weights[0, 0]))
        loss.observe(logits, target)
        loss.adapt()
    return goal, boundary, logits


def picture(frequent: int) -> Tensor:
    """A line of labels: much of class 0, a little of 1, three voxels of 2."""
    return torch.tensor([0] * frequent + [1] * 6 + [2] * 3).unsqueeze(0)


@pytest.mark.parametrize("frequent", [6, 60])
def test_neighbors_by_class_and_region(frequent: int) -> None:
    """At the goal h = 0 everywhere; a group's multiplier is the largest pull that it must hold.

    The pull of cross-entropy on a logit is p - q, and lambda / (2 C) holds it.
    """
    target = picture(frequent)
    loss = RegionAdaptiveLoss(margin=3.0, rho_min=10.0, rho_step=-1)
    goal, boundary, logits = adapted(loss, target, epochs=400)
    assert (logits - goal).abs().max() < 1e-3
    pull = pulled(goal, target).abs() * 2 * CLASSES
    for row, region in enumerate((boundary, ~boundary)):
        wanted = pull.where(region.unsqueeze(1), 0).amax(dim=(0, 2))
        torch.testing.assert_close(loss.multipliers[row], wanted, rtol=1e-4, atol=0)


def test_the_published_mean_leaves_a_small_region_behind() -> None:
    """Averaged over all voxels, the constraint of a boundary of 4 in 69 counts a seventeenth."""
    worst = {}
    for statistics in ("region", "all"):
        loss = RegionAdaptiveLoss(margin=3.0, rho_min=10.0, rho_step=-1, statistics=statistics)
        goal, boundary, logits = adapted(loss, picture(60), epochs=40)
        worst[statistics] = float((logits - goal).abs().amax(1)[boundary].max())
    assert worst["region"] < 1e-3
    assert worst["all"] > 30 * worst["region"]
