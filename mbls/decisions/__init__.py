"""From probabilities to answers: thresholds that are chosen on some patients, used on others."""

from mbls.decisions.choice import Target, Thresholds, choose
from mbls.decisions.label_maps import label_map
from mbls.decisions.optimal import OptimalDice, optimal_dice
from mbls.decisions.refer import case_confidences, case_risk, referrals
from mbls.decisions.risk_coverage import augrc, aurc
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
    "OptimalDice",
    "Target",
    "Thresholds",
    "argmax_counts",
    "augrc",
    "aurc",
    "case_confidences",
    "case_risk",
    "case_scores",
    "choose",
    "curves_of",
    "label_map",
    "optimal_dice",
    "referrals",
    "structures_of",
    "threshold_counts",
]
