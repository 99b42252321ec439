"""From probabilities to answers: thresholds that are chosen on some patients, used on others."""

from mbls.decisions.choice import Target, Thresholds, choose
from mbls.decisions.conformal import conformal_quantile, patients_needed
from mbls.decisions.guarantee import Guarantee, Promise, guaranteed
from mbls.decisions.label_maps import label_map
from mbls.decisions.nested import nested_masks
from mbls.decisions.optimal import OptimalDice, optimal_dice
from mbls.decisions.quantities import Quantity, quantities_of
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
from mbls.decisions.volumes import calibrate

__all__ = [
    "THRESHOLDS",
    "Curve",
    "Guarantee",
    "OptimalDice",
    "Promise",
    "Quantity",
    "Target",
    "Thresholds",
    "argmax_counts",
    "augrc",
    "aurc",
    "calibrate",
    "case_confidences",
    "case_risk",
    "case_scores",
    "choose",
    "conformal_quantile",
    "curves_of",
    "guaranteed",
    "label_map",
    "nested_masks",
    "optimal_dice",
    "patients_needed",
    "quantities_of",
    "referrals",
    "structures_of",
    "threshold_counts",
]
