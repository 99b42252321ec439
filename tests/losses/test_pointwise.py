"""The chunked kernel against autograd on the plain formulas, whatever the chunks."""

import pytest
import torch

from mbls.losses import pointwise
from mbls.losses.brier import BrierTerm
from mbls.losses.cross_entropy import CrossEntropyTerm
from mbls.losses.entropy import EntropyTerm
from mbls.losses.focal import FocalTerm
from mbls.losses.margin import MarginTerm
from mbls.losses.masking import labelled, masked_mean
from mbls.losses.pointwise import pointwise_means

TERMS = [
    CrossEntropyTerm(),
    CrossEntropyTerm(0.2),
    FocalTerm(2.0),
    FocalTerm(0.5),
    FocalTerm(1.0),
    FocalTerm(3.0, adaptive=True),
    EntropyTerm(),
    BrierTerm(),
    MarginTerm(1.0),
    MarginTerm(0.0),
    MarginTerm(1.0, "l2"),
]


def plain(logits, target, terms):
    keep, safe = labelled(target, -100)
    return [masked_mean(term.plain(logits, safe), keep) for term in terms]


@pytest.mark.parametrize("shape", [(7, 3), (2, 3, 50), (3, 4, 5, 6), (2, 5, 3, 4, 5)])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 18], ids=["voxel by voxel", "cut", "whole"])
@pytest.mark.parametrize("free", [True, False], ids=["cpu", "accelerator"])
def test_values_and_gradients_of_each_term(shape, chunk, free, monkeypatch) -> None:
    monkeypatch.setattr(pointwise, "CPU_CHUNK", chunk)
    monkeypatch.setattr(pointwise, "free_to_look", lambda tensor: free)
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    target[torch.rand(target.shape) < 0.3] = -100
    for fused, slow in zip(
        pointwise_means(logits, target, TERMS), plain(logits, target, TERMS), strict=True
    ):
        torch.testing.assert_close(fused, slow)
        ours, theirs = (
            torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (fused, slow)
        )
        torch.testing.assert_close(ours, theirs)


def test_terms_keep_their_own_upstream_gradient() -> None:
    """Terms of one pass may be weighted differently afterwards, or not used at all."""
    logits = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(3, (2, 8))
    terms = [CrossEntropyTerm(), MarginTerm(0.5), EntropyTerm()]
    weigh = lambda values: 2 * values[0] - 3 * values[1] ** 2  # noqa: E731
    (ours,) = torch.autograd.grad(weigh(pointwise_means(logits, target, terms)), logits)
    (theirs,) = torch.autograd.grad(weigh(plain(logits, target, terms)), logits)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("free", [True, False], ids=["cpu", "accelerator"])
def test_factors_scales_and_a_second_backward(free, monkeypatch) -> None:
    """The gradient taken along with the value serves one backward; later ones compute their own."""
    monkeypatch.setattr(pointwise, "free_to_look", lambda tensor: free)
    logits = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(3, (2, 8))
    terms, factors = [CrossEntropyTerm(), MarginTerm(0.5)], (0.3, 2.0)
    fused = sum(pointwise_means(logits, target, terms, factors=factors))
    slow = sum(f * v for f, v in zip(factors, plain(logits, target, terms), strict=True))
    torch.testing.assert_close(fused, slow)
    for scale in (1.0, 1024.0, 1.0):
        pair = [
            torch.autograd.grad(scale * value, logits, retain_graph=True)[0]
            for value in (fused, slow)
        ]
        torch.testing.assert_close(*pair)


def test_labels_none_of_which_is_ignored_may_lie_on_both_sides_of_the_index() -> None:
    logits = torch.randn(1, 4, 9, dtype=torch.float64)
    target = torch.tensor([[0, 1, 3, 3, 1, 0, 0, 1, 3]])
    (value,) = pointwise_means(logits, target, [CrossEntropyTerm()], ignore_index=2)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, target))


def test_tied_winners_share_the_gradient() -> None:
    """As autograd's amax does; half precision ties often."""
    logits = torch.tensor([[4.0, 4.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0])
    for term in (MarginTerm(1.0), MarginTerm(1.0, "l2")):
        (fused,), (slow,) = (f(logits, target, [term]) for f in (pointwise_means, plain))
        (ours,) = torch.autograd.grad(fused, logits)
        (theirs,) = torch.autograd.grad(slow, logits)
        torch.testing.assert_close(ours, theirs)
        assert ours[0, 0] == ours[0, 1] > 0


@pytest.mark.parametrize(
    "term", [term for term in TERMS if getattr(term, "norm", "") != "l1"], ids=repr
)
def test_second_derivatives(term) -> None:
    logits = (2 * torch.randn(2, 3, 2, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([[0, -100], [1, 2]])
    curvature = []
    for f in (pointwise_means, plain):
        (gradient,) = torch.autograd.grad(f(logits, target, [term])[0], logits, create_graph=True)
        curvature.append(torch.autograd.grad((gradient**2).sum(), logits)[0])
    torch.testing.assert_close(*curvature)


def test_a_gradient_near_zero_error_keeps_its_digits() -> None:
    """p_y = 1 - 1e-6 in float32: 2 (1 - p)^2 is 2e-12, which 1 - 2 p + p^2 could not see."""
    logits = torch.tensor([[13.8155, 0.0]])
    (value,) = pointwise_means(logits, torch.tensor([0]), [BrierTerm()])
    (exact,) = pointwise_means(logits.double(), torch.tensor([0]), [BrierTerm()])
    assert value.item() == pytest.approx(exact.item(), rel=0.2)
