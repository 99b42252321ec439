r"""Per-class maps of probabilities: isotonic, beta and histogram binning.

Each class's probability :math:`p_k` is mapped by a function of its own, :math:`q_k = f_k(p_k)`, and
the results are divided by their sum. The functions are fitted to the fine histogram, 4096 cells of
log-odds a class, which is all that they need to know of the voxels: a cell is at most 0.0025 wide,
and its mean probability is exact.

- ``isotonic``: the nondecreasing function of least squares (Zadrozny and Elkan, KDD 2002), linear
  between the mean probabilities of cells, as scikit-learn's.
- ``beta``: :math:`\mathrm{logit}\,q = a \ln p - b \ln(1-p) + c` with :math:`a, b \ge 0` (Kull et
  al., AISTATS 2017, PMLR 54:623-631).
- ``histogram``: the share of hits in each of 15 bins of equal width (Zadrozny and Elkan, ICML 2001;
  Guo et al., ICML 2017, arXiv:1706.04599); a bin without voxels keeps its middle.

A share of exactly 0 or 1 among n voxels becomes :math:`1/2` or :math:`n + 1/2` of :math:`n + 1`: no
probability is 0, so that no voxel costs an infinite negative log-likelihood.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mbls.metrics.fine_bins import LOG_ODDS_LIMIT
from mbls.posthoc.base import Calibrator, Card, check_numbers

__all__ = ["Beta", "Classwise", "HistogramBinning", "Isotonic"]

N_BINS = 15
_LEAST = 1 / (1 + np.exp(LOG_ODDS_LIMIT))


class Classwise(Calibrator):
    """One function a class, then division by the sum."""

    @classmethod
    def of_table(cls, card: Card, table: np.ndarray) -> Self:
        """Fit to the voxels, hits and summed probabilities ``(3, C, 4096)`` of fine cells."""
        raise NotImplementedError

    def log_map(self, k: int, log_probs: Tensor) -> Tensor:
        """Return the logarithm of a class's function, at log-probabilities ``(*S)``."""
        raise NotImplementedError

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)``."""
        mapped = [self.log_map(k, each) for k, each in enumerate(log_probs)]
        return torch.log_softmax(torch.stack(mapped), dim=0)


@dataclass(frozen=True, eq=False)
class Isotonic(Classwise):
    """Isotonic regression of each class.

    Attributes:
        knots: Probabilities, increasing, of each class.
        values: The function there, not decreasing and in (0, 1); constant beyond the ends.
    """

    knots: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]
    method: ClassVar[str] = "isotonic"

    def __post_init__(self) -> None:
        _check_functions(self.num_classes, self.knots, self.values)
        for knots, values in zip(self.knots, self.values, strict=True):
            if list(knots) != sorted(set(knots)) or list(values) != sorted(values):
                raise ValueError("knots must increase, and values must not decrease")

    @classmethod
    def of_table(cls, card: Card, table: np.ndarray) -> Self:
        """Fit to fine cells, see :meth:`Classwise.of_table`."""
        found = [_isotonic(*table[:, k]) for k in range(card.num_classes)]
        return cls(card, tuple(knots for knots, _ in found), tuple(values for _, values in found))

    def log_map(self, k: int, log_probs: Tensor) -> Tensor:
        """Return the logarithm of a class's function, at log-probabilities ``(*S)``."""
        knots, values = (log_probs.new_tensor(each[k]) for each in (self.knots, self.values))
        if len(knots) == 1:
            return values.log().expand_as(log_probs)
        probs = log_probs.exp().contiguous()
        right = torch.searchsorted(knots, probs).clamp_(1, len(knots) - 1)
        low = knots[right - 1]
        part = (probs - low).div_(knots[right] - low).clamp_(0, 1)
        return torch.lerp(values[right - 1], values[right], part).log_()


@dataclass(frozen=True, eq=False)
class HistogramBinning(Classwise):
    """Histogram binning of each class.

    Attributes:
        edges: Inner edges of the bins, increasing.
        values: Share of hits in each bin of each class, in (0, 1).
    """

    edges: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    method: ClassVar[str] = "histogram"

    def __post_init__(self) -> None:
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must increase")
        check_numbers("edges", self.edges, len(self.edges), above=0.0)
        _check_functions(self.num_classes, [(0.0, *self.edges)] * self.num_classes, self.values)

    @classmethod
    def of_table(cls, card: Card, table: np.ndarray) -> Self:
        """Fit to fine cells, see :meth:`Classwise.of_table`; a cell belongs where its mean is."""
        edges = np.arange(1, N_BINS) / N_BINS
        middles = (np.arange(N_BINS) + 0.5) / N_BINS
        values = []
        for k in range(card.num_classes):
            voxels, hits, mean = _cells(*table[:, k])
            place = np.searchsorted(edges, mean)
            n, h = (np.bincount(place, each, N_BINS) for each in (voxels, hits))
            values.append(tuple(np.where(n > 0, _inner_share(h, n), middles).tolist()))
        return cls(card, tuple(edges.tolist()), tuple(values))

    def log_map(self, k: int, log_probs: Tensor) -> Tensor:
        """Return the logarithm of a class's function, at log-probabilities ``(*S)``."""
        edges, values = log_probs.new_tensor(self.edges), log_probs.new_tensor(self.values[k])
        return values.log()[torch.searchsorted(edges, log_probs.exp().contiguous())]


