"""Soft Dice per image and class, alone and with cross-entropy."""

from torch import Tensor

from mbls.losses.base import Loss
from mbls.losses.cross_entropy import cross_entropy
from mbls.losses.masking import as_images, image_mean, labelled, one_hot

__all__ = ["DiceCrossEntropyLoss", "DiceLoss", "soft_dice_loss"]

SMOOTH = 1e-5  # added above and below, as MONAI and the published runs do


def soft_dice_loss(
    probs: Tensor, target: Tensor, *, include_background: bool = True, ignore_index: int = -100
) -> Tensor:
    r"""Average :math:`1 - (2 \sum q p + e) / (\sum q + \sum p + e)` over images and classes.

    Sums run over the labelled voxels of one image, e is 1e-5. A class absent from an image and
    from its prediction costs nothing; absent and predicted, it costs nearly 1. An image without a
    labelled voxel is left out of the mean.

    Args:
        probs: Class probabilities ``(N, C, *S)``; ``(N, C)`` counts as one image of N voxels.
        target: Labels ``(N, *S)``, int64.
        include_background: Average over class 0 too.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar; zero where no voxel is labelled.

    Example:
        >>> import torch
        >>> soft_dice_loss(torch.full((1, 2, 4), 0.5), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5000)
    """
    probs, target = as_images(probs, target)
    keep, safe = labelled(target, ignore_index)
    hot = one_hot(safe, keep, probs)
    probs = probs.masked_fill(~keep.unsqueeze(1), 0)
    overlap = (hot * probs).flatten(2).sum(dim=2)
    volume = hot.flatten(2).sum(dim=2) + probs.flatten(2).sum(dim=2)
    loss = 1 - (2 * overlap + SMOOTH) / (volume + SMOOTH)
    return image_mean(loss if include_background else loss[:, 1:], keep)


class DiceLoss(Loss):
    """One minus soft Dice, mean over images and classes; see :func:`soft_dice_loss`.

    Formula: mean_nk 1 - (2 sum_v q p + e) / (sum_v q + sum_v p + e), e = 1e-5
    Paper: Milletari et al., 3DV 2016, arXiv:1606.04797

    Args:
        include_background: Average over class 0 too.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> DiceLoss()(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5000)
    """

    def __init__(
        self, include_background: bool = True, *, ignore_index: int = -100, validate: bool = False
    ) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        self.include_background = include_background

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"dice": ...}``."""
        logits, target = self.prepare(logits, target)
        value = soft_dice_loss(
            logits.softmax(dim=1),
            target,
            include_background=self.include_background,
            ignore_index=self.ignore_index,
        )
        return {"dice": value}


class DiceCrossEntropyLoss(DiceLoss):
    """Cross-entropy plus :class:`DiceLoss`, both with weight 1.

    Formula: CE + Dice loss
    Paper: Milletari et al., 3DV 2016, arXiv:1606.04797; the sum: Isensee et al., arXiv:1809.10486

    Args:
        include_background: Average Dice over class 0 too, as the published ``ce_dice`` does.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> loss = DiceCrossEntropyLoss()
        >>> sorted(loss.terms(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]])))
        ['ce', 'dice']
    """

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"ce": ..., "dice": ...}``."""
        logits, target = self.prepare(logits, target)
        ce = cross_entropy(logits, target, ignore_index=self.ignore_index)
        return {"ce": ce, **super().terms(logits, target)}
