"""The histogram of all calibration metrics: exact sums, independent of batching and order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mbls.metrics._kernel.checks import (
    check_index,
    check_shapes,
    refuse_invalid,
    worst,
)
from mbls.metrics._kernel.counting import CellCounter
from mbls.metrics._kernel.edges import GRID_CELLS, grid_edges
from mbls.metrics._kernel.fixed_point import FIXED_ONE, SUM_LIMIT
from mbls.metrics._kernel.pieces import count_pieces
from mbls.metrics.base import CaseMetric
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.regions import (
    CODE_REGIONS,
    MASK_REGIONS,
    check_regions,
    code_slice,
    region_masks,
)
from mbls.metrics.truth import expected_cells


class CalibrationHistogram(CaseMetric):
    """Count probabilities in exact bins for the top label, each class and each union.

    All states are int64 and summed over processes, so they are bitwise identical for any split of
    the voxels into batches, shards and ranks. With ``num_cases`` they have a leading case axis:

    - ``cells`` ``(regions, channels, 61, 3)``: voxels, hits, and the sum of confidences as offsets
      from the lower edge of the cell in units of 2**-30; channels are the top label, the classes
      and the unions;
    - ``sums`` ``(regions, 4)``: voxels, Brier score (2**-30), negative log-likelihood (2**-26) and
      the number of voxels whose likelihood was clamped to ``NLL_FLOOR``;
    - ``truth`` like ``cells``: weights, hits and confidences expected over the posterior, all in
      units of 2**-30, if a posterior was given (:mod:`mbls.metrics.truth`);
    - ``known`` ``()``: voxels with a posterior.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        unions: Named sets of classes with one binary probability each, the sum of theirs.
        regions: Names of regions (:mod:`mbls.metrics.regions`), an axis of the states.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        num_cases: Number of cases with separate states, identified by ``index``; None pools them.
        ignore_index: Label of ignored voxels.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: Unknown regions, invalid unions, or ``num_cases`` below 1.
    """

    cells: Tensor
    sums: Tensor
    truth: Tensor
    known: Tensor
    edges: Tensor
    member: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        regions: Sequence[str] = CODE_REGIONS,
        dilated_mm: float = 5.0,
        boundary_mm: float = 3.0,
        num_cases: int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        self.regions = check_regions(regions, dilated_mm=dilated_mm, boundary_mm=boundary_mm)
        self.dilated_mm, self.boundary_mm = dilated_mm, boundary_mm
        lead = () if num_cases is None else (num_cases,)
        shape = (*lead, len(self.regions), 1 + num_classes + len(self.unions), GRID_CELLS, 3)
        for name, zeros in {
            "cells": torch.zeros(shape, dtype=torch.int64),
            "sums": torch.zeros(*lead, len(self.regions), 4, dtype=torch.int64),
            "truth": torch.zeros(shape, dtype=torch.int64),
            "known": torch.zeros((), dtype=torch.int64),
        }.items():
            self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_settings_state(self.regions, dilated_mm, boundary_mm)
        lower = torch.from_numpy(grid_edges())
        lower = torch.cat([lower[:1], lower[:-1]]) * FIXED_ONE  # of cells 0..60
        self.register_buffer("edges", lower.to(torch.int64), persistent=False)
        member = torch.zeros(num_classes + len(self.unions), num_classes + 2, dtype=torch.bool)
        for row, classes in enumerate(
            [(k,) for k in range(num_classes)] + list(self.unions.values())
        ):
            member[row, list(classes)] = True
            member[row, num_classes] = 0 in classes  # false foreground is labeled background
        self.register_buffer("member", member, persistent=False)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels: ``"top"``, the class numbers, the unions."""
        return ("top", *map(str, range(self.num_classes)), *self.unions)

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
        posterior: Tensor | None = None,
    ) -> None:
        """Add a batch; an invalid batch changes nothing.

        Args:
            probs: Probabilities ``(N, C, *S)``, each at least 0, summing to one over C.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or whole floats.
            spacing: Voxel size ``(N, len(S))`` in mm; needed by regions measured in mm.
            index: Number of each case ``(N,)``; required with ``num_cases``.
            posterior: The labels' distribution ``(N, C, *S)``, if known.

        Raises:
            TypeError: Invalid dtypes of probabilities or labels.
            ValueError: If shapes do not match, probabilities are negative, NaN or do not sum to
                one, labels are not classes, or an index is out of range.
            OverflowError: If a sum would pass 2**62.
        """
        target = check_shapes(probs, target, self.num_classes)
        numbers = check_index(index, probs.shape[0], self.num_cases)
        if posterior is not None and posterior.shape != probs.shape:
            raise ValueError(
                f"posterior must have the shape of probs {tuple(probs.shape)}, got "
                f"{tuple(posterior.shape)}."
            )
        entries = (
            [slice(None)] if numbers is None else [slice(n, n + 1) for n in range(len(numbers))]
        )
        tensors = [probs.detach(), target.detach()[:, None]]
        if self._masks:
            margins = {"dilated_mm": self.dilated_mm, "boundary_mm": self.boundary_mm}
            tensors.append(
                region_masks(
                    target, spacing, self.regions, ignore_index=self.ignore_index, **margins
                )
            )
        if posterior is not None:
            tensors.append(posterior)
        counted = [self._count([t[e] for t in tensors], posterior is not None) for e in entries]
        if not counted:
            return
        self._check(torch.stack([faults for *_, faults in counted]), probs.dtype)
        for position, (cells, sums, truth, known, _) in enumerate(counted):
            row = () if numbers is None else (numbers[position],)
            self.cells[row] += cells
            self.sums[row] += sums
            self.truth[row] += truth
            self.known += known

    @property
    def _masks(self) -> list[str]:
        return [name for name in MASK_REGIONS if name in self.regions]

    def _count(
        self, tensors: Sequence[Tensor], posterior: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        unions, masks = tuple(self.unions.values()), len(self._masks)

        def count(pieces: Iterator[tuple[Tensor, ...]]) -> tuple[CellCounter, Tensor]:
            counter = CellCounter(
                self.num_classes, unions, masks, self.ignore_index, tensors[0].device
            )
            truth = torch.zeros_like(self.truth[0] if self.num_cases else self.truth)
            for piece in pieces:
                counter.add(piece[0], piece[1], piece[2] if masks else None)
                if posterior:
                    keep = piece[1][0] != self.ignore_index
                    expected = expected_cells(piece[0], piece[-1], keep, unions, self.regions)
                    truth += expected.to(truth.device)
            return counter, truth

        counters, truths = zip(*count_pieces(tensors, self.num_classes, count), strict=True)
        truth = torch.stack(truths).sum(0)
        counted = [
            torch.stack(sums).sum(0) for sums in zip(*(c.sums() for c in counters), strict=True)
        ]
        # voxels may be on another device than the states
        counted = [sums.to(truth.device) for sums in counted]
        cells, sums = self._regions(*counted)
        known = counted[0][0, ..., 0].sum() if posterior else sums.new_zeros(())
        largest = torch.stack([cells.amax(), sums.amax()]).double()
        extremes = [piece for counter in counters for piece in counter.extremes]
        found = worst(extremes) if extremes else largest.new_tensor([0, -1, 0, 0, 0])
        return cells, sums, truth, known, torch.cat([found.to(largest.device), largest])

    def _regions(self, classes: Tensor, tops: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Sum codes to regions and hits: ``(regions, channels, 61, 3)`` and ``(regions, 4)``."""
        C, masks = self.num_classes, self._masks
        rows, sums = [], []
        # add an axis for the combinations of masks
        classes, tops = (counted.unflatten(1, (-1, C + 2)) for counted in (classes, tops))
        scores = scores.unflatten(0, (-1, C + 2))
        for region in self.regions:
            combinations = list(range(1 << len(masks)))
            if region in masks:
                combinations = [c for c in combinations if c >> masks.index(region) & 1]
            codes = code_slice(region, C)
            counted = classes[:, combinations].sum(1)[:, codes]
            hit = counted * self.member[:, codes, None, None]
            voxels, confidence = counted.sum(1).unbind(-1)
            each = torch.stack([voxels, hit[..., 0].sum(1), confidence], -1)
            top = tops[:, combinations][:, :, codes].sum((1, 2))
            both = torch.stack([top[..., 0].sum(0), top[0, :, 0], top[..., 1].sum(0)], -1)
            rows.append(torch.cat([both[None], each]))
            squares, logs, floored = scores[combinations][:, codes].sum((0, 1))
            # sum_k (p_k - y_k)^2 = sum_k p_k^2 - 2 p_y + 1
            total = both[:, 0].sum()
            brier = squares - 2 * hit[:C, ..., 1].sum() + total * FIXED_ONE
            sums.append(torch.stack([total, brier, logs, floored]))
        cells = torch.stack(rows)
        cells[..., 2] -= cells[..., 0] * self.edges
        return cells, torch.stack(sums)

    def _check(self, faults: Tensor, dtype: torch.dtype) -> None:
        """Check distributions, labels and sums, with one transfer to the host."""
        state = torch.stack([self.cells.amax(), self.sums.amax(), self.truth.amax()]).amax()
        *found, cells, sums, full = torch.cat([faults.amax(0), state.double()[None]]).tolist()
        refuse_invalid(found, dtype, self.num_classes, self.ignore_index)
        if full + max(cells, sums) >= SUM_LIMIT:
            raise OverflowError(
                f"A sum would exceed {SUM_LIMIT}: use num_cases for separate sums, or fewer voxels."
            )

    def bins(self) -> CalibrationBins:
        """Return the sums as arrays with named axes, the input of all metrics."""
        return CalibrationBins.from_states(
            cells=self.cells,
            sums=self.sums,
            truth=self.truth if int(self.known) else None,
            regions=self.regions,
            channels=self.channels,
            num_classes=self.num_classes,
            pooled=self.num_cases is None,
        )

    def compute(self) -> Any:
        """Return :meth:`bins` of the states summed over processes."""
        return self.bins()
