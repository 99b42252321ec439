"""Weights of classes: a voxel counts as much as its label's class."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbls.losses.base import Loss

__all__ = ["ClassWeightedLoss", "weighted_mean"]


def weighted_mean(values: Tensor, target: Tensor, keep: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum_v w_y values_v / sum_v w_y`` over the kept voxels, as PyTorch averages.

    Args:
        values: A map ``(N, *S)``.
        target: Labels ``(N, *S)`` in 0 .. C - 1.
        keep: Bool ``(N, *S)``.
        weight: w ``(C,)``.

    Returns:
        A scalar; zero, with a gradient of zero, if no voxel is kept or all weights are zero.

    Example:
        >>> values, target = torch.tensor([1.0, 4.0]), torch.tensor([0, 1])
        >>> weighted_mean(values, target, target >= 0, torch.tensor([1.0, 2.0]))
        tensor(3.)
    """
    shares = weight.to(values)[target].masked_fill(~keep, 0)
    total = shares.sum()
    return (values.masked_fill(~keep, 0) * shares).sum() / total.where(total > 0, 1)


class ClassWeightedLoss(Loss):
    """A loss that may weight the classes.

    Args:
        weight: One number a class, the background first, or None: all count alike. It is a
            setting and lies in no checkpoint; it follows the device.
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Raises:
        ValueError: A weight is negative or not finite, or all are 0.
    """

    weight: Tensor | None

    def __init__(self, weight: Sequence[float] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        numbers = None if weight is None else [float(number) for number in weight]
        if numbers is not None and not (
            all(math.isfinite(number) and number >= 0 for number in numbers) and any(numbers)
        ):
            raise ValueError(
                f"weight must be finite numbers >= 0, at least one > 0, got {numbers}."
            )
        self.register_buffer(
            "weight", None if numbers is None else torch.tensor(numbers), persistent=False
        )

    def bind(self, num_classes: int) -> None:
        """Refuse weights of another number of classes before training starts."""
        super().bind(num_classes)
        self._check_number(num_classes)

    def prepare(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Also check that each class has a weight."""
        logits, target = super().prepare(logits, target)
        self._check_number(logits.shape[1])
        return logits, target

    def voxel_mean_terms(self) -> set[str]:
        """Return an empty set with weights: parts of a batch have different total weights."""
        return super().voxel_mean_terms() if self.weight is None else set()

    def _check_number(self, num_classes: int) -> None:
        if self.weight is not None and len(self.weight) != num_classes:
            raise ValueError(
                f"weight must have one number for each of {num_classes} classes, the background "
                f"first, got {len(self.weight)}: {self.weight.tolist()}."
            )
