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

from mbls.metrics._kernel.edges import GRID_CELLS, cells_as_floats
from mbls.metrics._kernel.facts import PieceFacts, read_piece
from mbls.metrics._kernel.fixed_point import (
    FIXED_BITS,
    LOG_BITS,
    MAX_PACKED,
    negative_log,
    packed,
    unpacked,
    unpacked_overflow,
)
from mbls.runtime.scratch import Scratch

NLL_FLOOR = 1e-12
"""A true class's probability below it counts as this much in the negative log-likelihood."""
_FLOORED = float(1 << 21)  # 2**47 in units of 2**-26: above what 2**16 logarithms sum to


class Tally:
    """Sums of one case, all int64.

    Attributes:
        classes: ``(channels, codes, 61, 2)``: voxels and fixed-point confidences of each class and
            union; ``codes`` is ``(C + 2) * 2**masks``.
        top: ``(2, codes, 61, 2)``: the same for the top label, hits and misses apart.
        scores: ``(codes, 3)``: sums of squared probabilities (2**-30) and negative log-likelihoods
            (2**-26), and voxels whose true class was floored.
        doubts: What speaks against the voxels, piece by piece (:mod:`mbls.metrics._kernel.facts`).
    """

    def __init__(self, num_classes: int, unions: int, masks: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        codes = (num_classes + 2) << masks
        self.classes = zeros(num_classes + unions, codes, GRID_CELLS, 2)
        self.top = zeros(2, codes, GRID_CELLS, 2)
        self.scores = zeros(codes, 3)
        self.doubts: list[Tensor] = []
        # Packed: top label, classes and unions; only the top label tells misses (second half).
        self._cells = zeros(1 + num_classes + unions, 2 * codes * GRID_CELLS)
        self._scores = zeros(2, codes)
        self._voxels = 0
        self._scratch = Scratch(device)

    def merge(self, other: "Tally") -> None:
        """Add the public sums of a tally of other voxels of the case."""
        self.classes += other.classes
        self.top += other.top
        self.scores += other.scores
        self.doubts += other.doubts

    def flush(self) -> None:
        """Move the packed sums of the last pieces to the public ones."""
        both = torch.stack(unpacked(self._cells, FIXED_BITS), -1)
        both = both.unflatten(1, (2, -1, GRID_CELLS))
        self.top += both[0]
        self.classes += both[1:, 0]
        voxels, squares = unpacked(self._scores[0], FIXED_BITS)
        floored, logs = unpacked_overflow(self._scores[1], LOG_BITS, voxels)
        self.scores += torch.stack([squares, logs, floored], -1)
        self._cells.zero_()
        self._scores.zero_()
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
            probs: Probabilities ``(C, L)``, at most :data:`MAX_PACKED` voxels.
            target: Labels ``(1, L)``.
            masks: Membership in further regions as bits of a float32 ``(1, L)``, or None.
            unions: Sets of classes, one channel each after the classes.
            ignore_index: Label of voxels to leave out.
        """
        if self._voxels + probs.shape[1] > MAX_PACKED:
            self.flush()
        self._voxels += probs.shape[1]
        facts = read_piece(probs, target, ignore_index, self.doubts, self._scratch)
        code = self._codes(facts, masks)
        self._add_scores(facts, code)
        self._add_cells(facts, unions, code)

    def _codes(self, facts: PieceFacts, masks: Tensor | None) -> Tensor:
        """Return each voxel's code, float32 ``(L,)``."""
        C, L = facts.probs.shape
        code = self._scratch("code", (L,), torch.float32)
        background = self._scratch("background", (L,), torch.float32)
        torch.add(facts.labels, facts.ignored, alpha=C + 1, out=code)
        torch.clamp_max(code, 1, out=background).neg_().add_(1)
        code.add_(background.mul_(facts.guess), alpha=C)
        return code if masks is None else code.add_(masks[0], alpha=C + 2)

    def _add_cells(
        self, facts: PieceFacts, unions: Sequence[tuple[int, ...]], code: Tensor
    ) -> None:
        """Scatter the top label, the classes and the unions, one by one: each fits the cache."""
        start = code.mul_(GRID_CELLS)
        joined = union_probs(facts.probs, unions) if unions else ()
        for channel, probs in enumerate((*facts.probs, *joined), 1):
            self._scatter(channel, probs, start)
        # The top label comes last, since its misses change the start.
        missed = start.add_(facts.missed, alpha=self._cells.shape[1] // 2)
        self._scatter(0, facts.top.to(facts.probs.dtype), missed)

    def _scatter(self, channel: int, probs: Tensor, start: Tensor) -> None:
        voxels, scratch = probs.shape, self._scratch
        floats = cells_as_floats(probs, scratch("float32", voxels, torch.float32)).add_(start)
        values = scratch("wide", voxels, torch.float64).copy_(probs)
        self._add_packed(self._cells[channel], floats, packed(values, FIXED_BITS, values))

    def _add_packed(self, sums: Tensor, places: Tensor, values: Tensor) -> None:
        """Add ``(L,)`` packed values at the places given as floats to ``(places,)``."""
        scratch, voxels = self._scratch, values.shape
        # The bounds matter to what is NaN and will be refused.
        index = scratch("int32", voxels, torch.int32).copy_(places).clamp_(0, len(sums) - 1)
        sums.scatter_add_(0, scratch("index", voxels, torch.int64).copy_(index), values)

    def _add_scores(self, facts: PieceFacts, code: Tensor) -> None:
        scratch, voxels = self._scratch, code.shape
        logs = torch.neg(facts.likelihood, out=scratch("float32", voxels, facts.likelihood.dtype))
        logs.add_(NLL_FLOOR).clamp_min_(0).ceil_()
        logs = scratch("wide", voxels, torch.float64).copy_(logs).mul_(_FLOORED)
        logs += negative_log(facts.likelihood.clamp_min(NLL_FLOOR))
        values = facts.squares
        self._add_packed(self._scores[0], code, packed(values, FIXED_BITS, values))
        self._add_packed(self._scores[1], code, packed(logs, LOG_BITS, logs))


def union_probs(probs: Tensor, unions: Sequence[tuple[int, ...]]) -> Tensor:
    """Return each union's probability ``(unions, L)``, the sum over its classes in their order."""
    sums = probs.new_empty(len(unions), probs.shape[1])
    for row, members in zip(sums, unions, strict=True):
        row.copy_(probs[members[0]])
        for k in members[1:]:
            row += probs[k]
    return sums.clamp_max_(1)
