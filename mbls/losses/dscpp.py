"""The DSC++ family: overlap losses that forgive small errors less than confident ones."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_above, check_at_least, check_within
from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._masking import as_images, image_mean, labeled, one_hot, power

__all__ = [
    "DicePlusPlusLoss",
    "FocalTverskyPlusPlusLoss",
    "TverskyPlusPlusLoss",
    "confusion",
    "dice_plus_plus",
    "tversky_plus_plus",
]

EPS = 1e-7  # added above and below, as published


def confusion(
    probs: Tensor, target: Tensor, gamma: float, *, ignore_index: int = -100
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return soft counts per image and class, the errors sharpened by a power.

    :math:`TP = \sum q p`, :math:`FN = \sum q (1 - p)^\gamma`, :math:`FP = \sum (1 - q) p^\gamma`.
    (The published code also clips p and q to [1e-7, 1 - 1e-7], so that with gamma 1 an empty class
    that is predicted rightly costs nearly a whole class.)

    Args:
        probs: Class probabilities ``(N, C, *S)``.
        target: Labels ``(N, *S)``, int64.
        gamma: Exponent >= 1.
        ignore_index: The label of voxels that take no part.

    Returns:
        TP, FN and FP, each ``(N, C)``.
    """
    keep, safe = labeled(target, ignore_index)
    hot = one_hot(safe, keep, probs)
    missed = hot * power((1 - probs).clamp_min(0), gamma)
    false = (keep.unsqueeze(1).to(probs.dtype) - hot) * power(probs, gamma)
    tp, fn, fp = (counts.flatten(2).sum(dim=2) for counts in (hot * probs, missed, false))
    return tp, fn, fp


def dice_plus_plus(
    probs: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Average ``1 - (2 TP + e) / (2 TP + FN + FP + e)`` over images and classes, e = 1e-7.

    Args:
        probs: Class probabilities ``(N, C, *S)``; ``(N, C)`` counts as one image of N voxels.
        target: Labels ``(N, *S)``, int64.
        gamma: Exponent >= 1 of the errors; 1 is Dice.
        weight: What each class counts in the mean ``(C,)``; None for 1.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar; zero if no voxel is labeled.

    Example:
        >>> import torch
        >>> probs = torch.full((1, 2, 4), 0.5)
        >>> dice_plus_plus(probs, torch.tensor([[0, 0, 1, 1]]), gamma=2.0)
        tensor(0.3333)
    """
    probs, target = as_images(probs, target)
    tp, fn, fp = confusion(probs, target, gamma, ignore_index=ignore_index)
    loss = 1 - (2 * tp + EPS) / (2 * tp + fn + fp + EPS)
    return image_mean(loss, target != ignore_index, weight)


def tversky_plus_plus(
    probs: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    *,
    delta: float = 0.7,
    focal: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Average ``(1 - T) ** focal``, ``T = (TP + e) / (TP + delta FN + (1 - delta) FP + e)``.

    Args:
        probs: Class probabilities ``(N, C, *S)``; ``(N, C)`` counts as one image of N voxels.
        target: Labels ``(N, *S)``, int64.
        gamma: Exponent >= 1 of the errors; 1 is Tversky.
        delta: Weight of misses against false alarms, in [0, 1].
        focal: Exponent of each image's and class's loss.
        weight: What each class counts in the mean ``(C,)``; None for 1.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar, the mean over images and classes; zero if no voxel is labeled.

    Example:
        >>> import torch
        >>> probs = torch.full((1, 2, 4), 0.5)
        >>> tversky_plus_plus(probs, torch.tensor([[0, 0, 1, 1]]), gamma=1.0, delta=0.7)
        tensor(0.5000)
    """
    probs, target = as_images(probs, target)
    tp, fn, fp = confusion(probs, target, gamma, ignore_index=ignore_index)
    loss = 1 - (tp + EPS) / (tp + delta * fn + (1 - delta) * fp + EPS)
    if focal != 1:
        loss = power(loss.clamp_min(0), focal)
    return image_mean(loss, target != ignore_index, weight)


class DicePlusPlusLoss(ClassWeightedLoss):
    """Dice loss whose errors are raised to a power (DSC++); see :func:`dice_plus_plus`.

    Formula: mean_nk 1 - (2 TP + e) / (2 TP + sum_v q (1-p)^gamma + sum_v (1-q) p^gamma + e)
    Paper: Yeung et al., J Digit Imaging 2023, arXiv:2111.00528

    Args:
        gamma: Exponent >= 1; 1 is Dice.
        **settings: weight, ignore_index and validate, as :class:`ClassWeightedLoss` takes them.

    Example:
        >>> import torch
        >>> DicePlusPlusLoss()(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.3333)
    """

    def __init__(self, gamma: float = 2.0, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(1, gamma=gamma)
        self.gamma = gamma

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"dice_plus_plus": ...}``."""
        logits, target = self.prepare(logits, target)
        value = dice_plus_plus(
            logits.softmax(dim=1),
            target,
            self.gamma,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        return {"dice_plus_plus": value}


class TverskyPlusPlusLoss(ClassWeightedLoss):
    """Tversky loss whose errors are raised to a power; see :func:`tversky_plus_plus`.

    Formula: mean_nk 1 - T, T = (TP + e) / (TP + delta FN + (1 - delta) FP + e) with FN, FP of DSC++
    Paper: Yeung et al., J Digit Imaging 2023, arXiv:2111.00528

    Args:
        gamma: Exponent >= 1; 1 is Tversky.
        delta: Weight of misses against false alarms, in [0, 1].
        **settings: weight, ignore_index and validate, as :class:`ClassWeightedLoss` takes them.

    Example:
        >>> import torch
        >>> TverskyPlusPlusLoss(1.0)(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5000)
    """

    focal = 1.0

    def __init__(self, gamma: float = 2.0, *, delta: float = 0.7, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(1, gamma=gamma)
        check_within(0, 1, delta=delta)
        self.gamma = gamma
        self.delta = delta

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"tversky": ...}``."""
        logits, target = self.prepare(logits, target)
        value = tversky_plus_plus(
            logits.softmax(dim=1),
            target,
            self.gamma,
            delta=self.delta,
            focal=self.focal,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        return {"tversky": value}


class FocalTverskyPlusPlusLoss(TverskyPlusPlusLoss):
    """:class:`TverskyPlusPlusLoss` whose value per image and class is raised to a power.

    Formula: mean_nk (1 - T)^focal, T of TverskyPlusPlusLoss
    Paper: Yeung et al., J Digit Imaging 2023, arXiv:2111.00528

    Args:
        gamma: Exponent >= 1 of the errors; 1 is focal Tversky.
        focal: Exponent > 0 of each image's and class's loss.
        **settings: delta and weight, ignore_index and validate, as :class:`TverskyPlusPlusLoss`
            takes them.

    Example:
        >>> import torch
        >>> FocalTverskyPlusPlusLoss(1.0)(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5946)
    """

    def __init__(self, gamma: float = 2.0, *, focal: float = 0.75, **settings: Any) -> None:
        super().__init__(gamma, **settings)
        check_above(0, focal=focal)
        self.focal = focal
