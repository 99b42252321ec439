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

from mbls.metrics.fixed_point import FIXED_BITS, FIXED_ONE, LOG_BITS, negative_log, to_fixed
from mbls.metrics.grid import GRID_CELLS, grid_cells

NLL_FLOOR = 1e-12
"""A true class's probability below it counts as this much in the negative log-likelihood."""

# Top-label groups: background rightly predicted, false foreground, foreground hit, foreground
# missed, ignored.
_TOP_GROUPS = 5
# A piece has at most 2**15 voxels: sums of confidences stay below 2**46, counts above them.
_SHIFT = 46


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


def class_and_union_probs(probs: Tensor, unions: Sequence[tuple[int, ...]]) -> Tensor:
    """Append each union's probability, the sum over its classes in their order, to ``(C, L)``."""
    sums = []
    for members in unions:
        total = probs[members[0]]
        for k in members[1:]:
            total = total + probs[k]
        sums.append(total)
    return torch.cat([probs, torch.stack(sums)]) if sums else probs


def _scatter(index: Tensor, values: Tensor, size: int) -> Tensor:
    return values.new_zeros(size).scatter_add_(0, index.reshape(-1), values.reshape(-1))


def _unpack(packed: Tensor) -> Tensor:
    return torch.stack([packed >> _SHIFT, packed & ((1 << _SHIFT) - 1)], dim=-1)


def count_piece(
    tally: Tally,
    probs: Tensor,
    target: Tensor,
    masks: Tensor | None,
    unions: Sequence[tuple[int, ...]],
    ignore_index: int,
) -> None:
    """Add a piece of voxels to ``tally`` in place.

    Args:
        tally: Sums to add to.
        probs: Probabilities ``(C, L)``, at most 2**15 voxels.
        target: Labels ``(1, L)``.
        masks: Membership in further regions as bits of an int64 ``(1, L)``, or None.
        unions: Sets of classes, one channel each after the classes.
        ignore_index: Label of voxels to leave out.
    """
    C = probs.shape[0]
    if probs.dtype != torch.float64:
        probs = probs.float()
    labels = target[0].long()
    ignored = labels == ignore_index
    wrong = ((labels < 0) | (labels >= C)) & ~ignored
    skip = ignored | wrong
    if target.is_floating_point():
        tally.doubt[3] += (target[0] != labels).sum()
    tally.doubt[2] += wrong.sum()
    tally.doubt[0] = torch.maximum(tally.doubt[0], (probs.sum(0) - 1).abs().amax().double())
    tally.doubt[1] = torch.minimum(tally.doubt[1], probs.amin().double())
    labels = labels.masked_fill(skip, 0)

    probs = probs.nan_to_num(0.0).clamp_(0, 1)  # what is refused must still have a cell
    top, predicted = probs.max(dim=0)
    foreground = labels > 0
    code = torch.where((predicted > 0) & ~foreground, C, labels).masked_fill_(skip, C + 1)
    group = foreground * (3 - (predicted == labels).long()) + (code == C)
    group.masked_fill_(skip, _TOP_GROUPS - 1)
    if masks is not None:
        code += masks[0] * (C + 2)
        group += masks[0] * _TOP_GROUPS

    fixed = to_fixed(probs)
    squares = (fixed * fixed).sum(0)
    truth = fixed.gather(0, labels[None])[0]
    # sum_k (p_k - y_k)^2 = sum_k p_k^2 - 2 p_y + 1, exact in units of 2**-60, then rounded.
    brier = squares - (truth << (FIXED_BITS + 1)) + (1 << 2 * FIXED_BITS)
    brier = (brier + (FIXED_ONE >> 1)) >> FIXED_BITS
    likelihood = probs.gather(0, labels[None])[0]
    nll = to_fixed(negative_log(likelihood.double().clamp_min(NLL_FLOOR)), LOG_BITS)
    nll += (likelihood < NLL_FLOOR).long() << _SHIFT
    codes = tally.scores.shape[0]
    tally.scores[:, 0] += _scatter(code, brier, codes)
    logs = _unpack(_scatter(code, nll, codes))
    tally.scores[:, 1] += logs[:, 1]
    tally.scores[:, 2] += logs[:, 0]

    one = 1 << _SHIFT
    both = class_and_union_probs(probs, unions)
    if unions:
        both = both.clamp_max(1)
        fixed = torch.cat([fixed, to_fixed(both[C:])])
    cells = grid_cells(both).long()
    offsets = torch.arange(both.shape[0], device=probs.device)[:, None] * codes
    cells += (code + offsets) * GRID_CELLS
    packed = _scatter(cells, fixed + one, tally.classes[..., 0].numel())
    tally.classes += _unpack(packed).view(tally.classes.shape)
    cells = grid_cells(top).long() + group * GRID_CELLS
    packed = _scatter(cells, to_fixed(top) + one, tally.top[..., 0].numel())
    tally.top += _unpack(packed).view(tally.top.shape)
