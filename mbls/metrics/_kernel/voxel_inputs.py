"""Labels, predictions and validity of each voxel of a piece.

Decisions are arithmetic on 0 and 1, for all classes in one operation: few long operations reduce
contention for the GIL, and boolean masks are several times slower.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbls.runtime.scratch import Scratch


class VoxelInputs(NamedTuple):
    """One piece of L voxels, in reusable buffers.

    Attributes:
        probs: Probabilities ``(C, L)``, float32 or float64.
        top: The highest of them ``(L,)``.
        labels: Labels 0..C-1, float32 ``(L,)``; 0 where ignored.
        kept: 0 for ignored voxels, else 1, float32 ``(L,)``.
        predicted: The top class, float32 ``(L,)``; the first one in a tie, like ``argmax``.
        extremes: The smallest and largest row sum, the smallest probability, the smallest and
            largest label, and the largest distance of a label from a whole number, ``(6,)``.
    """

    probs: Tensor
    top: Tensor
    labels: Tensor
    kept: Tensor
    predicted: Tensor
    extremes: Tensor


def read_voxels(probs: Tensor, target: Tensor, ignore_index: int, scratch: Scratch) -> VoxelInputs:
    """Read a piece; invalid values become arbitrary valid ones and are visible in ``extremes``.

    Args:
        probs: Probabilities ``(C, L)`` of any floating type.
        target: Labels ``(1, L)``, integers or floats.
        ignore_index: Label of ignored voxels.
        scratch: Reusable buffers.
    """
    if probs.dtype != torch.float64:
        probs = probs.float()
    C, L = probs.shape
    # whole numbers above 2**24 are rounded, but are not classes anyway
    labels = scratch("labels", (L,), torch.float32).copy_(target[0])
    kept = torch.ne(labels, ignore_index, out=scratch("kept", (L,), torch.float32))
    low, high = torch.aminmax(labels.mul_(kept))
    broken = torch.zeros_like(low)
    if target.is_floating_point():
        whole = labels.round()
        broken = (whole - labels).abs_().amax()
        labels = whole.nan_to_num_(0.0)
    total = torch.sum(probs, 0, out=scratch("top", (L,), probs.dtype))
    noted = (*torch.aminmax(total), probs.amin(), low, high, broken)
    extremes = torch.stack([n.to(probs.dtype) for n in noted])
    top = torch.amax(probs, 0, out=total)
    predicted = first_of_largest(probs, top, scratch)
    return VoxelInputs(probs, top, labels.clamp_(0, C - 1), kept, predicted, extremes)


def first_of_largest(scores: Tensor, largest: Tensor, scratch: Scratch) -> Tensor:
    """Return the first class that has the largest score, float32 ``(L,)``.

    Args:
        scores: Scores ``(C, L)``, float32 or float64.
        largest: The largest of each column ``(L,)``.
        scratch: Reusable buffers.
    """
    C, L = scores.shape
    ranks = torch.arange(C, 0, -1, dtype=torch.float32, device=scores.device)
    # C for the first class down to 1 for the last, 0 where the score is not the largest
    rank = torch.eq(scores, largest, out=scratch("rank", (C, L), torch.float32))
    highest = torch.amax(
        rank.mul_(ranks[:, None]), 0, out=scratch("predicted", (L,), torch.float32)
    )
    return highest.neg_().add_(C)


def union_probs(probs: Tensor, unions: Sequence[tuple[int, ...]]) -> Tensor:
    """Return each union's probability ``(unions, L)``, the sum over its classes in their order."""
    sums = probs.new_empty(len(unions), probs.shape[1])
    for row, members in zip(sums, unions, strict=True):
        row.copy_(probs[members[0]])
        for k in members[1:]:
            row += probs[k]
    return sums.clamp_max_(1)
