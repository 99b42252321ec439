"""Base class of all metrics: classes, cases, states of fixed precision, plots."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from mbls.metrics._kernel.checks import check_ignore_index, check_unions


class CaseMetric(Metric):
    """Base of all metrics: voxels of cases, in classes and unions of classes.

    States are integer sums or float64 values. They follow the device; ``set_dtype``, ``half`` and
    ``to(dtype)`` do not change their dtype.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        unions: Named sets of classes.
        num_cases: Number of cases with separate states, identified by ``index``; None pools them.
        ignore_index: Label of ignored voxels.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: Invalid unions, ``num_cases`` below 1, or ``ignore_index`` is a class.
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
            raise ValueError(f"num_cases must be >= 1, or None to pool cases, got {num_cases}.")
        self.num_classes, self.num_cases = num_classes, num_cases
        self.ignore_index = check_ignore_index(ignore_index, num_classes)

    def add_settings_state(self, *settings: object) -> None:
        """Add a state that differs between metrics with different settings.

        torchmetrics' compute groups permanently merge metrics whose states are equal after the
        first batch. The state is a hash of the settings, 8 integers in 0..255.
        """
        own = (self.num_classes, self.unions, self.num_cases, self.ignore_index, *settings)
        digest = hashlib.sha256(repr(own).encode()).digest()[:8]
        self.add_state("settings", torch.tensor(list(digest)), dist_reduce_fx="max")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        return super()._apply(lambda state: state.to(fn(state).device), exclude_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot a single value, or a sequence of values over steps, as torchmetrics does.

        Args:
            val: Result of ``compute`` or ``forward``, or a sequence of results; None calls
                ``compute``.
            ax: Matplotlib axes to draw into; None makes a figure.

        Returns:
            The figure and its axes.

        Raises:
            TypeError: The metric's result is not a scalar.
        """
        val = self.compute() if val is None else val
        steps = val if isinstance(val, list | tuple) else [val]
        if not all(isinstance(step, Tensor) and step.numel() == 1 for step in steps):
            first = steps[0] if steps else val
            shape = f" of shape {tuple(first.shape)}" if hasattr(first, "shape") else ""
            raise TypeError(
                f"{type(self).__name__}.plot needs scalars, got {type(first).__name__}{shape} from "
                "compute. Pass a scalar of it; mbls.plots draws reliability diagrams from "
                "CalibrationHistogram.bins()."
            )
        return self._plot(val, ax)
