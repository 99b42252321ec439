"""The chunked kernel against autograd on the plain formulas, whatever the chunks."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mbls.losses import _pointwise as pointwise
from mbls.losses._masking import labelled, masked_mean
from mbls.losses._pointwise import pointwise_means
from mbls.losses.brier import BrierTerm
from mbls.losses.ce import CrossEntropyTerm
from mbls.losses.ecp import EntropyTerm
from mbls.losses.focal import FocalTerm
from mbls.losses.mbls import MarginTerm

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


def test_a_winner_by_less_than_an_exponential_shows_wins_alone() -> None:
    """In float32 exp(-1e-8) is 1: a tie of the exponentials, not of the logits."""
    logits = torch.tensor([[2e-8, 1e-8, -9.0]], requires_grad=True)
    for f in (pointwise_means, plain):
        (value,) = f(logits, torch.tensor([0]), [MarginTerm(1.0)])
        (gradient,) = torch.autograd.grad(value, logits)
        torch.testing.assert_close(gradient, torch.tensor([[1 / 3, 0, -1 / 3]]))


@pytest.mark.parametrize("p", [0.3, 1 - 1e-9])
def test_focal_without_an_exponent_is_cross_entropy_up_to_certainty(p) -> None:
    """Below an error of 1e-7 powers are continued linearly, but for the exponent 0."""
    logits = torch.tensor([[p, 1 - p]], dtype=torch.float64).log().requires_grad_()
    focal, ce = pointwise_means(logits, torch.tensor([0]), [FocalTerm(0.0), CrossEntropyTerm()])
    ours, theirs = (torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (focal, ce))
    torch.testing.assert_close(focal, ce, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("ignore_index", [-1, 0, 1, 2, 255])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded", "strided"])
def test_any_ignore_index_and_layout(ignore_index, layout) -> None:
    """The index may be that of a class; the gradient is of the logits' shape, not their strides."""
    wide = torch.randn(2, 3, 4, 10, dtype=torch.float64)
    leaf = {
        "contiguous": lambda: wide[..., ::2].contiguous(),
        "channels_last": lambda: wide[..., ::2].contiguous(memory_format=torch.channels_last),
        "expanded": lambda: wide[:1, :, :1, :1].expand(2, 3, 4, 5),
        "strided": lambda: wide[..., ::2],
    }[layout]().requires_grad_()
    target = torch.randint(3, (2, 4, 5))
    target[torch.rand(target.shape) < 0.3] = ignore_index
    keep, safe = labelled(target, ignore_index)
    for term, fused in zip(
        TERMS, pointwise_means(leaf, target, TERMS, ignore_index=ignore_index), strict=True
    ):
        slow = masked_mean(term.plain(leaf, safe), keep)
        torch.testing.assert_close(fused, slow)
        pair = [torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in (fused, slow)]
        torch.testing.assert_close(*pair)
        assert (pair[0][(~keep).unsqueeze(1).expand_as(leaf)] == 0).all()


def test_the_gradient_taken_along_with_the_value_is_given_away_once() -> None:
    """Who gets it may write to it; the graph keeps nothing of it, used or not."""
    logits = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(3, (2, 8))
    terms = [BrierTerm(), MarginTerm(0.5)]
    values = pointwise_means(logits, target, terms)
    (first,) = torch.autograd.grad(sum(values), logits, retain_graph=True)
    assert values[0].grad_fn.gradient is None
    expected = first.clone()
    first.fill_(7.0)
    (second,) = torch.autograd.grad(sum(values), logits)
    torch.testing.assert_close(second, expected)
    unused = pointwise_means(logits, target, terms)
    kept = weakref.ref(unused[0].grad_fn.gradient)
    del unused
    assert kept() is None


def test_a_tensor_changed_before_backward_is_an_error() -> None:
    logits = torch.randn(2, 3, 8, requires_grad=True)
    target = torch.randint(3, (2, 8))
    (value,) = pointwise_means(logits, target, [MarginTerm(0.5)])
    target.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_two_threads_at_once() -> None:
    """The memory for the work is a call's own."""
    batches = [(torch.randn(2, 4, 96, 96), torch.randint(4, (2, 96, 96))) for _ in range(2)]
    terms = [CrossEntropyTerm(), EntropyTerm(), BrierTerm(), MarginTerm(0.5)]

    def run(batch):
        found = []
        for _ in range(10):
            leaf = batch[0].clone().requires_grad_()
            sum(pointwise_means(leaf, batch[1], terms)).backward()
            found.append(leaf.grad)
        return found

    alone = [run(batch)[0] for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for gradients, expected in zip(pool.map(run, batches), alone, strict=True):
            assert all(torch.equal(gradient, expected) for gradient in gradients)


def test_transforms_of_torch_func_are_refused() -> None:
    logits, target = torch.randn(2, 3, 8), torch.randint(3, (2, 8))
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda z: pointwise_means(z, target, [EntropyTerm()])[0])(logits)


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
