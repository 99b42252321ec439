"""Losses for calibrated segmentation: one family a file, the formula first, then its settings.

Each is ``loss(logits, target)``, usable alone. In MONAI's trainers it is the ``loss_function``:
``SupervisedTrainer(..., loss_function=MarginLoss(margin=5.0))``; labels may be ``(N, 1, *S)`` and
floats, as MONAI's transforms make them, and the network's last activation is left out. Some losses
also take soft labels ``(N, C, *S)``, the probability of each class (:attr:`Loss.soft_targets`).
"""

from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._neighborhood import neighbor_proportions
from mbls.losses.ace import BinnedCalibrationLoss, average_calibration_error
from mbls.losses.acls import AdaptiveConditionalSmoothingLoss, loser_penalty, winner_penalty
from mbls.losses.adaptive.adafocal import AdaFocalLoss, signed_focal_map
from mbls.losses.adaptive.augmented_lagrangian import AugmentedLagrangianLoss
from mbls.losses.adaptive.cals import ClassAdaptiveMarginLoss
from mbls.losses.adaptive.cals_hr import HeuristicMarginLoss
from mbls.losses.adaptive.constraints import Constraint, MarginConstraint, NeighborConstraint
from mbls.losses.adaptive.crac import RegionAdaptiveLoss
from mbls.losses.adaptive.multipliers import MultiplierLoss
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
    dice_plus_plus,
    tversky_plus_plus,
)
from mbls.losses.ecp import EntropyPenaltyLoss, mean_entropy
from mbls.losses.fcl import FocalCalibrationLoss
from mbls.losses.focal import AdaptiveFocalLoss, FocalLoss, focal_map
from mbls.losses.l1_penalty import UniformPenaltyLoss, uniform_distance
from mbls.losses.mbls import MarginLoss, logit_distances, margin_penalty
from mbls.losses.mdca import ClasswiseMeanCalibrationLoss, classwise_gap
from mbls.losses.mmce import KernelCalibrationLoss, kernel_calibration_error, weighted_kernel_error
from mbls.losses.nacl import NeighborAwareLoss, neighbor_distance
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
    "Loss",
    "MarginConstraint",
    "MarginLoss",
    "MultiplierLoss",
    "NeighborAwareLoss",
    "NeighborConstraint",
    "PairwiseConstraintLoss",
    "PenaltyLoss",
    "RegionAdaptiveLoss",
    "SpatialLabelSmoothingLoss",
    "TverskyPlusPlusLoss",
    "UnifiedFocalPlusPlusLoss",
    "UniformPenaltyLoss",
    "accuracy_gap",
    "asymmetric_focal",
    "asymmetric_focal_tversky",
    "average_calibration_error",
    "brier_map",
    "classwise_gap",
    "cross_entropy",
    "dice_plus_plus",
    "discrimination_map",
    "exclusion_map",
    "focal_map",
    "kernel_calibration_error",
    "logit_distances",
    "loser_penalty",
    "margin_penalty",
    "mean_entropy",
    "neighbor_distance",
    "neighbor_proportions",
    "part_terms",
    "signed_focal_map",
    "soft_ce_map",
    "soft_dice_loss",
    "tversky_plus_plus",
    "uniform_distance",
    "weighted_kernel_error",
    "winner_penalty",
]
