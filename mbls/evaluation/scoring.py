"""The metrics of a test: one object that counts cases, for a trainer's test and for files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from mbls.data import IGNORE_INDEX, Batch
from mbls.evaluation.run import TestRun
from mbls.metrics import (
    REGIONS,
    CalibrationHistogram,
    CaseConfidence,
    DiceScore,
    FineHistogram,
    HausdorffDistance95,
    NormalizedSurfaceDice,
)
from mbls.metrics.margins import MarginCounts
from mbls.runtime.errors import SettingError

__all__ = ["TestMetrics"]


class ChangedVoxels(Metric):
    """Number of labeled voxels of each case whose predicted class was changed after training."""

    count: Tensor
    known: Tensor

    def __init__(self, num_cases: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros(num_cases, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("known", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, changed: Tensor, label: Tensor, index: Tensor) -> None:
        """Add cases ``(N, *S)``."""
        counts = (changed & (label != IGNORE_INDEX)).flatten(1).sum(dim=1)
        self.count[index.to(counts.device)] += counts
        self.known = torch.ones_like(self.known)

    def compute(self) -> Tensor:
        """Return the number of each case ``(cases,)``."""
        return self.count

    def meta(self) -> dict[str, list[int]]:
        """Return ``changed_voxels`` of each case; nothing if no case was compared."""
        return {"changed_voxels": self.count.tolist()} if bool(self.known) else {}


class VoxelVolume(Metric):
    """Volume of a voxel of each case in ml."""

    ml: Tensor

    def __init__(self, num_cases: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_cases, dtype=torch.float64)
        self.add_state("ml", zeros, dist_reduce_fx="sum")

    def update(self, spacing: Tensor, index: Tensor) -> None:
        """Set that of cases with voxels ``(N, len(S))`` in mm."""
        self.ml[index.to(self.ml.device)] = spacing.to(self.ml).prod(dim=1) / 1000

    def compute(self) -> Tensor:
        """Return that of each case ``(cases,)``; 0 for a case that was not scored."""
        return self.ml


class TestMetrics(nn.Module):
    """Count the cases of a test, one at a time.

    Args:
        num_classes: Number of classes, background included.
        num_cases: Number of cases.
        unions: Named sets of classes that are scored together.
        readers: Number of readers whose labels are scored one by one; 0 for a single label.
        margins: If True, voxels within margins of the predicted structures are counted, which
            takes half as long again.
    """

    __test__ = False  # not a test class of pytest

    def __init__(
        self,
        num_classes: int,
        num_cases: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        readers: int = 0,
        margins: bool = False,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {"num_classes": num_classes, "unions": unions}
        self.fine = FineHistogram(**settings)
        settings["num_cases"] = num_cases
        self.histogram = CalibrationHistogram(regions=REGIONS, **settings)
        self.readers = nn.ModuleList(CalibrationHistogram(**settings) for _ in range(readers))
        self.dice = DiceScore(**settings)
        self.hd95 = HausdorffDistance95(**settings)
        self.nsd = NormalizedSurfaceDice(**settings)
        self.confidence = CaseConfidence(**settings)
        self.changed = ChangedVoxels(num_cases)
        self.voxel = VoxelVolume(num_cases)
        self.margins = MarginCounts(**settings) if margins else None

    def update(
        self,
        probs: Tensor,
        batch: Batch,
        *,
        classes: Tensor | None = None,
        before: Tensor | None = None,
        members: Sequence[Tensor] = (),
    ) -> None:
        """Count a batch of whole volumes.

        Args:
            probs: Probabilities ``(N, C, *S)``.
            batch: Their label, index and spacing, and posterior and readers if known.
            classes: Predicted classes ``(N, *S)`` for overlaps and distances; None for those of the
                highest probability. Calibration is that of the probabilities.
            before: Predicted classes ``(N, *S)`` before the probabilities were calibrated, to count
                the voxels whose class changes.
            members: Predicted classes ``(N, *S)`` of each network of an ensemble, for their
                agreement.

        Raises:
            SettingError: There are more readers than were stated.
        """
        where: dict[str, Any] = {"spacing": batch["spacing"], "index": batch["index"]}
        label, posterior = batch["label"].to(probs.device), batch.get("posterior")
        if posterior is not None:
            posterior = posterior.to(probs.device)
        predicted = probs if classes is None else classes
        with torch.autocast(probs.device.type, enabled=False):
            self.histogram.update(probs, label, posterior=posterior, **where)
            self.fine.update(probs, label, **where)
            self.dice.update(predicted, label, **where)
            self._update_readers(probs, batch, where)
            self.confidence.update(probs, label, classes=classes, members=members, **where)
            self.voxel.update(batch["spacing"], batch["index"])
            if self.margins is not None:
                self.margins.update(predicted, label, **where)
            if before is not None:
                after = probs.argmax(dim=1) if classes is None else classes
                self.changed.update(before != after, label, batch["index"])
            measured = self.hd95.measure(predicted, label, **where)
            for metric in (self.hd95, self.nsd):
                metric.update(predicted, label, measured=measured, **where)

    def _update_readers(self, probs: Tensor, batch: Batch, where: Mapping[str, Any]) -> None:
        if "readers" not in batch:
            return
        labels = batch["readers"].unbind(dim=1)
        if len(labels) > len(self.readers):
            raise SettingError(
                f"A batch has labels of {len(labels)} readers, but num_readers('test') of the "
                f"datamodule states {len(self.readers) or 1}: add it, or leave out readers."
            )
        for histogram, label in zip(self.readers, labels, strict=False):
            cast(CalibrationHistogram, histogram).update(probs, label.to(probs.device), **where)

    def metrics(self) -> Iterator[Any]:
        """Yield the torchmetrics objects, to be synced over ranks and reset."""
        yield from (self.histogram, *self.readers, self.fine, self.dice, self.hd95, self.nsd)
        yield from (self.changed, self.voxel, self.confidence)
        if self.margins is not None:
            yield self.margins

    def reset(self) -> None:
        """Start again."""
        for metric in self.metrics():
            metric.reset()

    def run(
        self, *, cases: Sequence[str], patients: Sequence[str], meta: Mapping[str, Any]
    ) -> TestRun:
        """Return the counts, in order of case index.

        Call it on one process after the states have been synced (such as in ``sync_context``).
        """
        readers = cast(list[CalibrationHistogram], list(self.readers))
        return TestRun.of(
            self.histogram, self.dice, cases=cases, patients=patients,
            meta={
                **meta,
                "nsd_tolerance_mm": self.nsd.tolerance,
                **({"posterior": "readers"} if readers else {}),
                **self.changed.meta(),
            },
            hd95=self.hd95, nsd=self.nsd, fine=self.fine, readers=readers,
            voxel_ml=self.voxel.ml.cpu().numpy(), confidence=self.confidence,
            margins=self.margins,
        )  # fmt: skip
