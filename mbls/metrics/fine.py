r"""The fine histogram: 4096 cells in log-odds, for metrics that need more than 60 bins.

Cells 1 to 4094 divide the log-odds from -20 to 20 into intervals of width :math:`40/4094`; cells 0
and 4095 contain the rest. A cell is at most 0.0025 wide in probability, and narrower near 0 and 1.
Its mean confidence is exact, so a result from cells differs from that of single voxels only by
their positions within cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbls.metrics._kernel.checks import (
    check_shapes,
    refuse_invalid,
    worst,
)
from mbls.metrics._kernel.fixed_point import negative_log, to_fixed
from mbls.metrics._kernel.pieces import count_pieces
from mbls.metrics._kernel.voxel_inputs import read_voxels, union_probs
from mbls.metrics.base import CaseMetric
from mbls.metrics.fine_bins import FINE_CELLS, LOG_ODDS_LIMIT, FineBins
from mbls.metrics.regions import CODE_REGIONS
from mbls.runtime.scratch import Scratch

_SMALLEST = 1e-30
# by label and prediction: true background, false foreground, labeled foreground, ignored
_PARTS = 4
_REGION_PARTS = {"all": [0, 1, 2], "label": [2], "union": [1, 2]}
_SHIFT = 47
_LOW = (1 << _SHIFT) - 1


def fine_cells(probs: Tensor) -> Tensor:
    """Return the cell of each probability, int64, shape of ``probs``; arbitrary for NaN."""
    odds = negative_log((1 - probs).clamp_(_SMALLEST, 1))
    odds.sub_(negative_log(probs.clamp(_SMALLEST, 1)))
    cells = (odds + LOG_ODDS_LIMIT).mul_((FINE_CELLS - 2) / (2 * LOG_ODDS_LIMIT)).floor_().add_(1)
    return cells.nan_to_num_(0.0).clamp_(0, FINE_CELLS - 1).to(torch.int64)


class FineHistogram(CaseMetric):
    """Count the probabilities of all voxels in the fine histogram.

    The state ``cells`` is int64 ``(regions, channels, 4096, 3)``: voxels, hits and summed
    confidences in units of 2**-30; channels are the top label, the classes and the unions. Like
    :class:`mbls.metrics.CalibrationHistogram` it does not depend on batching, order or processes.

    Args:
        num_classes: Number of classes, background included.
        unions: Named sets of classes.
        regions: Among ``"all"``, ``"label"`` and ``"union"``.
        ignore_index: Label of ignored voxels.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: ``num_cases`` is given.
        ValueError: Unknown regions, invalid unions, or ``ignore_index`` is a class.
    """

    cells: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        regions: Sequence[str] = CODE_REGIONS,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        if "num_cases" in kwargs:
            raise TypeError(
                f"{type(self).__name__} pools all cases (4096 cells per class and case are too "
                "many), got num_cases. Leave it out, or use CalibrationHistogram."
            )
        super().__init__(num_classes, unions=unions, ignore_index=ignore_index, **kwargs)
        self.regions = tuple(regions)
        if not self.regions or (unknown := [r for r in self.regions if r not in _REGION_PARTS]):
            raise ValueError(f"regions must be among {tuple(_REGION_PARTS)}, got {unknown}.")
        channels = 1 + num_classes + len(self.unions)
        zeros = torch.zeros(len(self.regions), channels, FINE_CELLS, 3, dtype=torch.int64)
        self.add_state("cells", zeros, dist_reduce_fx="sum")
        self.add_settings_state(self.regions)

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Add probabilities ``(N, C, *S)`` and labels ``(N, *S)``, unless the batch is invalid.

        Raises:
            TypeError: Invalid dtypes of probabilities or labels.
            ValueError: Shapes do not match, rows are not distributions, or labels not classes.
        """
        del spacing, index
        target = check_shapes(probs, target, self.num_classes)

        def count(pieces: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, list[Tensor]]:
            extremes: list[Tensor] = []
            shape = (self.cells.shape[1], _PARTS * 2, FINE_CELLS, 2)
            counted = torch.zeros(shape, dtype=torch.int64, device=probs.device)
            scratch = Scratch(probs.device)
            for piece, labels in pieces:
                extremes.append(self._count(counted, piece, labels, scratch))
            return counted, extremes

        found = count_pieces([probs.detach(), target[:, None]], self.num_classes, count)
        extremes = [piece for _, pieces in found for piece in pieces]
        if not extremes:
            return
        refuse_invalid(worst(extremes).tolist(), probs.dtype, self.num_classes, self.ignore_index)
        counted = torch.stack([cells for cells, _ in found]).sum(0).to(self.cells.device)
        counted = counted.unflatten(1, (_PARTS, 2))
        for position, region in enumerate(self.regions):
            missed, hit = counted[:, _REGION_PARTS[region]].sum(1).unbind(1)
            voxels, confidence = (missed + hit).unbind(-1)
            self.cells[position] += torch.stack([voxels, hit[..., 0], confidence], -1)

    def _count(self, counted: Tensor, probs: Tensor, target: Tensor, scratch: Scratch) -> Tensor:
        """Add a piece to the sums and return its extremes."""
        unions = tuple(self.unions.values())
        voxels = read_voxels(probs, target, self.ignore_index, scratch)
        joined = union_probs(voxels.probs, unions)
        values, labels = torch.cat([voxels.top[None], voxels.probs, joined]), voxels.labels
        classes = [(labels == k).float() for k in range(self.num_classes)]
        member = [torch.stack([classes[k] for k in members]).sum(0) for members in unions]
        hits = torch.stack([(voxels.predicted == labels).float(), *classes, *member])
        part = torch.maximum(labels.clamp_max(1) * 2, voxels.predicted.clamp_max(1))
        part = torch.maximum(part, (1 - voxels.kept) * (_PARTS - 1))
        group = torch.add(hits, part, alpha=2).to(torch.int64)
        cells = fine_cells(values).add_(group, alpha=FINE_CELLS)
        packed = cells.new_zeros(len(values), _PARTS * 2 * FINE_CELLS)
        packed.scatter_add_(1, cells, to_fixed(values).add_(1 << _SHIFT))
        counted[..., 0] += (packed >> _SHIFT).view(counted.shape[:-1])
        counted[..., 1] += (packed & _LOW).view(counted.shape[:-1])
        return voxels.extremes

    def bins(self) -> FineBins:
        """Return the sums as an array with named axes."""
        return FineBins.from_state(self.cells, self.regions)

    def table(self, region: str) -> np.ndarray:
        """Return one region's voxels, hits and confidences, float64 ``(3, channels, 4096)``.

        Raises:
            ValueError: If the region was not counted.
        """
        return self.bins().table(region)

    def compute(self) -> Any:
        """Return the table of the first region."""
        return self.table(self.regions[0])
