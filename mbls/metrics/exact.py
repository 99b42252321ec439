"""What all metrics share: states that no change of precision touches, plots of single values."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric


class ExactMetric(Metric):
    """Base of every metric here.

    The states are integer sums or float64 values. They follow the device; ``set_dtype``, ``half``
    or ``to`` a type leave them as they are.
    """

    full_state_update = False
    is_differentiable = False

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
            raise TypeError(
                f"{type(self).__name__}.plot draws single numbers, and compute returned "
                f"{_described(steps[0] if steps else val)}. Take what you want to see from it; "
                "mbls.plots draws reliability diagrams from CalibrationHistogram.bins()."
            )
        return self._plot(val, ax)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")
