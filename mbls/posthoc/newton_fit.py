"""Fits of temperature and vector scaling: sums at one point of the parameters a pass."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mbls.posthoc.base import Calibrator, Card
from mbls.posthoc.fit import Fit
from mbls.posthoc.held_out import held_out
from mbls.posthoc.newton import Newton, Sums, minimize, solve
from mbls.posthoc.scaling import (
    Temperature,
    Vector,
    VectorTI,
    temperature_sums,
)
from mbls.posthoc.voxels import Piece, Sample
from mbls.runtime.errors import CalibratorError

__all__ = ["NewtonFit", "TemperatureFit", "VectorFit", "VectorTIFit"]

SAMPLE = 1 << 16
"""Voxels of the sample whose minimum is the first step."""
RIDGE = 1e-8
"""Weight, a voxel, of half the squared distance from the identity: a class that no voxel has, and
the constant that can be added to all biases, would otherwise have no minimum."""
BOUNDS = (0.02, 50.0)
"""Of 1/T: predictions that are always right would have T = 0."""
MOST_PARAMETERS = 64
"""Up to so many, second derivatives are kept for each patient, to estimate held-out results."""


class NewtonFit(Fit):
    """Minimize the negative log-likelihood by Newton's method.

    The first pass evaluates the identity and draws a sample of voxels, whose minimum is where the
    second pass begins; further passes follow until the last step was small.

    Args:
        identity: The parameters that change nothing ``(P,)``.
        sums: Sums of voxels ``(C, L)`` with labels ``(L,)`` at given parameters.
        ridge: See :data:`RIDGE`.
        bounds: Bounds of the parameters.
    """

    def __init__(
        self,
        identity: Tensor,
        sums: Callable[[Tensor, Tensor, Tensor], Sums],
        *,
        ridge: float = 0.0,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.identity, self.sums, self.ridge, self.bounds = identity, sums, ridge, bounds
        self.at, self.passes = identity, 0
        self.sum: Sums | None = None
        self.of_patients: dict[str, Sums] = {}
        self.before: dict[str, float] = {}
        self.newton = Newton(identity, bounds)
        self.sample: Sample | None = Sample(SAMPLE)

    def add(self, piece: Piece, patient: str) -> None:
        """Add a piece of a case to the sums of this pass."""
        key = (self.sums, tuple(self.at.tolist()))
        sums = piece.shared(key, lambda: self.sums(piece.log_probs, piece.label, self.at))
        if self.sample is not None:
            self.sample.add(piece)
        self.sum = sums if self.sum is None else self.sum.plus(sums)
        if len(self.at) > MOST_PARAMETERS:
            sums = sums._replace(hessian=sums.hessian[:0, :0])
        before = self.of_patients.get(patient)
        self.of_patients[patient] = sums if before is None else before.plus(sums)

    def end_pass(self) -> bool:
        """End a pass, and return True if the last step was small."""
        self.passes += 1
        if self.sum is None:
            raise CalibratorError(
                "No voxel of the cases has a label: a calibrator needs labeled cases."
            )
        self.sum = self._with_ridge(self.sum, self.at)
        done = self.newton.tell(self.sum)
        if self.sample is not None:
            self.before = {name: float(each.value) for name, each in self.of_patients.items()}
            if not done:
                self.newton.propose(self._start(*self.sample.voxels()))
            self.sample = None
        if not done:
            self.at, self.sum, self.of_patients = self.newton.at, None, {}
        return done

    def _start(self, log_probs: Tensor, label: Tensor) -> Tensor:
        """Return the minimum over the sample."""
        newton = Newton(self.identity, self.bounds)
        return minimize(newton, lambda at: self._with_ridge(self.sums(log_probs, label, at), at))

    def _with_ridge(self, sums: Sums, at: Tensor) -> Sums:
        weight, moved = self.ridge * sums.voxels, at - self.identity
        return Sums(
            sums.voxels,
            sums.value + weight * (moved @ moved) / 2,
            sums.gradient + weight * moved,
            sums.hessian + weight * torch.eye(len(at), dtype=torch.float64),
        )

    # The result ----------------------------------------------------------------------------------

    def result(self) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return the parameters ``(P,)``, their standard errors ``(P,)``, and a report."""
        assert self.sum is not None, "end the passes first"
        step, voxels = self.newton.last_step, self.sum.voxels
        patients = list(self.of_patients.values())
        after = sum(float(each.value + self._change(each, step)) for each in patients)
        report: dict[str, Any] = {
            "voxels": voxels,
            "cases": len(self.cases),
            "patients": len(patients),
            "passes": self.passes,
            "converged": self.newton.converged,
            "nll_before": sum(self.before.values()) / voxels,
            "nll_after": after / voxels,
        }
        if len(patients) > 1:
            report["held_out"] = held_out(self._held_out_changes(step))
        return self.newton.at, self._errors(step), report

    def _change(self, sums: Sums, step: Tensor) -> Tensor:
        return self._full(sums).change(step)

    def _full(self, sums: Sums) -> Sums:
        """Return a patient's sums; second derivatives that were not kept are its share of all."""
        assert self.sum is not None
        if len(sums.hessian):
            return sums
        return sums._replace(hessian=self.sum.hessian * (sums.voxels / self.sum.voxels))

    def _errors(self, step: Tensor) -> Tensor:
        """Return standard errors by patients, from the sandwich estimator; NaN of one patient."""
        assert self.sum is not None
        each = [self._full(sums) for sums in self.of_patients.values()]
        if len(each) < 2:
            return torch.full_like(self.at, math.nan)
        scores = torch.stack([sums.gradient + sums.hessian @ step for sums in each])
        influence = solve(self.sum.hessian, scores.T)
        return influence.square().sum(dim=1).mul(len(each) / (len(each) - 1)).sqrt()

    def _held_out_changes(self, step: Tensor) -> list[float]:
        """Return the change of each patient's mean NLL by a fit without the patient.

        That fit is one Newton step away from the fit to all.
        """
        assert self.sum is not None
        changes = []
        for name, kept in self.of_patients.items():
            sums = self._full(kept)
            score = sums.gradient + sums.hessian @ step
            moved = solve(self.sum.hessian - sums.hessian, score)
            value = sums.value + sums.change(step + moved)
            changes.append((float(value) - self.before[name]) / sums.voxels)
        return changes


