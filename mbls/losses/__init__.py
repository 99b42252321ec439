"""Losses for calibrated segmentation: one family a file, the formula first, then its settings.

Each is ``loss(logits, target)``, usable alone. In MONAI's trainers it is the ``loss_function``:
``SupervisedTrainer(..., loss_function=MarginLoss(margin=5.0))``; labels may be ``(N, 1, *S)`` and
floats, as MONAI's transforms make them, and the network's last activation is left out.
"""

from mbls.losses._boundary import mixed_windows
from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._neighborhood import neighbour_proportions
from mbls.losses.ace import (
    BinnedCalibrationLoss,
    average_calibration_error,
    hard_bins,
    soft_bins,
)
from mbls.losses.acls import (
    AdaptiveConditionalSmoothingLoss,
    loser_penalty,
    winner_penalty,
)
from mbls.losses.adaptive.adafocal import (
    AdaFocalLoss,
    equal_mass_edges,
    next_gammas,
    signed_focal_map,
)
from mbls.losses.adaptive.augmented_lagrangian import AugmentedLagrangianLoss
from mbls.losses.adaptive.cals import ClassAdaptiveMarginLoss
from mbls.losses.adaptive.cals_hr import HeuristicMarginLoss
from mbls.losses.adaptive.constraints import Constraint, MarginConstraint, NeighbourConstraint
from mbls.losses.adaptive.crac import RegionAdaptiveLoss
from mbls.losses.adaptive.multipliers import MultiplierLoss
from mbls.losses.adaptive.penalty_functions import hinge, p2, p3, phr
from mbls.losses.base import AdaptiveLoss, ImageLoss, Loss, part_terms
from mbls.losses.brier import BrierLoss, brier_map
from mbls.losses.ce import CrossEntropyLoss, cross_entropy
from mbls.losses.compound import CompoundLoss
from mbls.losses.cpc import PairwiseConstraintLoss, discrimination_map, exclusion_map
from mbls.losses.dca import AccuracyConfidenceLoss, accuracy_gap
from mbls.losses.dice import DiceCrossEntropyLoss, DiceLoss, soft_dice_loss
from mbls.losses.dscpp import (
    DicePlusPlusLoss,
    FocalTverskyPlusPlusLoss,
    TverskyPlusPlusLoss,
    confusion,
    dice_plus_plus,
    tversky_plus_plus,
)
from mbls.losses.ecp import EntropyPenaltyLoss, mean_entropy
from mbls.losses.fcl import FocalCalibrationLoss
from mbls.losses.focal import AdaptiveFocalLoss, FocalLoss, adaptive_exponents, focal_map
from mbls.losses.l1_penalty import UniformPenaltyLoss, uniform_distance
from mbls.losses.ls import LabelSmoothingLoss
from mbls.losses.mbls import MarginLoss, margin_penalty
from mbls.losses.mdca import ClasswiseMeanCalibrationLoss, classwise_gap
from mbls.losses.mmce import (
    KernelCalibrationLoss,
    kernel_calibration_error,
    weighted_kernel_error,
)
from mbls.losses.nacl import NeighborAwareLoss, neighbour_distance
from mbls.losses.penalty import PenaltyLoss
from mbls.losses.svls import SpatialLabelSmoothingLoss, soft_ce_map
from mbls.losses.unified_focalpp import (
    UnifiedFocalPlusPlusLoss,
    asymmetric_focal,
    asymmetric_focal_tversky,
)

__all__ = [
    "AccuracyConfidenceLoss",
    "AdaFocalLoss",
    "AdaptiveConditionalSmoothingLoss",
    "AdaptiveFocalLoss",
    "AdaptiveLoss",
    "AugmentedLagrangianLoss",
    "BinnedCalibrationLoss",
    "BrierLoss",
    "ClassAdaptiveMarginLoss",
    "ClassWeightedLoss",
    "ClasswiseMeanCalibrationLoss",
    "CompoundLoss",
    "Constraint",
    "CrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceLoss",
    "DicePlusPlusLoss",
    "EntropyPenaltyLoss",
    "FocalCalibrationLoss",
    "FocalLoss",
    "FocalTverskyPlusPlusLoss",
    "HeuristicMarginLoss",
    "ImageLoss",
    "KernelCalibrationLoss",
    "LabelSmoothingLoss",
    "Loss",
    "MarginConstraint",
    "MarginLoss",
    "MultiplierLoss",
    "NeighborAwareLoss",
    "NeighbourConstraint",
    "PairwiseConstraintLoss",
    "PenaltyLoss",
    "RegionAdaptiveLoss",
    "SpatialLabelSmoothingLoss",
    "TverskyPlusPlusLoss",
    "UnifiedFocalPlusPlusLoss",
    "UniformPenaltyLoss",
    "accuracy_gap",
    "adaptive_exponents",
    "asymmetric_focal",
    "asymmetric_focal_tversky",
    "average_calibration_error",
    "brier_map",
    "classwise_gap",
    "confusion",
    "cross_entropy",
    "dice_plus_plus",
    "discrimination_map",
    "equal_mass_edges",
    "exclusion_map",
    "focal_map",
    "hard_bins",
    "hinge",
    "kernel_calibration_error",
    "loser_penalty",
    "margin_penalty",
    "mean_entropy",
    "mixed_windows",
    "neighbour_distance",
    "neighbour_proportions",
    "next_gammas",
    "p2",
    "p3",
    "part_terms",
    "phr",
    "signed_focal_map",
    "soft_bins",
    "soft_ce_map",
    "soft_dice_loss",
    "tversky_plus_plus",
    "uniform_distance",
    "weighted_kernel_error",
    "winner_penalty",
]
