"""The formula is what runs, and the gradients by hand inside two of them are autograd's."""

import importlib

import pytest
import torch
from torch import Tensor

from mbls.losses import logit_distances, margin_penalty
from mbls.losses.adaptive.penalty_functions import PENALTIES, hinge, penalized
from tests.losses.every_loss import batch, build

FORMULAS = {
    "mbls": "mbls.margin_penalty",
    "ce": "ce.cross_entropy",
    "focal": "focal.focal_map",
    "brier": "brier.brier_map",
    "ecp": "ecp.mean_entropy",
    "l1_penalty": "l1_penalty.uniform_distance",
    "acls": "acls.winner_penalty",
    "cpc": "cpc.exclusion_map",
    "nacl": "nacl.neighbor_distance",
    "svls": "svls.soft_ce_map",
    "dice": "dice.soft_dice_loss",
    "cals": "adaptive.constraints.logit_distances",
    "adafocal": "adaptive.adafocal.signed_focal_map",
}


def plain_distances(logits: Tensor) -> Tensor:
    return logits.amax(dim=1, keepdim=True) - logits


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_is_what_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, function = f"mbls.losses.{FORMULAS[name]}".rpartition(".")
    formula = getattr(importlib.import_module(module), function)
    doubled = lambda *args, **settings: 2 * formula(*args, **settings)  # noqa: E731
    loss, (logits, target) = build(name), batch(name)
    before = loss(logits, target)
    monkeypatch.setattr(f"{module}.{function}", doubled)
    assert loss(logits, target) != before


@pytest.mark.parametrize("space", [(), (5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_margins(space: tuple[int, ...], ties: bool, norm: str) -> None:
    """Value and first and second derivative; tied winners share the gradient, as with amax."""
    logits = 3 * torch.randn(2, 4, *space, dtype=torch.float64)
    logits = (logits.round() if ties else logits).movedim(1, -1).contiguous().movedim(-1, 1)
    logits.requires_grad_()
    weight = torch.randn(2, *space, dtype=torch.float64)
    excess = (plain_distances(logits) - 1.5).clamp_min(0)
    slow = (excess if norm == "l1" else excess.square()).mean(dim=1)
    fast = margin_penalty(logits, 1.5, norm=norm)
    torch.testing.assert_close(fast, slow)
    first = [torch.autograd.grad(v, logits, weight, create_graph=True)[0] for v in (fast, slow)]
    torch.testing.assert_close(*first)
    torch.testing.assert_close(torch.autograd.grad(fast, logits, weight, True)[0], first[1])
    if norm == "l2":
        torch.testing.assert_close(
            *(torch.autograd.grad(slope.square().sum(), logits)[0] for slope in first)
        )


def test_a_winner_by_less_than_an_exponential_shows_wins_alone() -> None:
    """In float32 exp(-1e-8) is 1: a tie of the exponentials, not of the logits."""
    logits = torch.tensor([[2e-8, 1e-8, -9.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(logit_distances(logits)[0, 2], logits)
    assert gradient.tolist() == [[1.0, 0.0, -1.0]]


@pytest.mark.parametrize("penalty", [*PENALTIES.values(), hinge])
def test_penalties_of_a_constraint(penalty) -> None:
    """The derivative that a penalty comes with is that of its value, and can be derived again."""
    h = (2 * torch.randn(3, 4, 5, dtype=torch.float64)).requires_grad_()
    multiplier, weight = torch.rand(2, 1, 4, 1, dtype=torch.float64).add(0.1)
    slow, fast = penalty(h, multiplier, weight)[0], penalized(h, multiplier, weight, penalty)
    assert torch.equal(slow, fast)
    first = [torch.autograd.grad(v.sum(), h, create_graph=True)[0] for v in (fast, slow)]
    torch.testing.assert_close(*first)
    torch.testing.assert_close(
        *(torch.autograd.grad((slope * h).sum(), h)[0] for slope in first)  # h: hinge has none
    )


@pytest.mark.parametrize("numbers", [1, 24, 100])
def test_margins_do_not_depend_on_the_pieces(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a voxel, of part of an image, of some images."""
    logits = (9 * torch.randn(5, 4, 3, 4, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(5, 3, 4, dtype=torch.float64)
    whole = margin_penalty(logits, 2.0)
    expected = torch.autograd.grad(whole, logits, weight)[0]
    monkeypatch.setattr("mbls.losses.mbls.PIECE", numbers)
    assert torch.equal(margin_penalty(logits, 2.0), whole)
    assert torch.equal(
        torch.autograd.grad(margin_penalty(logits, 2.0), logits, weight)[0], expected
    )
