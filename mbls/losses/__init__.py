"""Losses for calibrated segmentation: one family a file, the formula first, then its settings."""

from mbls.losses.base import AdaptiveLoss, ImageLoss, Loss, part_terms
from mbls.losses.compound import CompoundLoss
from mbls.losses.cross_entropy import CrossEntropyLoss, cross_entropy
from mbls.losses.dice import DiceCrossEntropyLoss, DiceLoss, soft_dice_loss
from mbls.losses.margin import MarginLoss, margin_penalty
from mbls.losses.penalty import PenaltyLoss

__all__ = [
    "AdaptiveLoss",
    "CompoundLoss",
    "CrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceLoss",
    "ImageLoss",
    "Loss",
    "MarginLoss",
    "PenaltyLoss",
    "cross_entropy",
    "margin_penalty",
    "part_terms",
    "soft_dice_loss",
]
