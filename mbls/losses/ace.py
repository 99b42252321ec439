"""Average calibration error of each class as a loss (mL1-ACE), with hard or soft bins."""

from typing import Any, Literal

import torch
from torch import Tensor

from mbls.losses._checks import check_count, check_one_of
from mbls.losses._masking import as_images, class_maps, image_mean, labeled
from mbls.losses.base import Loss

__all__ = ["BinnedCalibrationLoss", "average_calibration_error", "hard_bins", "soft_bins"]

TOP = 1 + 2**-23  # the last edge, just above 1, as published
EMPTY_WEIGHT = 0.01  # a soft bin with less is empty


def hard_bins(probs: Tensor, hits: Tensor, weight: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
    """Sum up equal bins ``(lo, hi]``; 0 joins the first.

    Args:
        probs: ``(R, V)``, R rows of V probabilities; the gradient flows through their sum.
        hits: ``(R, V)``, 1.0 where the voxel has the row's class, or its probability.
        weight: ``(R, V)``, 1.0 where the voxel takes part.
        n_bins: B.

    Returns:
        Weight, and sum of probabilities minus sum of hits, each ``(R, B)``.
    """
    known = probs.detach()
    edges = torch.linspace(0, TOP, n_bins + 1, dtype=probs.dtype, device=probs.device)
    place = (known * (n_bins / TOP)).long().clamp_(0, n_bins - 1)  # right up to rounding
    place -= (known <= edges[place]).long()
    place += (known > edges[place + 1]).long()
    place.clamp_(0, n_bins - 1)
    return _sums(place, weight, n_bins), _sums(place, weight * (probs - hits), n_bins)


def soft_bins(probs: Tensor, hits: Tensor, weight: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
    """Share every voxel linearly between the two nearest bin centers.

    Below the first and above the last center all weight goes to that bin. The gradient flows
    through the shares as well.

    Args:
        probs: ``(R, V)``.
        hits: ``(R, V)``, 1.0 where the voxel has the row's class, or its probability.
        weight: ``(R, V)``, 1.0 where the voxel takes part.
        n_bins: B >= 2.

    Returns:
        Weight, and sum of probabilities minus sum of hits, each ``(R, B)``.
    """
    place = probs * (n_bins / TOP) - 0.5  # 0 at the first center, 1 at the second
    low = place.detach().long().clamp_(0, n_bins - 2)
    up = (place - low).clamp(0, 1) * weight
    gap = probs - hits
    count = _sums(low, weight - up, n_bins) + _sums(low + 1, up, n_bins)
    return count, _sums(low, (weight - up) * gap, n_bins) + _sums(low + 1, up * gap, n_bins)


def average_calibration_error(
    probs: Tensor,
    target: Tensor,
    *,
    binning: Literal["hard", "soft"] = "hard",
    n_bins: int = 20,
    include_background: bool = True,
    ignore_empty_classes: bool = True,
    ignore_index: int = -100,
) -> Tensor:
    r"""Average :math:`|\bar p_b - \bar q_b|` over non-empty bins, then over images and classes.

    Args:
        probs: Class probabilities ``(N, C, *S)``; ``(N, C)`` counts as one image of N voxels.
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)``, floating.
        binning: ``"hard"`` or ``"soft"``.
        n_bins: Bins of each class.
        include_background: Average over class 0 too.
        ignore_empty_classes: A class absent from an image counts with 0; it stays in the mean.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar; zero if no voxel is labeled.

    Example:
        >>> probs = torch.tensor([[[0.9, 0.9], [0.1, 0.1]]])
        >>> average_calibration_error(probs, torch.tensor([[0, 1]]))
        tensor(0.4000)
    """
    probs, target = as_images(probs, target)
    keep, safe = labeled(target, ignore_index)
    maps = class_maps(safe, keep, probs)
    first = 0 if include_background else 1
    probs, maps = probs[:, first:], maps[:, first:]
    weight = keep.unsqueeze(1).expand_as(probs).to(probs.dtype)
    bins = hard_bins if binning == "hard" else soft_bins
    count, surplus = bins(_rows(probs), _rows(maps), _rows(weight), n_bins)
    filled = count > 0 if binning == "hard" else count >= EMPTY_WEIGHT
    gap = (surplus / count.masked_fill(~filled, 1)).abs().masked_fill(~filled, 0)
    error = gap.sum(dim=1) / filled.sum(dim=1).clamp_min(1)
    error = error.view(probs.shape[:2])
    if ignore_empty_classes:
        error = error.masked_fill(maps.flatten(2).sum(dim=2) == 0, 0)
    return image_mean(error, keep)


class BinnedCalibrationLoss(Loss):
    """Average calibration error per image and class (mL1-ACE).

    Formula: mean_nk mean_b |mean_{v in b} p_k - mean_{v in b} q_k|
    Paper: Barfoot et al., MICCAI 2024, arXiv:2403.06759; 2025, arXiv:2506.03942

    Published with Dice and cross-entropy, 0.33 each: see :class:`CompoundLoss`.

    Args:
        binning: ``"hard"``, or ``"soft"`` with a gradient through the bins.
        n_bins: Bins of each class.
        include_background: Average over class 0 too.
        ignore_empty_classes: A class absent from an image counts with 0; it stays in the mean.
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Example:
        >>> BinnedCalibrationLoss()(torch.zeros(1, 2, 4), torch.tensor([[0, 1, 1, 1]]))
        tensor(0.2500)
    """

    soft_targets = True

    def __init__(
        self,
        binning: Literal["hard", "soft"] = "hard",
        *,
        n_bins: int = 20,
        include_background: bool = True,
        ignore_empty_classes: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_one_of(("hard", "soft"), binning=binning)
        check_count(1 if binning == "hard" else 2, n_bins=n_bins)
        self.binning: Literal["hard", "soft"] = binning
        self.n_bins = n_bins
        self.include_background = include_background
        self.ignore_empty_classes = ignore_empty_classes

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"ace": ...}``."""
        logits, target = self.prepare(logits, target)
        value = average_calibration_error(
            logits.softmax(dim=1),
            target,
            binning=self.binning,
            n_bins=self.n_bins,
            include_background=self.include_background,
            ignore_empty_classes=self.ignore_empty_classes,
            ignore_index=self.ignore_index,
        )
        return {"ace": value}


def _sums(place: Tensor, values: Tensor, n_bins: int) -> Tensor:
    """Add up the values ``(R, V)`` of each place 0 .. B - 1: ``(R, B)``."""
    return values.new_zeros(len(values), n_bins).scatter_add(1, place, values)


def _rows(values: Tensor) -> Tensor:
    """Return one row per image and class: ``(N, C, *S)`` to ``(N * C, V)``."""
    return values.flatten(2).flatten(0, 1).contiguous()
