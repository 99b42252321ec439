r"""Matrix, Dirichlet, ensemble temperature and class-conditional scaling, fitted by fiducio.

``fiducio`` (Kirscher et al., TMLR 2026, arXiv:2607.01902) takes all voxels at once, so it gets a
uniform random sample of those of all cases, :data:`SAMPLE` at most. With :math:`x = \log p`:

- ``matrix``: :math:`z = W x + b` with rows of one sum, which does not depend on a constant added to
  a voxel's logits;
- ``dirichlet``: any W (Kull et al., NeurIPS 2019, arXiv:1910.12656);
- ``ensemble_temperature``: :math:`w_0\,\mathrm{softmax}(x/T) + w_1 p + w_2 / C` (Zhang et al.,
  ICML 2020, arXiv:2003.07329);
- ``class_conditional``: a matrix for each predicted class, on the gaps between the classes in their
  order, which it keeps (Kirscher et al.).

Off-diagonal weights and biases of the first two are penalized (:data:`ODIR`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mbls.posthoc.base import Calibrator, Card, check_numbers
from mbls.posthoc.fit import Fit
from mbls.posthoc.voxels import Piece, Sample
from mbls.runtime.errors import CalibratorError, MissingExtraError

__all__ = ["ClassConditional", "Dirichlet", "EnsembleTemperature", "FiducioFit", "Matrix"]

SAMPLE = 1 << 17
"""Voxels of the sample."""
ODIR = 1e-3
"""Weight of the mean square of off-diagonal weights, and of biases."""


class FromFiducio(Calibrator):
    """A calibrator with the parameters of one of fiducio's.

    Attributes:
        fiducio: Name of fiducio's class.
        settings: Settings of its constructor.
    """

    fiducio: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    @abstractmethod
    def of_state(cls, card: Card, state: Mapping[str, Tensor]) -> Self:
        """Return the calibrator of fiducio's state."""


@dataclass(frozen=True, eq=False)
class Dirichlet(FromFiducio):
    """An affine map of log-probabilities; labels can change.

    Attributes:
        weight: Weights ``(C, C)``.
        bias: Biases ``(C,)``.
    """

    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    method: ClassVar[str] = "dirichlet"
    fiducio: ClassVar[str] = "DirichletCalibration"
    settings: ClassVar[Mapping[str, Any]] = {"lambda_reg": ODIR, "mu_reg": ODIR}

    def __post_init__(self) -> None:
        check_numbers("bias", self.bias, self.num_classes)
        if len(self.weight) != self.num_classes:
            raise ValueError(f"{len(self.weight)} rows of weights, not {self.num_classes}")
        for row in self.weight:
            check_numbers("a row of weights", row, self.num_classes)

    @classmethod
    def of_state(cls, card: Card, state: Mapping[str, Tensor]) -> Self:
        """Return the calibrator of fiducio's state."""
        return cls(card, _tuples(state["weight"]), _tuples(state["bias"]))

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)``."""
        weight, bias = (log_probs.new_tensor(each) for each in (self.weight, self.bias))
        logits = torch.addmm(bias[:, None], weight, log_probs.flatten(1))
        return torch.log_softmax(logits, dim=0).view_as(log_probs)


@dataclass(frozen=True, eq=False)
class Matrix(Dirichlet):
    """An affine map whose rows have one sum: a constant added to all classes changes nothing."""

    method: ClassVar[str] = "matrix"
    fiducio: ClassVar[str] = "TranslationInvariantMatrixScaling"

    @classmethod
    def of_state(cls, card: Card, state: Mapping[str, Tensor]) -> Self:
        """Return the calibrator of fiducio's state, which leaves the last column out."""
        weight = state["weight"]
        last = state["row_sum"] - weight.sum(dim=1, keepdim=True)
        return cls(card, _tuples(torch.cat([weight, last], dim=1)), _tuples(state["bias"]))


