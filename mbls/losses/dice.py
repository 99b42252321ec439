"""Soft Dice per image and class, alone and with cross-entropy."""

from typing import Any

import torch
from torch import Tensor

from mbls.losses._checks import check_above, check_at_least
from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._masking import as_images, class_maps, image_mean, labeled
from mbls.losses.ce import cross_entropy

__all__ = ["DiceCrossEntropyLoss", "DiceLoss", "soft_dice_loss"]


def soft_dice_loss(
    probs: Tensor,
    target: Tensor,
    *,
    include_background: bool = True,
    weight: Tensor | None = None,
    squared: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    ignore_index: int = -100,
) -> Tensor:
    r"""Average :math:`1 - (2 \sum q p + e_n) / (\sum q + \sum p + e_d)` over images and classes.

    For soft labels q the product is :math:`(q + p - |q - p|) / 2`, the smaller of the two, which
    is the same for one-hot labels: with equal e the loss is then 0 for p = q alone, as a semimetric
    (Wang et al., MICCAI 2023, arXiv:2303.16296), while the product favors p of 0 or 1. With
    ``squared`` it stays the product, since :math:`1 - 2 \sum q p / (\sum q^2 + \sum p^2)` is 0 for
    p = q alone.

    Sums run over the labeled voxels of one image. With the default smoothing a class absent from
    an image and from its prediction costs nothing; absent and predicted, it costs nearly 1. An
    image without a labeled voxel is left out of the mean.

    Args:
        probs: Class probabilities ``(N, C, *S)``; ``(N, C)`` counts as one image of N voxels.
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)``, floating.
        include_background: Average over class 0 too.
        weight: What each class counts in the mean ``(C,)``; None for 1.
        squared: Sum the squares of q and p in the denominator.
        smooth_nr: e_n, added to the numerator.
        smooth_dr: e_d > 0, added to the denominator.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar; zero if no voxel is labeled.

    Example:
        >>> import torch
        >>> soft_dice_loss(torch.full((1, 2, 4), 0.5), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5000)
    """
    probs, target = as_images(probs, target)
    keep, safe = labeled(target, ignore_index)
    maps = class_maps(safe, keep, probs)
    probs = probs.masked_fill(~keep.unsqueeze(1), 0)
    soft = target.is_floating_point() and not squared
    both = torch.minimum(maps, probs) if soft else maps * probs
    sizes = (maps.square(), probs.square()) if squared else (maps, probs)
    overlap, labels, outputs = (each.flatten(2).sum(dim=2) for each in (both, *sizes))
    volume = labels + outputs
    loss = 1 - (2 * overlap + smooth_nr) / (volume + smooth_dr)
    if not include_background:
        loss, weight = loss[:, 1:], None if weight is None else weight[1:]
    return image_mean(loss, keep, weight)


class DiceLoss(ClassWeightedLoss):
    """One minus soft Dice, mean over images and classes; see :func:`soft_dice_loss`.

    Formula: mean_nk 1 - (2 sum_v q p + e) / (sum_v q + sum_v p + e), e = 1e-5
    Paper: Milletari et al., 3DV 2016, arXiv:1606.04797; soft labels: Wang et al., MICCAI 2023,
        arXiv:2303.16296

    For soft labels q p becomes (q + p - |q - p|) / 2, so that p = q is the optimum.

    With ``weight`` w, one number a class also where the background is left out, the classes'
    values L are averaged as ``sum_k w_k L_k / sum_k w_k``; MONAI's ``weight`` does not divide.

    Args:
        include_background: Average over class 0 too.
        squared: Sum squares in the denominator, as Milletari et al. do.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator, > 0.
        **settings: weight, ignore_index and validate, as :class:`ClassWeightedLoss` takes them.

    Example:
        >>> import torch
        >>> DiceLoss()(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5000)
    """

    soft_targets = True

    def __init__(
        self,
        include_background: bool = True,
        *,
        squared: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if not include_background and self.weight is not None and not self.weight[1:].any():
            raise ValueError(
                "weight must be > 0 for a class that counts: without the background all others "
                f"are 0, got {self.weight.tolist()}."
            )
        check_at_least(0, smooth_nr=smooth_nr)
        check_above(0, smooth_dr=smooth_dr)
        self.include_background = include_background
        self.squared = squared
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"dice": ...}``."""
        logits, target = self.prepare(logits, target)
        value = soft_dice_loss(
            logits.softmax(dim=1),
            target,
            include_background=self.include_background,
            weight=self.weight,
            squared=self.squared,
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
            ignore_index=self.ignore_index,
        )
        return {"dice": value}


class DiceCrossEntropyLoss(DiceLoss):
    """Cross-entropy plus :class:`DiceLoss`, both with weight 1.

    Formula: CE + Dice loss
    Paper: Milletari et al., 3DV 2016, arXiv:1606.04797; the sum: Isensee et al., 2018,
        arXiv:1809.10486

    ``weight`` counts in both. The published ``ce_dice`` averages Dice over class 0 too.

    Args:
        **settings: As :class:`DiceLoss` takes them.

    Example:
        >>> import torch
        >>> loss = DiceCrossEntropyLoss()
        >>> sorted(loss.terms(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]])))
        ['ce', 'dice']
    """

    voxel_means = frozenset({"ce"})

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"ce": ..., "dice": ...}``."""
        logits, target = self.prepare(logits, target)
        ce = cross_entropy(logits, target, weight=self.weight, ignore_index=self.ignore_index)
        return {"ce": ce, **super().terms(logits, target)}