class TemperatureFit(NewtonFit):
    """Fit a temperature; the function is convex in 1/T."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(torch.ones(1, dtype=torch.float64), temperature_sums, bounds=BOUNDS)

    def calibrator(self, card: Card) -> Calibrator:
        """Return the result."""
        at, errors, report = self.result()
        inverse, error = float(at), float(errors)
        report["temperature"] = 1 / inverse
        report["temperature_se"] = error / inverse**2 if math.isfinite(error) else None
        report["at_limit"] = self.newton.at_bound
        return Temperature(card, 1 / inverse).reported(**report)


class VectorFit(NewtonFit):
    """Fit the weights and biases of vector scaling."""

    kind: type[Vector] = Vector

    def __init__(self, num_classes: int) -> None:
        identity = torch.cat([torch.ones(num_classes), torch.zeros(num_classes)]).double()
        super().__init__(identity, self.kind.sums, ridge=RIDGE)

    def calibrator(self, card: Card) -> Calibrator:
        """Return the result."""
        at, errors, report = self.result()
        weight, bias = at.view(2, -1).tolist()
        known = bool(errors.isfinite().all())
        names = ("weight_se", "bias_se")
        report |= dict(
            zip(names, errors.view(2, -1).tolist() if known else (None, None), strict=True)
        )
        report["ridge"] = self.ridge
        return self.kind(card, tuple(weight), tuple(bias)).reported(**report)


class VectorTIFit(VectorFit):
    """Fit the weights and biases of vector scaling of centered log-probabilities."""

    kind = VectorTI
