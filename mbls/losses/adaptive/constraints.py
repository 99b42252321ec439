"""What is asked of a voxel's logits, one number h <= 0 for each class."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from mbls.losses._pointwise import Chunk
from mbls.losses._settings import check_above, check_at_least

__all__ = ["Constraint", "MarginConstraint", "NeighbourConstraint"]


class Constraint(ABC):
    """One constraint h_k <= 0 for each class at each voxel."""

    name: ClassVar[str]  # of the term in a loss
    looks_around = False  # whether it has a goal, made of the neighbours' labels

    def goal(self, shares: Tensor, boundary: Tensor) -> Tensor:
        """Return what the labels ask of the logits ``(N, C, *S)``, for a constraint that looks.

        Args:
            shares: Class proportions in the window around each voxel ``(N, C, *S)``.
            boundary: Where that window holds more than one label ``(N, *S)``.
        """
        raise NotImplementedError

    @abstractmethod
    def values(self, logits: Tensor, goal: Tensor | None) -> Tensor:
        """Return h ``(N, C, *S)`` for logits and, where there is one, a goal of that shape."""

    @abstractmethod
    def on_chunk(self, chunk: Chunk, goal: Tensor | None) -> Tensor:
        """Return :meth:`values` of a chunk ``(n, C, v)``."""

    @abstractmethod
    def pull_back(self, chunk: Chunk, goal: Tensor | None, slope: Tensor, gradient: Tensor) -> None:
        """Add the derivative by the logits, given that by h; both ``(n, C, v)``."""


class MarginConstraint(Constraint):
    """A class's logit stays within a margin of the largest one: max_j z_j - z_k <= margin.

    Args:
        margin: The distance in logit units.
        normalize: Measure the excess in margins, h = d / margin - 1, else h = d - margin.
    """

    name = "margin"

    def __init__(self, margin: float = 10.0, *, normalize: bool = True) -> None:
        check_at_least("margin", margin, 0)
        if normalize and margin == 0:
            raise ValueError("margin must be > 0 to measure in margins, or normalize false; got 0.")
        self.margin = margin
        self.normalize = normalize
        self.scale = margin if normalize else 1.0

    def values(self, logits: Tensor, goal: Tensor | None) -> Tensor:
        """Return the distances from the largest logit beyond the margin."""
        distance = logits.amax(dim=1, keepdim=True) - logits
        return (distance - self.margin) / self.scale

    def on_chunk(self, chunk: Chunk, goal: Tensor | None) -> Tensor:
        """Return the distances from the largest logit beyond the margin."""
        out = torch.add(chunk.behind, self.margin, out=chunk.buffer("constraint"))
        return out.mul_(-1 / self.scale)

    def pull_back(self, chunk: Chunk, goal: Tensor | None, slope: Tensor, gradient: Tensor) -> None:
        """Push the losers up and the winner (tied: each a share) down."""
        total = slope.sum(dim=1, keepdim=True)
        gradient.sub_(slope, alpha=1 / self.scale)
        wins = torch.sign(chunk.behind, out=chunk.buffer("constraint")).add_(1)
        gradient.addcmul_(wins, total.div_(wins.sum(dim=1, keepdim=True)), value=1 / self.scale)


class NeighbourConstraint(Constraint):
    """The logits are the neighbours' class proportions: |goal_k - z_k| <= 0.

    The goal is the proportions themselves at a boundary, ``margin`` times them inside a structure.

    Args:
        margin: The logit of the label inside a structure.
    """

    name = "neighbours"
    looks_around = True

    def __init__(self, margin: float = 5.0) -> None:
        check_above("margin", margin, 0)
        self.margin = margin

    def goal(self, shares: Tensor, boundary: Tensor) -> Tensor:
        """Return the proportions, inside a structure times the margin."""
        factor = torch.where(boundary, 1.0, self.margin).to(shares.dtype)
        return shares.mul_(factor.unsqueeze(1))

    def values(self, logits: Tensor, goal: Tensor | None) -> Tensor:
        """Return the distances of the logits from the goal."""
        assert goal is not None
        return (logits - goal).abs()

    def on_chunk(self, chunk: Chunk, goal: Tensor | None) -> Tensor:
        """Return the distances of the logits from the goal."""
        assert goal is not None
        return torch.sub(chunk.logits, goal, out=chunk.buffer("constraint")).abs_()

    def pull_back(self, chunk: Chunk, goal: Tensor | None, slope: Tensor, gradient: Tensor) -> None:
        """Push each logit towards its goal."""
        assert goal is not None
        gap = torch.sub(chunk.logits, goal, out=chunk.buffer("constraint"))
        gradient.addcmul_(gap.sign_(), slope)
