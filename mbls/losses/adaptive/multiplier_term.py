"""The penalties of a constraint, weighted by class or by class and region: a term of a loss."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mbls.losses._pointwise import Chunk, Pointwise
from mbls.losses.adaptive.constraints import Constraint
from mbls.losses.adaptive.penalty_functions import PenaltyFunction

__all__ = ["MultiplierTerm"]


@dataclass(frozen=True, eq=False)
class MultiplierTerm(Pointwise):
    """The mean over classes and regions of a constraint's penalty.

    Args:
        constraint: h.
        penalty: P(h, lambda, rho).
        multipliers: Lambda ``(R, C)`` or ``(R, 1)``, R = 1, or 2 for boundary and inner voxels.
        weights: Rho, of the same shape.
        goal: The constraint's goal ``(N, C, *S)``, if it has one.
        boundary: Which voxels are boundary ``(N, *S)``, if that matters.
    """

    constraint: Constraint
    penalty: PenaltyFunction
    multipliers: Tensor
    weights: Tensor
    goal: Tensor | None
    boundary: Tensor | None

    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return the mean of the penalties; the labels are in the goal."""
        h = self.constraint.values(logits, self.goal)
        near = None if self.boundary is None else self.boundary.unsqueeze(1)
        value, _ = self.penalty(h, *self._spread(near, h.ndim - 2))
        return value.mean(dim=1) / len(self.multipliers)

    def value(self, chunk: Chunk) -> Tensor:
        """Return the mean of the penalties, and keep their slopes."""
        value, chunk.kept[self] = self._penalty(chunk)
        return value.sum(dim=1, keepdim=True).mul_(self._share(chunk))

    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Pull the slopes of the penalties back to the logits."""
        slope = chunk.kept.pop(self, None)
        slope = self._penalty(chunk)[1] if slope is None else slope
        slope = slope * (weight * self._share(chunk))
        self.constraint.pull_back(chunk, self._goal(chunk), slope, gradient)

    def _penalty(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        h = self.constraint.on_chunk(chunk, self._goal(chunk))
        near = None
        if self.boundary is not None:
            n, *space = self.boundary.shape
            near = self.boundary.view(n, 1, math.prod(space))[chunk.place]
        return self.penalty(h, *self._spread(near, 1))

    def _goal(self, chunk: Chunk) -> Tensor | None:
        if self.goal is None:
            return None
        n, c = self.goal.shape[:2]
        return self.goal.view(n, c, math.prod(self.goal.shape[2:]))[chunk.place]

    def _share(self, chunk: Chunk) -> float:
        return 1 / (chunk.logits.shape[1] * len(self.multipliers))

    def _spread(self, near: Tensor | None, dims: int) -> tuple[Tensor, Tensor]:
        """Return each voxel's lambda and rho, in a shape that fits ``(N, C, ..)``."""
        pairs = [
            rows.view(len(rows), 1, -1, *[1] * dims) for rows in (self.multipliers, self.weights)
        ]
        if len(self.multipliers) == 1 or near is None:
            return pairs[0][0], pairs[1][0]
        lam, rho = (torch.where(near, rows[0], rows[1]) for rows in pairs)
        return lam, rho
