"""Fits of the per-class maps to fine cells: one pass over a stream, or none from a test's file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbls.metrics import FineHistogram
from mbls.metrics.fine_bins import FineBins
from mbls.posthoc.base import Calibrator, Card
from mbls.posthoc.classwise import Classwise, class_log_losses, plain_log_losses
from mbls.posthoc.fit import Fit
from mbls.posthoc.held_out import held_out
from mbls.posthoc.voxels import Piece, seed_of
from mbls.runtime.errors import CalibratorError

__all__ = ["ClasswiseFit", "fit_bins"]

GROUPS = 10
"""Patients are held out in so many groups at most, to estimate held-out results."""


class ClasswiseFit(Fit):
    """Count the voxels of each class in fine cells, and fit a function a class.

    Args:
        kind: Class of the calibrator.
        num_classes: Number of classes.
    """

    def __init__(self, kind: type[Classwise], num_classes: int) -> None:
        super().__init__()
        self.of_kind, self.num_classes = kind, num_classes
        self.cells: dict[str, Tensor] = {}
        self.group_of: dict[str, str] = {}

    def add(self, piece: Piece, patient: str) -> None:
        """Add a piece of a case to the sums of this pass."""
        counted = piece.shared(ClasswiseFit, lambda: _count(piece, self.num_classes))
        group = self._group(patient)
        before = self.cells.get(group)
        self.cells[group] = counted.clone() if before is None else before.add_(counted)

    def _group(self, patient: str) -> str:
        """Return the patient's group: a patient each, as long as there are few."""
        if patient not in self.group_of:
            many = len(self.group_of) >= GROUPS
            groups = sorted(self.cells)
            self.group_of[patient] = groups[seed_of(patient) % len(groups)] if many else patient
        return self.group_of[patient]

    def end_pass(self) -> bool:
        """End the only pass."""
        if not self.cells:
            raise CalibratorError(
                "No voxel of the cases has a label: a calibrator needs labeled cases."
            )
        return True

    def calibrator(self, card: Card) -> Calibrator:
        """Return the result."""
        every = sum(self.cells.values(), torch.zeros((), dtype=torch.int64))
        found = _fitted(self.of_kind, card, every, cases=len(self.cases))
        if len(self.cells) < 2:
            return found
        changes = []
        for cells in self.cells.values():
            others = self.of_kind.of_table(card, _table(every - cells))
            table = _table(cells)
            change = class_log_losses(others, table) - plain_log_losses(table)
            changes.append(float(change.sum() / table[0, 0].sum()))
        return found.reported(held_out=held_out(changes, measure="nll_per_class"))


def fit_bins(
    method: str,
    bins: FineBins,
    class_names: Sequence[str],
    *,
    cases: Sequence[str] = (),
    patients: Sequence[str] = (),
) -> Calibrator:
    """Fit a per-class map to the fine histogram that a test leaves in ``bins.npz``, without a pass.

    Args:
        method: ``"isotonic"``, ``"beta"`` or ``"histogram"``.
        bins: The fine histogram, with the region ``"all"``.
        class_names: Names of the classes.
        cases: Names of the cases that were counted.
        patients: Their patients.

    Raises:
        CalibratorError: The method needs more than the histogram, or classes do not match.
    """
    from mbls.posthoc.methods import METHODS, calibrator_class

    kind = calibrator_class(method)
    if not issubclass(kind, Classwise):
        able = [name for name, each in METHODS.items() if issubclass(each.kind, Classwise)]
        raise CalibratorError(
            f"{method} can't be fitted to bins.npz, which has each class's probabilities alone: "
            f"choose one of {', '.join(able)}, or fit to predictions."
        )
    channels = bins.cells.shape[1] - 1
    if channels < len(class_names) or "all" not in bins.regions:
        raise CalibratorError(
            f"The fine histogram of {channels} classes and unions in the regions {bins.regions} "
            f"doesn't have the {len(class_names)} classes {tuple(class_names)} in the region "
            "'all': use the bins.npz of a test of these classes."
        )
    cells = torch.from_numpy(bins.cells[bins.regions.index("all"), 1 : 1 + len(class_names)])
    card = Card(tuple(class_names), tuple(cases), tuple(sorted(set(patients))))
    return _fitted(kind, card, cells, cases=len(cases))


def _count(piece: Piece, num_classes: int) -> Tensor:
    """Return voxels, hits and confidences ``(C, 4096, 3)`` of a piece, int64 on the CPU."""
    metric = FineHistogram(num_classes, regions=("all",))
    probs = piece.probs.contiguous()  # otherwise the histogram splits it voxel by voxel
    metric.to(probs.device).update(probs[None], piece.label[None])
    return metric.cells[0, 1:].cpu()


def _table(cells: Tensor) -> np.ndarray:
    """Return voxels, hits and summed probabilities ``(3, C, 4096)``, float64."""
    return FineBins(cells[None].numpy(), ("all",)).table("all")


def _fitted(kind: type[Classwise], card: Card, cells: Tensor, *, cases: int) -> Classwise:
    table = _table(cells)
    found = kind.of_table(card, table)
    voxels = float(table[0, 0].sum())
    report: dict[str, Any] = {
        "voxels": int(voxels),
        "cases": cases,
        "patients": len(card.patients),
        "passes": 1,
        "nll_per_class_before": (plain_log_losses(table) / voxels).tolist(),
        "nll_per_class_after": (class_log_losses(found, table) / voxels).tolist(),
    }
    return found.reported(**report)
