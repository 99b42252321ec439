r"""Count one piece of voxels into the exact grid, by class, label and prediction.

Each voxel gets one *code* that says all the regions and hits need to know:

- ``0``: labelled and predicted background;
- ``1..C-1``: the label, a foreground class;
- ``C``: labelled background, predicted foreground (a false positive);
- ``C + 1``: ignored.

A class's cells are then counted by (code, cell) with one integer scatter for the whole piece, and
regions and hits are sums over codes afterwards. With ``M`` region masks the codes are repeated
:math:`2^M` times, once for each combination of masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbls.metrics.fixed_point import FIXED_ONE, LOG_BITS, negative_log, to_fixed
from mbls.metrics.grid import GRID_CELLS, grid_cells

NLL_FLOOR = 1e-12
"""A true class's probability below it counts as this much in the negative log-likelihood."""

# Top-label groups: background rightly predicted, false foreground, foreground hit, foreground
# missed, ignored.
_TOP_GROUPS = 5
# A piece has fewer than 2**16 voxels: sums of confidences stay below 2**47, counts above them.
_SHIFT = 47


@dataclass
class Tally:
    """Sums of one case, all int64.

    Attributes:
        classes: ``(channels, codes, 61, 2)``: voxels and fixed-point confidences of each class and
            union; ``codes`` is ``(C + 2) * 2**masks``.
        top: ``(5 * 2**masks, 61, 2)``: the same for the top label.
        scores: ``(codes, 3)``: Brier score and negative log-likelihood, both fixed-point, and
            voxels whose true class was floored.
        doubt: ``(4,)`` float64: largest deviation of a row sum from 1, smallest probability, number
            of labels that are no class, number of labels that are not whole.
    """

    classes: Tensor
    top: Tensor
    scores: Tensor
    doubt: Tensor

    @classmethod
    def empty(cls, channels: int, num_classes: int, masks: int, device: torch.device) -> "Tally":
        """Return zeros for ``channels`` classes and unions."""
        codes = (num_classes + 2) << masks
        return cls(
            torch.zeros(channels, codes, GRID_CELLS, 2, dtype=torch.int64, device=device),
            torch.zeros(_TOP_GROUPS << masks, GRID_CELLS, 2, dtype=torch.int64, device=device),
            torch.zeros(codes, 3, dtype=torch.int64, device=device),
            torch.zeros(4, dtype=torch.float64, device=device),
        )


def union_probs(probs: Tensor, unions: Sequence[tuple[int, ...]]) -> Tensor:
    """Return each union's probability ``(unions, L)``, the sum over its classes in their order."""
    sums = probs.new_empty(len(unions), probs.shape[1])
    for row, members in zip(sums, unions, strict=True):
        row.copy_(probs[members[0]])
        for k in members[1:]:
            row += probs[k]
    return sums.clamp_max_(1)


def count_piece(
    tally: Tally,
    probs: Tensor,
    target: Tensor,
    masks: Tensor | None,
    unions: Sequence[tuple[int, ...]],
    ignore_index: int,
) -> None:
    """Add a piece of voxels to ``tally`` in place.

    What is refused later (NaN, negative values, labels that are no class) is counted somewhere and
    noted in ``tally.doubt``. Decisions per voxel are arithmetic on 0 and 1 in float32: several times
    faster than selection by masks.

    Args:
        tally: Sums to add to.
        probs: Probabilities ``(C, L)``, at most :data:`MAX_VOXELS`.
        target: Labels ``(1, L)``.
        masks: Membership in further regions as bits of a float32 ``(1, L)``, or None.
        unions: Sets of classes, one channel each after the classes.
        ignore_index: Label of voxels to leave out.
    """
    C = probs.shape[0]
    if probs.dtype != torch.float64:
        probs = probs.float()
    tally.doubt[0] = torch.maximum(tally.doubt[0], probs.sum(0).sub_(1).abs_().amax().double())
    tally.doubt[1] = torch.minimum(tally.doubt[1], probs.amin().double())
    ignored, labels = _labels(tally, target[0], ignore_index, C)
    keep = 1 - ignored

    top, likelihood, missed = _top_label(probs, labels)
    foreground = (labels > 0).float()
    false = (probs[0] < top).float().mul_(1 - foreground)
    code = (labels + false * C).mul_(keep).add_(ignored * (C + 1))
    group = foreground.mul_(missed.add_(2)).add_(false).mul_(keep).add_(ignored * (_TOP_GROUPS - 1))
    if masks is not None:
        code += masks[0] * (C + 2)
        group += masks[0] * _TOP_GROUPS

    code = code.to(torch.int32)
    _add_cells(tally.classes, probs, code)
    _add_cells(tally.top[None], top[None], group.to(torch.int32))
    _add_scores(tally.scores, probs, likelihood, code.to(torch.int64))
    if unions:
        _add_cells(tally.classes[C:], union_probs(probs, unions), code)


