"""What a piece of voxels says before anything is counted, and whether it may be counted at all.

Decisions per voxel are arithmetic on 0 and 1: several times faster than selection by masks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mbls.metrics._kernel.voxels import SUM_TOLERANCE
from mbls.runtime.scratch import Scratch


class PieceFacts(NamedTuple):
    """One piece of L voxels; all are ``(L,)`` float32 unless said otherwise, and live in scratch.

    Attributes:
        probs: ``(C, L)``, float32 or float64.
        labels: Labels 0..C-1; 0 where ignored.
        ignored: 1 where the voxel is left out.
        top: The highest probability, float64.
        likelihood: The label's probability, of the type of ``probs``.
        squares: The sum of squared probabilities, float64.
        guess: 1 where foreground is predicted.
        missed: 1 where the label is not the top class.
    """

    probs: Tensor
    labels: Tensor
    ignored: Tensor
    top: Tensor
    likelihood: Tensor
    squares: Tensor
    guess: Tensor
    missed: Tensor


def read_piece(
    probs: Tensor, target: Tensor, ignore_index: int, doubts: list[Tensor], scratch: Scratch
) -> PieceFacts:
    """Read a piece and note in ``doubts`` what speaks against it.

    Args:
        probs: Probabilities ``(C, L)`` of any floating type.
        target: Labels ``(1, L)``, integers or floats.
        ignore_index: Label of voxels to leave out.
        doubts: Gets one float tensor ``(6,)`` more: the smallest and largest row sum, the smallest
            probability, the smallest and largest label, and the largest distance of a label from a
            whole number.
        scratch: Memory for the work.
    """
    if probs.dtype != torch.float64:
        probs = probs.float()
    C, L = probs.shape
    total = torch.sum(probs, 0, out=scratch("total", (L,), probs.dtype))
    # Whole numbers above 2**24 are rounded, to others that are no class either.
    labels = scratch("labels", (L,), torch.float32).copy_(target[0])
    ignored = torch.sub(labels, ignore_index, out=scratch("ignored", (L,), torch.float32))
    ignored.sign_().abs_()
    labels.mul_(ignored)
    ignored.neg_().add_(1)
    low, high = torch.aminmax(labels)
    broken = torch.zeros_like(low)
    if target.is_floating_point():
        whole = labels.round()
        broken = (whole - labels).abs_().amax()
        labels = whole.nan_to_num_(0.0)
    noted = (*torch.aminmax(total), probs.amin(), low, high, broken)
    doubts.append(torch.stack([n.to(probs.dtype) for n in noted]))
    labels = labels.clamp_(0, C - 1)
    top = _top_label if probs.dtype == torch.float32 else _top_label_of_doubles
    return PieceFacts(probs, labels, ignored, *top(probs, labels, scratch))


def _top_label(
    probs: Tensor, labels: Tensor, scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the last five facts of a float32 piece.

    Among equal probabilities the lowest class is the top one, as for ``argmax``. A float32 widened
    to float64 has 29 spare bits; the class's rank goes there, so that one maximum decides ties too.
    """
    C, L = probs.shape
    first, best, wide, squares = (
        scratch(name, (L,), torch.float64) for name in ("first", "top", "wide", "squares")
    )
    torch.mul(first.copy_(probs[0]), first, out=squares)
    best.copy_(first.view(torch.int64).bitwise_or_(C - 1).view(torch.float64))
    for k in range(1, C):  # in the order of the classes: float64 sums depend on it
        squares.addcmul_(wide.copy_(probs[k]), wide)
        wide.view(torch.int64).bitwise_or_(C - 1 - k)
        torch.maximum(best, wide, out=best)
    index = scratch("int32", (L,), torch.int32).copy_(labels)
    index = scratch("index", (1, L), torch.int64).copy_(index)
    likelihood = torch.gather(probs, 0, index, out=scratch("own", (1, L), torch.float32))[0]
    wide.copy_(likelihood).view(torch.int64).bitwise_or_(index[0].neg_().add_(C - 1))
    guess, missed = (scratch(name, (L,), torch.float32) for name in ("guess", "missed"))
    for answer, other in ((guess, first), (missed, wide)):
        answer.copy_(torch.sub(best, other, out=other).sign_())  # never below 0
    best.view(torch.int64).bitwise_and_(-(1 << 29))
    return best, likelihood, squares, guess, missed


def _top_label_of_doubles(
    probs: Tensor, labels: Tensor, scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what :func:`_top_label` does, for float64; needs no scratch and is slower."""
    del scratch
    best, predicted = probs.max(dim=0)
    squares = probs[0].square()
    for row in probs[1:]:
        squares += row.square()
    likelihood = probs.gather(0, labels.long()[None])[0]
    return best, likelihood, squares, (predicted > 0).float(), (predicted != labels).float()


def worst(doubts: list[Tensor]) -> Tensor:
    """Return the five numbers of :func:`refuse_doubtful` over all pieces, float64 ``(5,)``."""
    pieces = torch.stack(doubts).double()
    least, most, smallest, low, high, broken = pieces.unbind(1)
    off = torch.maximum((1 - least).amax(), (most - 1).amax())
    return torch.stack([off, -smallest.amin(), high.amax(), -low.amin(), broken.amax()])


def refuse_doubtful(
    doubts: list[float], dtype: torch.dtype, num_classes: int, ignore_index: int
) -> None:
    """Raise for what is no distribution and for labels that are no class.

    Args:
        doubts: What :func:`worst` returns, on the host: the largest deviation of a row sum from 1,
            minus the smallest probability, the largest label, minus the smallest label, and the
            largest distance of a label from a whole number.
        dtype: Type of the probabilities as given, which sets the tolerance of their sum.
        num_classes: C.
        ignore_index: Label of voxels to leave out.

    Raises:
        ValueError: With the rule and the value found.
    """
    off, low, high, negative, broken = doubts
    tolerance = SUM_TOLERANCE[dtype]
    if not low <= 0 or not off <= tolerance:
        raise ValueError(
            f"probs must be at least 0 and sum to 1 over the classes (within {tolerance} for "
            f"{dtype}), got a smallest value of {0 - low:g} and a sum off by {off:g}; logits need "
            "softmax, and NaN comes from the network."
        )
    if not broken == 0:
        raise ValueError(f"target must hold whole class numbers, got one off by {broken:g}.")
    if high >= num_classes or negative > 0:
        raise ValueError(
            f"target must hold classes 0..{num_classes - 1} or ignore_index {ignore_index}, got "
            f"labels from {0 - negative:.0f} to {high:.0f}."
        )