@dataclass(frozen=True, eq=False)
class EnsembleTemperature(FromFiducio):
    """A mean of scaled, original and equal probabilities; labels do not change.

    Attributes:
        temperature: T.
        weights: Weight of each of the three, with the sum 1.
    """

    temperature: float
    weights: tuple[float, ...]
    method: ClassVar[str] = "ensemble_temperature"
    keeps_labels: ClassVar[bool] = True
    fiducio: ClassVar[str] = "EnsembleTemperatureScaling"

    def __post_init__(self) -> None:
        check_numbers("temperature", (self.temperature,), 1, above=0.0)
        check_numbers("weights", self.weights, 3)
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-5:
            raise ValueError(f"weights must be at least 0 with the sum 1, got {self.weights}")

    @classmethod
    def of_state(cls, card: Card, state: Mapping[str, Tensor]) -> Self:
        """Return the calibrator of fiducio's state."""
        return cls(card, float(state["temperature"]), _tuples(state["weights"]))

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)``."""
        scaled, plain, equal = log_probs.new_tensor(self.weights).log().unbind()
        mixed = torch.logaddexp(
            torch.log_softmax(log_probs / self.temperature, dim=0) + scaled,
            torch.log_softmax(log_probs, dim=0) + plain,
        )
        rest = log_probs.new_full((), 1 / self.num_classes).log() + equal
        return torch.log_softmax(torch.logaddexp(mixed, rest), dim=0)


@dataclass(frozen=True, eq=False)
class ClassConditional(FromFiducio):
    """A matrix for each predicted class, on gaps between ordered classes; the order is kept.

    Attributes:
        weight: Weights above 0 of the gaps ``(C, C - 1, C - 1)``.
        bias: Biases above 0 ``(C, C - 1)``.
    """

    weight: tuple[tuple[tuple[float, ...], ...], ...]
    bias: tuple[tuple[float, ...], ...]
    method: ClassVar[str] = "class_conditional"
    keeps_labels: ClassVar[bool] = True
    fiducio: ClassVar[str] = "OrderPreservingMatrixScaling"

    def __post_init__(self) -> None:
        gaps = self.num_classes - 1
        for each in (self.weight, self.bias):
            if len(each) != self.num_classes:
                raise ValueError(f"parameters of {len(each)} classes, not {self.num_classes}")
        for matrix, bias in zip(self.weight, self.bias, strict=True):
            check_numbers("bias", bias, gaps, above=-1e-30)
            if len(matrix) != gaps:
                raise ValueError(f"{len(matrix)} rows of weights, not {gaps}")
            for row in matrix:
                check_numbers("a row of weights", row, gaps, above=-1e-30)

    @classmethod
    def of_state(cls, card: Card, state: Mapping[str, Tensor]) -> Self:
        """Return the calibrator of fiducio's state, which is kept before a softplus."""
        return cls(card, _tuples(F.softplus(state["raw_b"])), _tuples(F.softplus(state["raw_mu"])))

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)``."""
        flat = log_probs.flatten(1)
        ordered, order = flat.sort(dim=0, descending=True, stable=True)
        gaps = ordered[:-1] - ordered[1:]
        mapped = torch.empty_like(gaps)
        for k in range(self.num_classes):
            own = order[0] == k
            weight, bias = (flat.new_tensor(each[k]) for each in (self.weight, self.bias))
            mapped[:, own] = torch.addmm(bias[:, None], weight, gaps[:, own])
        below = torch.zeros_like(flat)
        below[1:] = mapped.cumsum(dim=0).neg_()
        logits = torch.empty_like(flat).scatter_(0, order, below)
        return torch.log_softmax(logits, dim=0).view_as(log_probs)


class FiducioFit(Fit):
    """Fit one of fiducio's calibrators to a sample of voxels, by L-BFGS.

    Args:
        kind: Class of the calibrator.

    Raises:
        MissingExtraError: fiducio is not installed.
    """

    def __init__(self, kind: type[FromFiducio]) -> None:
        super().__init__()
        try:
            import fiducio
        except ImportError as error:
            raise MissingExtraError(
                f"The method {kind.method} needs fiducio: pip install 'mbls[fiducio]'."
            ) from error
        self.kind, self.maker = kind, getattr(fiducio, kind.fiducio)
        self.sample, self.voxels = Sample(SAMPLE), 0

    def add(self, piece: Piece, patient: str) -> None:
        """Add a piece of a case to the sample."""
        self.sample.add(piece)
        self.voxels += piece.label.numel()

    def end_pass(self) -> bool:
        """End the only pass."""
        if not self.voxels:
            raise CalibratorError(
                "No voxel of the cases has a label: a calibrator needs labeled cases."
            )
        return True

    def calibrator(self, card: Card) -> Calibrator:
        """Return the result."""
        log_probs, label = self.sample.voxels()
        fitted = self.maker(optimizer="lbfgs", device=log_probs.device, **self.kind.settings)
        fitted.fit(log_probs.T.float(), label)
        found = self.kind.of_state(card, fitted._get_state())
        calibrated = found.apply(log_probs, dim=0)
        return found.reported(
            voxels=self.voxels,
            sampled=len(label),
            cases=len(card.cases),
            patients=len(card.patients),
            passes=1,
            nll_before=float(F.nll_loss(log_probs.T.double(), label)),
            nll_after=float(F.nll_loss(calibrated.T.double(), label)),
        )


def _tuples(values: Tensor) -> Any:
    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return frozen(values.tolist())
