"""Constraints on a voxel's logits, one number h <= 0 for each class."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from mbls.losses._checks import check_above, check_at_least
from mbls.losses.mbls import logit_distances

__all__ = ["Constraint", "MarginConstraint", "NeighborConstraint"]


class Constraint(ABC):
    """One constraint h_k <= 0 for each class at each voxel."""

    name: ClassVar[str]  # of the term in a loss
    looks_around = False  # True if it has a goal, made of the neighbors' labels

    def goal(self, shares: Tensor, boundary: Tensor) -> Tensor:
        """Return the goal of the logits ``(N, C, *S)``, for a constraint that looks around.

        Args:
            shares: Class proportions in the window around each voxel ``(N, C, *S)``.
            boundary: Mask of windows with more than one label ``(N, *S)``.
        """
        raise NotImplementedError

    @abstractmethod
    def values(self, logits: Tensor, goal: Tensor | None) -> Tensor:
        """Return h ``(N, C, *S)`` for logits and, if needed, a goal of the same shape."""


class MarginConstraint(Constraint):
    """A class's logit stays within a margin of the largest one: max_j z_j - z_k <= margin.

    Args:
        margin: The distance in logit units.
        normalize: Measure the excess in margins, h = d / margin - 1, else h = d - margin.
    """

    name = "margin"

    def __init__(self, margin: float = 10.0, *, normalize: bool = True) -> None:
        check_at_least(0, margin=margin)
        if normalize and margin == 0:
            raise ValueError("margin must be > 0 to measure in margins, or normalize false; got 0.")
        self.margin = margin
        self.normalize = normalize
        self.scale = margin if normalize else 1.0

    def values(self, logits: Tensor, goal: Tensor | None) -> Tensor:
        """Return the distances from the largest logit beyond the margin."""
        return logit_distances(logits, self.margin) / self.scale


class NeighborConstraint(Constraint):
    """The logits are the neighbors' class proportions: |goal_k - z_k| <= 0.

    The goal is the proportions themselves at a boundary, ``margin`` times them inside a structure.

    Args:
        margin: The logit of the label inside a structure.
    """

    name = "neighbors"
    looks_around = True

    def __init__(self, margin: float = 5.0) -> None:
        check_above(0, margin=margin)
        self.margin = margin

    def goal(self, shares: Tensor, boundary: Tensor) -> Tensor:
        """Return the proportions, inside a structure times the margin."""
        factor = torch.where(boundary, 1.0, self.margin).to(shares.dtype)
        return shares.mul_(factor.unsqueeze(1))

    def values(self, logits: Tensor, goal: Tensor | None) -> Tensor:
        """Return the distances of the logits from the goal."""
        assert goal is not None
        return (logits - goal).abs()
