r"""Count one piece of voxels in the exact histogram, by class, label and prediction.

Each voxel gets a *code* that determines its regions and hits:

- ``0``: labeled and predicted background;
- ``1..C-1``: the label, a foreground class;
- ``C``: labeled background, predicted foreground (a false positive);
- ``C + 1``: ignored.

Cells are then counted by (code, cell) with integer scatters, and regions and hits are sums over
codes afterwards. With ``M`` region masks the codes are repeated
:math:`2^M` times, once for each combination of masks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbls.metrics._kernel.edges import GRID_CELLS, cells_as_floats
from mbls.metrics._kernel.fixed_point import (
    FIXED_BITS,
    LOG_BITS,
    MAX_PACKED,
    negative_log,
    packed,
    unpacked,
    unpacked_overflow,
)
from mbls.metrics._kernel.pieces import MAX_VOXELS
from mbls.metrics._kernel.voxel_inputs import VoxelInputs, read_voxels, union_probs
from mbls.runtime.scratch import Scratch

NLL_FLOOR = 1e-12
"""Lower limit of the true class's probability in the negative log-likelihood."""
# logarithms are packed in units of 2**-26; a floored voxel adds 2**47 of them, above their sum
_LOG_SCALE = 2.0 ** (LOG_BITS - FIXED_BITS)
_FLOORED = 2.0 ** (47 - FIXED_BITS)


class CellCounter:
    """Count the voxels of one case; all sums are int64.

    Args:
        num_classes: C.
        unions: Sets of classes, one channel each after the classes.
        masks: Number of regions with masks.
        ignore_index: Label of ignored voxels.
        device: Device of the voxels.

    Attributes:
        extremes: Extremes of each piece (:class:`mbls.metrics._kernel.voxel_inputs.VoxelInputs`).
    """

    def __init__(
        self,
        num_classes: int,
        unions: Sequence[tuple[int, ...]],
        masks: int,
        ignore_index: int,
        device: torch.device,
    ) -> None:
        self.unions, self.ignore_index = unions, ignore_index
        self.extremes: list[Tensor] = []
        # Rows: top label, classes, unions; squares and logarithms, in cell 0. Places: by code and
        # cell, for the top label's hits; then again, for its misses.
        self._places = ((num_classes + 2) << masks) * GRID_CELLS
        shape = (1 + num_classes + len(unions) + 2, 2 * self._places)
        self._packed = torch.zeros(shape, dtype=torch.int64, device=device)
        self._sums = self._packed.new_zeros(2, *shape)  # voxels, or floored ones; total
        self._voxels = 0
        self._scratch = Scratch(device)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums.

        Returns:
            Voxels and fixed-point confidences of each class and union ``(channels, codes, 61, 2)``,
            with ``codes`` = ``(C + 2) * 2**masks``; the same for hits and misses of the top label,
            ``(2, codes, 61, 2)``; and the sums of squared probabilities (2**-30), of negative
            log-likelihoods (2**-26) and of floored voxels, ``(codes, 3)``.
        """
        self._unpack()
        cells = self._sums.movedim(0, -1).unflatten(1, (2, -1, GRID_CELLS))
        (_, squares), (floored, logs) = cells[-2:, 0, :, 0].movedim(-1, 1)
        return cells[1:-2, 0], cells[0], torch.stack([squares, logs, floored], -1)

    def _unpack(self) -> None:
        """Add the packed sums to the unpacked ones."""
        voxels, totals = unpacked(self._packed)
        voxels[-1] = unpacked_overflow(self._packed[-1], voxels[-2])
        self._sums[0] += voxels
        self._sums[1] += totals
        self._packed.zero_()
        self._voxels = 0

    def add(self, probs: Tensor, target: Tensor, masks: Tensor | None) -> None:
        """Add a piece of voxels.

        Invalid values (NaN, negative, labels that are not classes) are counted in arbitrary cells
        and detected later by ``extremes``.

        Args:
            probs: Probabilities ``(C, L)``, at most :data:`MAX_PACKED` voxels.
            target: Labels ``(1, L)``.
            masks: Bits of the regions with masks, float32 ``(1, L)``, or None.
        """
        if self._voxels + probs.shape[1] > MAX_PACKED:
            self._unpack()
        self._voxels += probs.shape[1]
        voxels = read_voxels(probs, target, self.ignore_index, self._scratch)
        self.extremes.append(voxels.extremes)
        start = self._codes(voxels, masks).mul_(GRID_CELLS)
        scores = self._scratch("scores", (2, len(start)), torch.float64).zero_()
        self._count(1, voxels.probs, start, squares=scores[0])
        self._count(1 + len(voxels.probs), union_probs(voxels.probs, self.unions), start)
        missed = torch.ne(voxels.predicted, voxels.labels, out=voxels.predicted)
        self._add_logs(voxels, scores[1])
        self._scatter(len(self._packed) - 2, start[None], scores)
        # the top label is last, since its misses change start
        self._count(0, voxels.top[None], start.add_(missed, alpha=self._places))

    def _codes(self, voxels: VoxelInputs, masks: Tensor | None) -> Tensor:
        """Return each voxel's code, float32 ``(L,)``."""
        C, L = voxels.probs.shape
        code = self._scratch("code", (L,), torch.float32)
        torch.sub(voxels.labels, voxels.kept, alpha=C + 1, out=code).add_(C + 1)
        background = torch.eq(code, 0, out=self._scratch("background", (L,), torch.float32))
        code.addcmul_(background, voxels.predicted.clamp_max(1), value=C)
        return code if masks is None else code.add_(masks[0], alpha=C + 2)

    def _count(
        self, row: int, values: Tensor, start: Tensor, squares: Tensor | None = None
    ) -> None:
        """Add the cells of channels ``(channels, L)`` from ``row`` on, in blocks of cache size."""
        step = max(1, MAX_VOXELS // values.shape[1])
        for first in range(0, len(values), step):
            block = values[first : first + step]
            shape = tuple(block.shape)
            places = cells_as_floats(block, self._scratch("places", shape, torch.float32))
            numbers = self._scratch("numbers", shape, torch.float64).copy_(block)
            if squares is not None:  # in class order: float64 sums depend on it
                wide = self._scratch("squares", shape, torch.float64)
                for square in torch.mul(numbers, numbers, out=wide):
                    squares += square
            self._scatter(row + first, places.add_(start), numbers)

    def _scatter(self, row: int, places: Tensor, numbers: Tensor) -> None:
        """Add numbers ``(rows, L)``, which are overwritten, at places ``(rows or 1, L)``."""
        shape = tuple(places.shape)
        short = self._scratch("short", shape, torch.int32).copy_(places)
        short.clamp_(0, 2 * self._places - 1)  # NaN, which is rejected later
        index = self._scratch("index", shape, torch.int64).copy_(short).expand_as(numbers)
        self._packed[row : row + len(numbers)].scatter_add_(1, index, packed(numbers))

    def _add_logs(self, voxels: VoxelInputs, logs: Tensor) -> None:
        """Add each voxel's negative log-likelihood, and count floored voxels."""
        index = self._scratch("index", (1, len(logs)), torch.int64).copy_(voxels.labels)
        own = torch.gather(voxels.probs, 0, index)[0]
        floored = torch.lt(own, NLL_FLOOR, out=voxels.labels)
        logs.add_(floored, alpha=_FLOORED)
        logs.add_(negative_log(own.clamp_min_(NLL_FLOOR)), alpha=_LOG_SCALE)
