"""Figures of calibration histograms and of a run's multipliers."""

from mbls.plots.confidence import confidence_figure
from mbls.plots.multipliers import multipliers_figure
from mbls.plots.reliability import reliability_figure
from mbls.plots.spread import spread_figure
from mbls.plots.style import remove_caption, save_figure
from mbls.plots.truth import truth_figure
from mbls.plots.worst import worst_figure

__all__ = [
    "confidence_figure",
    "multipliers_figure",
    "reliability_figure",
    "remove_caption",
    "save_figure",
    "spread_figure",
    "truth_figure",
    "worst_figure",
]