@dataclass(frozen=True, eq=False)
class Beta(Classwise):
    """Beta calibration of each class.

    Attributes:
        a: Factor of ln p of each class, at least 0.
        b: Factor of -ln(1 - p), at least 0.
        c: Offset.
    """

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    method: ClassVar[str] = "beta"

    def __post_init__(self) -> None:
        for name in ("a", "b", "c"):
            check_numbers(name, getattr(self, name), self.num_classes)
        if min(self.a + self.b) < 0:
            raise ValueError(f"a and b must be at least 0, got {min(self.a + self.b)}")

    @classmethod
    def of_table(cls, card: Card, table: np.ndarray) -> Self:
        """Fit to fine cells, see :meth:`Classwise.of_table`."""
        found = [_beta(*table[:, k]) for k in range(card.num_classes)]
        return cls(card, *zip(*found, strict=True))

    def log_map(self, k: int, log_probs: Tensor) -> Tensor:
        """Return the logarithm of a class's function, at log-probabilities ``(*S)``."""
        rest = log_probs.expm1().neg_().clamp_min_(_LEAST).log_()
        odds = rest.mul_(-self.b[k]).add_(log_probs.clamp_min(np.log(_LEAST)), alpha=self.a[k])
        return torch.nn.functional.logsigmoid(odds.add_(self.c[k]))


def class_log_losses(calibrator: Classwise, table: np.ndarray) -> np.ndarray:
    """Return the one-vs-rest negative log-likelihood of each class's cells ``(C,)``, summed.

    Args:
        calibrator: Its functions are evaluated before the division by the sum.
        table: Voxels, hits and summed probabilities ``(3, C, 4096)``.
    """
    losses = []
    for k in range(calibrator.num_classes):
        voxels, hits, mean = _cells(*table[:, k])
        mapped = calibrator.log_map(k, torch.from_numpy(mean).clamp_min(1e-30).log()).exp().numpy()
        losses.append(_log_loss(voxels, hits, mapped))
    return np.array(losses)


def plain_log_losses(table: np.ndarray) -> np.ndarray:
    """Return :func:`class_log_losses` of the probabilities as they are."""
    losses = []
    for k in range(table.shape[1]):
        voxels, hits, mean = _cells(*table[:, k])
        losses.append(_log_loss(voxels, hits, mean.clip(_LEAST, 1 - _LEAST)))
    return np.array(losses)


def _log_loss(voxels: np.ndarray, hits: np.ndarray, probs: np.ndarray) -> float:
    return float(-(hits * np.log(probs) + (voxels - hits) * np.log1p(-probs)).sum())


def _cells(
    voxels: np.ndarray, hits: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return voxels, hits and the mean probability of the cells that have voxels."""
    filled = voxels > 0
    return voxels[filled], hits[filled], total[filled] / voxels[filled]


def _inner_share(hits: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return the share of hits, moved away from exactly 0 and 1."""
    share = hits / np.maximum(voxels, 1)
    return np.clip(share, 0.5 / (voxels + 1), (voxels + 0.5) / (voxels + 1))


def _isotonic(
    voxels: np.ndarray, hits: np.ndarray, total: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the knots of a class: both ends of each block of equal values."""
    from scipy.optimize import isotonic_regression

    n, h, mean = _cells(voxels, hits, total)
    mean, cell = np.unique(mean, return_inverse=True)  # cell 0 can share its mean with cell 1
    n, h = np.bincount(cell, n), np.bincount(cell, h)
    found = isotonic_regression(h / n, weights=n)
    values, start = found.x, found.blocks[:-1]
    n_block = np.add.reduceat(n, start)
    of_block = values[start]
    if of_block[0] == 0:
        of_block[0] = min(0.5 / (n_block[0] + 1), *of_block[1:2])
    if of_block[-1] == 1:
        of_block[-1] = max((n_block[-1] + 0.5) / (n_block[-1] + 1), *of_block[-2:-1])
    ends = np.unique(np.concatenate([start, found.blocks[1:] - 1]))
    block = np.searchsorted(start, ends, side="right") - 1
    return tuple(mean[ends].tolist()), tuple(of_block[block].tolist())


def _beta(voxels: np.ndarray, hits: np.ndarray, total: np.ndarray) -> tuple[float, float, float]:
    """Return a, b and c of a class: a logistic regression with bounds."""
    from scipy.optimize import minimize
    from scipy.special import expit

    n, h, mean = _cells(voxels, hits, total)
    mean = mean.clip(_LEAST, 1 - _LEAST)
    inputs = np.stack([np.log(mean), -np.log1p(-mean), np.ones_like(mean)])
    count = n.sum()

    def value(at: np.ndarray) -> tuple[float, np.ndarray]:
        odds = at @ inputs
        loss = (n * np.logaddexp(0, odds) - h * odds).sum() / count
        return loss, inputs @ (n * expit(odds) - h) / count

    limits = [(0.0, 50.0), (0.0, 50.0), (-50.0, 50.0)]
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(value, [1.0, 1.0, 0.0], jac=True, bounds=limits, options=options)
    a, b, c = found.x.tolist()
    return a, b, c


def _check_functions(
    num_classes: int, knots: Sequence[Sequence[float]], values: Sequence[Sequence[float]]
) -> None:
    """Raise ValueError unless there is a function with values in (0, 1) for each class."""
    if len(knots) != num_classes or len(values) != num_classes:
        raise ValueError(f"functions of {len(values)} classes, not {num_classes}")
    for k, (at, value) in enumerate(zip(knots, values, strict=True)):
        check_numbers(f"knots of class {k}", tuple(at), len(value))
        check_numbers(f"values of class {k}", value, len(at), above=0.0)
        if not value or max(value) >= 1:
            raise ValueError(f"values of class {k} must be in (0, 1)")
