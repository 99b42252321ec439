"""Newton's method for a convex sum over a stream: one evaluation a pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Newton", "Sums", "minimize", "solve"]

LAST_STEP = 3e-5
"""Relative size of the last step: the error left is of the order of its square."""
MOST_EVALUATIONS = 60


class Sums(NamedTuple):
    """Sums over voxels, float64 on the CPU.

    Attributes:
        voxels: Number of voxels.
        value: Negative log-likelihood.
        gradient: Its gradient ``(P,)``.
        hessian: Its second derivatives ``(P, P)``.
    """

    voxels: int
    value: Tensor
    gradient: Tensor
    hessian: Tensor

    def plus(self, other: "Sums") -> "Sums":
        """Return the sum of both."""
        return Sums(
            self.voxels + other.voxels,
            self.value + other.value,
            self.gradient + other.gradient,
            self.hessian + other.hessian,
        )

    def change(self, step: Tensor) -> Tensor:
        """Return the change of the value by a small step ``(P,)``, to second order."""
        return self.gradient @ step + step @ self.hessian @ step / 2


def solve(hessian: Tensor, right: Tensor) -> Tensor:
    """Solve a system of a positive semidefinite matrix, whose zeros are raised a little."""
    diagonal = hessian.diagonal()
    least = 1e-12 * float(diagonal.max().clamp_min(1e-280))
    return torch.linalg.solve(hessian + least * torch.eye(len(diagonal)).double(), right)


@dataclass
class _Point:
    at: Tensor
    value: Tensor
    gradient: Tensor
    step: Tensor

    @property
    def slope(self) -> Tensor:
        """Change of the value by the whole step, to first order."""
        return self.gradient @ self.step


class Newton:
    """Minimize a convex function: evaluate it at :attr:`at` and :meth:`tell`, until it is done.

    A step that does not decrease the function enough is shortened (Armijo, with the minimum of the
    parabola through both values). Parameters between positive bounds change by a factor of 4 at
    most.

    Args:
        start: First point ``(P,)``, float64.
        bounds: Bounds ``(low, high)`` of all parameters, positive; None for none.

    Attributes:
        at: Where to evaluate next; the minimum, when done.
        last_step: The step from the last evaluation to :attr:`at`, when done.
        converged: True if the minimum was found.
        at_bound: True if it is at a bound.
    """

    def __init__(self, start: Tensor, bounds: tuple[float, float] | None = None) -> None:
        self.at, self.bounds = start, bounds
        self.last_step = torch.zeros_like(start)
        self.converged = self.at_bound = False
        self.evaluations = 0
        self._best: _Point | None = None
        self._length = 1.0

    def tell(self, sums: Sums) -> bool:
        """Take the sums at :attr:`at`, and return True if done."""
        self.evaluations += 1
        best = self._best
        if best is not None and not self._decreased(sums, best):
            return self._shorten(sums, best)
        step = self._direction(sums)
        self._best = _Point(self.at, sums.value, sums.gradient, step)
        self._length = 1.0
        small = bool((step.abs() <= LAST_STEP * (1 + self.at.abs())).all())
        self.converged = small
        if small or self.evaluations >= MOST_EVALUATIONS:
            self.last_step, self.at = step, self.at + step
            return True
        self.at = self.at + step
        return False

    def propose(self, at: Tensor) -> None:
        """Go to a guess of the minimum next, unless the function rises toward it."""
        assert self._best is not None, "evaluate the start first"
        step = at - self._best.at
        if self._best.gradient @ step < 0:
            self._best.step, self.at = step, at

    def _direction(self, sums: Sums) -> Tensor:
        step = -solve(sums.hessian, sums.gradient)
        if self.bounds is None:
            return step
        low, high = self.bounds
        wanted = self.at + torch.where(sums.hessian.diagonal() > 0, step, -sums.gradient.sign())
        reached = wanted.clamp(self.at / 4, self.at * 4).clamp(low, high)
        self.at_bound = bool(((reached == low) | (reached == high)).any())
        return reached - self.at

    def _decreased(self, sums: Sums, best: _Point) -> bool:
        rounding = 1e-7 * best.value.abs()
        return bool(sums.value <= best.value + 1e-4 * self._length * best.slope + rounding)

    def _shorten(self, sums: Sums, best: _Point) -> bool:
        if self.evaluations >= MOST_EVALUATIONS or self._length < 1e-8:
            self.at = best.at
            return True
        rise = sums.value - best.value - self._length * best.slope
        parabola = float(-best.slope * self._length / (2 * rise)) if rise > 0 else 0.5
        self._length *= min(0.5, max(0.1, parabola))
        self.at = best.at + self._length * best.step
        return False


def minimize(newton: Newton, sums: Callable[[Tensor], Sums]) -> Tensor:
    """Return the minimum of a function whose sums can be evaluated at once."""
    while not newton.tell(sums(newton.at)):
        pass
    return newton.at
