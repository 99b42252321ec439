"""What a piece of voxels says before anything is counted, and whether it may be counted at all.

Decisions per voxel are arithmetic on 0 and 1: several times faster than selection by masks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mbls.metrics.voxels import SUM_TOLERANCE


class PieceFacts(NamedTuple):
    """One piece of L voxels; all are ``(L,)`` float32 unless said otherwise.

    Attributes:
        probs: ``(C, L)``, float32 or float64.
        labels: Labels 0..C-1; 0 where ignored.
        ignored: 1 where the voxel is left out.
        top: The highest probability, of the type of ``probs``.
        likelihood: The label's probability, float64.
        guess: 1 where foreground is predicted.
        missed: 1 where the label is not the top class.
    """

    probs: Tensor
    labels: Tensor
    ignored: Tensor
    top: Tensor
    likelihood: Tensor
    guess: Tensor
    missed: Tensor


def read_piece(
    probs: Tensor, target: Tensor, ignore_index: int, doubts: list[Tensor]
) -> PieceFacts:
    """Read a piece and note in ``doubts`` what speaks against it.

    Args:
        probs: Probabilities ``(C, L)`` of any floating type.
        target: Labels ``(1, L)``, integers or floats.
        ignore_index: Label of voxels to leave out.
        doubts: Gets one float tensor ``(5,)`` more: the largest deviation of a row sum from 1,
            minus the smallest probability, the largest label, minus the smallest label, and the
            largest distance of a label from a whole number.
    """
    if probs.dtype != torch.float64:
        probs = probs.float()
    # Whole numbers above 2**24 are rounded, to others that are no class either.
    labels = target[0].float()
    ignored = (labels == ignore_index).float()
    labels = labels * (1 - ignored)
    smallest, largest = torch.aminmax(labels)
    broken = torch.zeros_like(largest)
    if target.is_floating_point():
        whole = labels.round()
        broken = (whole - labels).abs_().amax()
        labels = whole.nan_to_num_(0.0)
    noted = [probs.sum(0).sub_(1).abs_().amax(), -probs.amin(), largest, -smallest, broken]
    doubts.append(torch.stack([n.to(probs.dtype) for n in noted]))
    labels = labels.clamp_(0, probs.shape[0] - 1)
    return PieceFacts(probs, labels, ignored, *_top_label(probs, labels.to(torch.int64)))


def _top_label(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the top probability, the label's, and whether foreground is guessed, the label missed.

    Among equal probabilities the lowest class is the top one, as for ``argmax``. A float32 widened
    to float64 has 29 spare bits; the class's rank goes there, so that one maximum decides ties too.
    """
    if probs.dtype == torch.float64:
        top, predicted = probs.max(dim=0)
        likelihood = probs.gather(0, labels[None])[0]
        return top, likelihood, (predicted > 0).float(), (predicted != labels).float()
    ranks = torch.arange(probs.shape[0] - 1, -1, -1, device=probs.device)[:, None]
    keys = probs.double().view(torch.int64) | ranks
    best = keys.view(torch.float64).amax(0)
    own = keys.gather(0, labels[None])[0]
    guess = (best - keys[0].view(torch.float64)).ceil_().clamp_max_(1)
    missed = (best - own.view(torch.float64)).ceil_().clamp_max_(1)
    likelihood = (own & -(1 << 29)).view(torch.float64)
    return probs.amax(0), likelihood, guess.float(), missed.float()


def refuse_doubtful(
    doubts: list[float], dtype: torch.dtype, num_classes: int, ignore_index: int
) -> None:
    """Raise for what is no distribution and for labels that are no class.

    Args:
        doubts: The largest of each of the five numbers of :func:`read_piece`, on the host.
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
