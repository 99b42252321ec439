"""From probabilities to answers: thresholds that are chosen on some patients, used on others."""

from mbls.decisions.choice import Target, Thresholds, choose
from mbls.decisions.thresholds import (
    THRESHOLDS,
    Curve,
    argmax_counts,
    case_scores,
    curves_of,
    structures_of,
    threshold_counts,
)

__all__ = [
    "THRESHOLDS",
    "Curve",
    "Target",
    "Thresholds",
    "argmax_counts",
    "case_scores",
    "choose",
    "curves_of",
    "structures_of",
    "threshold_counts",
]