def _labels(
    tally: Tally, target: Tensor, ignore_index: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return where voxels are ignored (0 or 1) and the labels with 0 there, both float32 ``(L,)``."""
    # Whole numbers above 2**24 would be rounded, to other numbers that are no class either.
    labels = target.float()
    ignored = (labels == ignore_index).float()
    labels = labels * (1 - ignored)
    bounded = labels.clamp(0, num_classes - 1)
    tally.doubt[2] += (labels != bounded).sum()
    if target.is_floating_point():
        whole = bounded.round()
        tally.doubt[3] += (whole != bounded).sum()
        bounded = whole.nan_to_num_(0.0)
    return ignored, bounded


def _top_label(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest probability, the label's, and whether the label is not the top class.

    Among equal probabilities the lowest class is the top one, as for ``argmax``.
    """
    top = probs.amax(dim=0)
    likelihood = probs.gather(0, labels.to(torch.int64)[None])[0]
    missed = (likelihood < top).float()
    # A tie is a miss if a class below the label is as probable.
    ahead = probs[0].clone()
    for k in range(1, probs.shape[0]):
        missed += (ahead == top).logical_and_(labels == k)
        if k + 1 < probs.shape[0]:
            torch.maximum(ahead, probs[k], out=ahead)
    return top, likelihood, missed.clamp_max_(1)


def _add_cells(sums: Tensor, probs: Tensor, code: Tensor) -> None:
    """Count ``(K, L)`` probabilities by code and cell into ``(>= K, codes, 61, 2)``."""
    rows, codes = probs.shape[0], sums.shape[1]
    cells = grid_cells(probs).add_(code * GRID_CELLS).to(torch.int64)
    values = to_fixed(probs).add_(1 << _SHIFT)
    packed = values.new_zeros(rows, codes * GRID_CELLS).scatter_add_(1, cells, values)
    packed = packed.view(rows, codes, GRID_CELLS)
    sums[:rows, ..., 0] += packed >> _SHIFT
    sums[:rows, ..., 1] += packed & ((1 << _SHIFT) - 1)


def _add_scores(sums: Tensor, probs: Tensor, likelihood: Tensor, code: Tensor) -> None:
    """Add Brier scores, negative log-likelihoods and floored voxels by code to ``(codes, 3)``."""
    likelihood = likelihood.double()
    # sum_k (p_k - y_k)^2 = sum_k p_k^2 - 2 p_y + 1, in float64 and in the order of the classes.
    brier = 1 - 2 * likelihood
    for row in probs:
        brier += row.double().square_()
    brier = brier.mul_(FIXED_ONE).round_()
    brier += (likelihood < NLL_FLOOR).double().mul_(float(1 << _SHIFT))
    nll = to_fixed(negative_log(likelihood.clamp_min_(NLL_FLOOR)), LOG_BITS)
    packed = nll.new_zeros(sums.shape[0]).scatter_add_(0, code, brier.to(torch.int64))
    sums[:, 0] += packed & ((1 << _SHIFT) - 1)
    sums[:, 2] += packed >> _SHIFT
    sums[:, 1].scatter_add_(0, code, nll)
