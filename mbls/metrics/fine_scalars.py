"""One number each from a fine histogram of its own."""

from typing import Any

import torch
from torch import Tensor

from mbls.metrics.adaptive import adaptive_error, thresholded_error
from mbls.metrics.fine import FineHistogram
from mbls.metrics.smooth import smooth_error


class AdaptiveCalibrationError(FineHistogram):
    """Top-label expected error over equal-mass bins.

    Args:
        num_classes: Number of classes, background included.
        n_bins: Number of bins.
        region: ``"all"``, ``"label"`` or ``"union"``.
        threshold: If given, TACE in its place: equal-mass bins of each class's probabilities above
            it, averaged over classes (in ``"label"`` without the background class).
        ignore_index: Label of voxels to leave out.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``n_bins`` is below one or ``threshold`` no probability below one.
    """

    higher_is_better = False

    def __init__(
        self,
        num_classes: int,
        *,
        n_bins: int = 15,
        region: str = "all",
        threshold: float | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, regions=(region,), ignore_index=ignore_index, **kwargs)
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), or None for none, got {threshold}.")
        self.n_bins, self.threshold = n_bins, threshold

    def compute(self) -> Tensor:
        """Return the value, a float64 scalar; NaN where no voxel was counted."""
        table = self.table(self.regions[0])
        if self.threshold is None:
            value = adaptive_error(table[:, 0], n_bins=self.n_bins)
        else:
            first = 2 if self.regions[0] == "label" else 1  # no background in its foreground
            classes = table[:, first : 1 + self.num_classes]
            value = thresholded_error(classes, threshold=self.threshold, n_bins=self.n_bins)
        return torch.tensor(value, dtype=torch.float64)


class SmoothCalibrationError(FineHistogram):
    """Top-label smooth calibration error; there is no number of bins to choose.

    Args:
        num_classes: Number of classes, background included.
        region: ``"all"``, ``"label"`` or ``"union"``.
        ignore_index: Label of voxels to leave out.
        kwargs: Settings of :class:`torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(
        self, num_classes: int, *, region: str = "all", ignore_index: int = -100, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, regions=(region,), ignore_index=ignore_index, **kwargs)

    def compute(self) -> Tensor:
        """Return the value, a float64 scalar; NaN where no voxel was counted."""
        value = smooth_error(self.table(self.regions[0])[:, 0])
        return torch.tensor(value, dtype=torch.float64)
