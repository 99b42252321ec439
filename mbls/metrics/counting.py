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

import torch
from torch import Tensor

from mbls.metrics.facts import read_piece
from mbls.metrics.fixed_point import FIXED_ONE, LOG_BITS, negative_log, to_fixed
from mbls.metrics.grid import GRID_CELLS, grid_cells
from mbls.metrics.scratch import Scratch

NLL_FLOOR = 1e-12
"""A true class's probability below it counts as this much in the negative log-likelihood."""

MAX_VOXELS = (1 << 16) - 1
"""Voxels between two calls of :meth:`Tally.flush`, which bounds the packed sums."""
# Sums of fixed-point values of up to 2**16 voxels stay below 2**47, voxels are counted above.
_SHIFT = 47
_LOW = (1 << _SHIFT) - 1


class Tally:
    """Sums of one case, all int64.

    Attributes:
        classes: ``(channels, codes, 61, 2)``: voxels and fixed-point confidences of each class and
            union; ``codes`` is ``(C + 2) * 2**masks``.
        top: ``(2, codes, 61, 2)``: the same for the top label, hits and misses apart.
        scores: ``(codes, 3)``: sums of squared probabilities (2**-30) and negative log-likelihoods
            (2**-26), and voxels whose true class was floored.
        doubts: What speaks against the voxels, piece by piece (:mod:`mbls.metrics.facts`).
    """

    def __init__(self, num_classes: int, unions: int, masks: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        codes = (num_classes + 2) << masks
        self.classes = zeros(num_classes + unions, codes, GRID_CELLS, 2)
        self.top = zeros(2, codes, GRID_CELLS, 2)
        self.scores = zeros(codes, 3)
        self.doubts: list[Tensor] = []
        # Top label, classes and unions; only the top label tells misses (second half) from hits.
        self._cells = zeros(1 + num_classes + unions, 2 * codes * GRID_CELLS)
        self._squares, self._logs = zeros(codes), zeros(codes)
        self._voxels = 0
        self._scratch = Scratch(device)

    def flush(self) -> None:
        """Move the packed sums of the last pieces to the public ones."""
        both = torch.stack([self._cells >> _SHIFT, self._cells & _LOW], -1)
        both = both.unflatten(1, (2, -1, GRID_CELLS))
        self.top += both[0]
        self.classes += both[1:, 0]
        self._cells.zero_()
        self.scores += torch.stack([self._squares & _LOW, self._logs, self._squares >> _SHIFT], -1)
        self._squares.zero_()
        self._logs.zero_()
        self._voxels = 0

    def add(
        self,
        probs: Tensor,
        target: Tensor,
        masks: Tensor | None,
        unions: Sequence[tuple[int, ...]],
        ignore_index: int,
    ) -> None:
        """Add a piece of voxels; :meth:`flush` completes the sums.

        What is refused later (NaN, negative values, labels that are no class) is counted somewhere
        and noted in ``doubts``.

        Args:
            probs: Probabilities ``(C, L)``, at most :data:`MAX_VOXELS`.
            target: Labels ``(1, L)``.
            masks: Membership in further regions as bits of a float32 ``(1, L)``, or None.
            unions: Sets of classes, one channel each after the classes.
            ignore_index: Label of voxels to leave out.
        """
        C, L = probs.shape
        if self._voxels + L > MAX_VOXELS:
            self.flush()
        self._voxels += L
        facts = read_piece(probs, target, ignore_index, self.doubts, self._scratch)
        probs = facts.probs
        labels = torch.add(facts.labels, facts.ignored, alpha=C + 1)
        background = 1 - labels.clamp_max(1)
        code = torch.add(labels, background.mul_(facts.guess), alpha=C)
        if masks is not None:
            code.add_(masks[0], alpha=C + 2)
        codes = self.top.shape[1]
        # The bounds matter to what is NaN and will be refused.
        group = torch.add(code, facts.missed, alpha=codes).to(torch.int32).clamp_(0, 2 * codes - 1)
        code = code.to(torch.int32).clamp_(0, codes - 1)
        values = [facts.top[None], probs]
        if unions:
            values.append(union_probs(probs, unions))
        shape, scratch = (self._cells.shape[0], L), self._scratch
        channels = torch.cat(values, out=scratch("channels", shape, probs.dtype))
        cells = grid_cells(channels, scratch)
        cells[0] += group.mul_(GRID_CELLS)
        cells[1:] += code * GRID_CELLS
        index = scratch("index", shape, torch.int64).copy_(cells)
        scaled = torch.mul(channels, FIXED_ONE, out=scratch("scaled", shape, probs.dtype)).round_()
        packed = scratch("packed", shape, torch.int64)
        if probs.dtype == torch.float32:  # up to 2**30: by way of int32, which is faster
            packed.copy_(scratch("int32", shape, torch.int32).copy_(scaled))
        else:
            packed.copy_(scaled)
        self._cells.scatter_add_(1, index, packed.add_(1 << _SHIFT))
        self._scatter_scores(probs, facts.likelihood, code.to(torch.int64))

    def _scatter_scores(self, probs: Tensor, likelihood: Tensor, code: Tensor) -> None:
        each = self._scratch("wide", tuple(probs.shape), torch.float64).copy_(probs).square_()
        squares = each[0]
        for row in each[1:]:  # in the order of the classes: float64 sums depend on it
            squares += row
        squares = squares.mul_(FIXED_ONE).round_()
        floored = (NLL_FLOOR - likelihood).clamp_min_(0).ceil_()
        squares.add_(floored, alpha=1 << _SHIFT)
        self._squares.scatter_add_(0, code, squares.to(torch.int64))
        likelihood = likelihood.clamp_min(NLL_FLOOR).to(probs.dtype)
        self._logs.scatter_add_(0, code, to_fixed(negative_log(likelihood), LOG_BITS))


def union_probs(probs: Tensor, unions: Sequence[tuple[int, ...]]) -> Tensor:
    """Return each union's probability ``(unions, L)``, the sum over its classes in their order."""
    sums = probs.new_empty(len(unions), probs.shape[1])
    for row, members in zip(sums, unions, strict=True):
        row.copy_(probs[members[0]])
        for k in members[1:]:
            row += probs[k]
    return sums.clamp_max_(1)
