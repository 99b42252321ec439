"""Post-hoc calibrators: fitted to a stream of predictions, applied, kept as JSON."""

from mbls.posthoc.base import Calibrator, Card
from mbls.posthoc.classwise import Beta, HistogramBinning, Isotonic
from mbls.posthoc.classwise_fit import fit_bins
from mbls.posthoc.fit import cross_fit, fit, patient_groups
from mbls.posthoc.held_out import too_few
from mbls.posthoc.methods import METHODS
from mbls.posthoc.regions import Regions
from mbls.posthoc.scaling import Temperature, Vector, VectorTI

__all__ = [
    "METHODS",
    "Beta",
    "Calibrator",
    "Card",
    "HistogramBinning",
    "Isotonic",
    "Regions",
    "Temperature",
    "Vector",
    "VectorTI",
    "cross_fit",
    "fit",
    "fit_bins",
    "patient_groups",
    "too_few",
]
