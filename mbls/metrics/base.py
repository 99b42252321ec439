"""What all metrics share: classes, cases, states that no change of precision touches, plots."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from mbls.metrics._kernel.checks import check_ignore_index, check_unions


class CaseMetric(Metric):
    """Base of every metric here: voxels of cases, in classes and unions of classes.

    The states are integer sums or float64 values. They follow the device; ``set_dtype``, ``half``
    or ``to`` a type leave them as they are.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        unions: Named sets of classes.
        num_cases: Keep this many cases apart, filled by ``index``; None keeps none.
        ignore_index: Label of voxels to leave out.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: For malformed unions, a count of cases below one, or a class to ignore.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = None

    settings: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        num_cases: int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unions = check_unions(num_classes, unions)
        if num_cases is not None and num_cases < 1:
            raise ValueError(
                f"num_cases must be at least 1, or None to keep no cases apart, got {num_cases}."
            )
        self.num_classes, self.num_cases = num_classes, num_cases
        self.ignore_index = check_ignore_index(ignore_index, num_classes)

    def keep_apart(self, *settings: object) -> None:
        """Keep a collection from merging this metric with one of other settings.

        torchmetrics' compute groups merge, for good, metrics whose states are equal after the first
        batch. So a state of its own, 8 integers in 0..255, differs where a setting does.
        """
        own = (self.num_classes, self.unions, self.num_cases, self.ignore_index, *settings)
        digest = hashlib.sha256(repr(own).encode()).digest()[:8]
        self.add_state("settings", torch.tensor(list(digest)), dist_reduce_fx="max")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        return super()._apply(lambda state: state.to(fn(state).device), exclude_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot a single value, or a sequence of values over steps, as torchmetrics does.

        Args:
            val: What ``compute`` or ``forward`` returned, or a sequence of that; None computes it.
            ax: Matplotlib axes to draw into; None makes a figure.

        Returns:
            The figure and its axes.

        Raises:
            TypeError: If the metric's result is not one number.
        """
        val = self.compute() if val is None else val
        steps = val if isinstance(val, list | tuple) else [val]
        if not all(isinstance(step, Tensor) and step.numel() == 1 for step in steps):
            first = steps[0] if steps else val
            shape = f" of shape {tuple(first.shape)}" if hasattr(first, "shape") else ""
            raise TypeError(
                f"{type(self).__name__}.plot draws single numbers, and compute returned "
                f"{type(first).__name__}{shape}. Take what you want to see from it; "
                "mbls.plots draws reliability diagrams from CalibrationHistogram.bins()."
            )
        return self._plot(val, ax)
