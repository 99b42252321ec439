"""The fine histogram as an array with named axes, and the metrics that need it.

It is pooled: 4096 cells per case would need a hundred times the memory of the exact histogram. So
these metrics have no values per case and no intervals over patients. Equal-mass bins have a noise
floor; the smooth error has none, since its kernel widens with the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mbls.metrics._kernel.fixed_point import FIXED_ONE
from mbls.metrics.adaptive import BinError, adaptive_error, thresholded_error
from mbls.metrics.calibration import expected_error
from mbls.metrics.floor import expected_error_floor
from mbls.metrics.smooth import smooth_error

FINE_CELLS = 4096
LOG_ODDS_LIMIT = 20.0
"""Cells 1 to 4094 divide the log-odds between minus and plus this; 0 and 4095 are the rest."""
TACE_THRESHOLD = 0.01
FINE_METRICS = ("adaptive_ece", "tace", "smece")
"""Top-label error of equal-mass bins, TACE over classes, top-label smooth error."""
_AXES = ("region", "channel", "cell", "quantity")


@dataclass(frozen=True)
class FineBins:
    """Integer sums of a fine histogram over all cases together.

    Attributes:
        cells: int64 ``(regions, channels, 4096, 3)``, last axis voxels, hits, and confidences in
            units of 2**-30; channels are the top label, the classes and the unions.
        regions: Names along the region axis.
    """

    cells: np.ndarray
    regions: tuple[str, ...]

    @classmethod
    def from_state(cls, cells: Tensor, regions: Sequence[str]) -> "FineBins":
        """Copy a metric's state to the host.

        Raises:
            OverflowError: If sums over processes wrapped around.
        """
        host = cells.detach().cpu().numpy().copy()
        if host.min(initial=0) < 0:
            raise OverflowError("Sums over processes passed 2**63: score fewer voxels in one run.")
        return cls(host, tuple(regions))

    def table(self, region: str) -> np.ndarray:
        """Return one region's voxels, hits and confidences, float64 ``(3, channels, 4096)``.

        Raises:
            ValueError: If the region was not counted.
        """
        if region not in self.regions:
            raise ValueError(
                f"region must be one of those counted, {self.regions}, got {region!r}."
            )
        cells = self.cells[self.regions.index(region)]
        voxels, hits, confidence = np.moveaxis(cells, -1, 0).astype(np.float64)
        return np.stack([voxels, hits, confidence / FIXED_ONE])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a file, with named axes."""
        return {
            "fine": self.cells,
            "fine_axes": np.array(_AXES),
            "fine_region": np.array(self.regions),
            "fine_lower_edge": fine_lower_edges(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "FineBins | None":
        """Return the bins from :meth:`arrays`, or None if they are missing."""
        if "fine" not in arrays:
            return None
        return cls(arrays["fine"], tuple(arrays["fine_region"].tolist()))


def fine_lower_edges() -> np.ndarray:
    """Return the smallest probability of each cell, ``(4096,)``, to float64 precision."""
    odds = np.linspace(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT, FINE_CELLS - 1)
    return np.concatenate([[0.0], 1 / (1 + np.exp(-odds))])


def fine_values(
    fine: FineBins, num_classes: int, region: str, *, n_bins: int = 15
) -> dict[str, tuple[float, float | None]]:
    """Return each of :data:`FINE_METRICS` with its noise floor (or None).

    Args:
        fine: The sums.
        num_classes: Number of classes.
        region: Which voxels; TACE leaves the background class out of the labeled foreground.
        n_bins: Number of equal-mass bins.
    """
    table = fine.table(region)
    top, classes = table[:, 0], table[:, 2 if region == "label" else 1 : 1 + num_classes]

    def over_classes(error: BinError) -> float:
        return thresholded_error(classes, threshold=TACE_THRESHOLD, n_bins=n_bins, error=error)

    return {
        "adaptive_ece": (
            adaptive_error(top, n_bins=n_bins),
            adaptive_error(top, n_bins=n_bins, error=_floor),
        ),
        "tace": (over_classes(expected_error), over_classes(_floor)),
        "smece": (smooth_error(top), None),
    }


def _floor(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the noise floor of bins with fractional counts (edges within cells)."""
    whole = np.rint(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, confidence / count, 0.0)
    return expected_error_floor(whole, hits, mean * whole)
