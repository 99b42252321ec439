"""The asymmetric unified focal loss with DSC++'s power, for one foreground class."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_at_least, check_within
from mbls.losses._masking import as_images, image_mean, labeled, masked_mean, power
from mbls.losses.base import Loss
from mbls.losses.dscpp import EPS, confusion

__all__ = ["UnifiedFocalPlusPlusLoss", "asymmetric_focal", "asymmetric_focal_tversky"]


def asymmetric_focal(
    log_probs: Tensor, target: Tensor, *, delta: float, gamma: float, ignore_index: int = -100
) -> Tensor:
    r"""Average the cross-entropy whose background part alone is focal.

    :math:`-(1 - \delta) (1 - p_0)^\gamma \log p_0` where the label is 0,
    :math:`-\delta \log p_1` where it is 1.

    Args:
        log_probs: Log-probabilities ``(N, 2, *S)``.
        target: Labels ``(N, *S)``, int64.
        delta: Weight of the foreground, in [0, 1].
        gamma: Exponent >= 0 of the background.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar, the mean over voxels.
    """
    keep, safe = labeled(target, ignore_index)
    back = -(1 - delta) * power(-log_probs[:, 0].expm1(), gamma) * log_probs[:, 0]
    return masked_mean((-delta * log_probs[:, 1]).where(safe == 1, back), keep)


def asymmetric_focal_tversky(
    probs: Tensor,
    target: Tensor,
    *,
    delta: float,
    gamma: float,
    gamma_plus_plus: float,
    ignore_index: int = -100,
) -> Tensor:
    r"""Average :math:`\frac12 (1 - T_0) + \frac12 (1 - T_1)^{1 - \gamma}` over images.

    T is the Tversky index of :func:`mbls.losses.tversky_plus_plus` for background and foreground.

    Args:
        probs: Probabilities ``(N, 2, *S)``; ``(N, 2)`` counts as one image of N voxels.
        target: Labels ``(N, *S)``, int64.
        delta: Weight of misses against false alarms, in [0, 1].
        gamma: In [0, 1]; the foreground's exponent is ``1 - gamma``.
        gamma_plus_plus: Exponent >= 1 of the errors.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar.
    """
    probs, target = as_images(probs, target)
    tp, fn, fp = confusion(probs, target, gamma_plus_plus, ignore_index=ignore_index)
    loss = (1 - (tp + EPS) / (tp + delta * fn + (1 - delta) * fp + EPS)).clamp_min(0)
    both = (loss[:, :1] + power(loss[:, 1:], 1 - gamma)) / 2
    return image_mean(both, target != ignore_index)


class UnifiedFocalPlusPlusLoss(Loss):
    """The asymmetric unified focal loss with the errors of DSC++; two classes, as published.

    Formula: weight * AFT + (1 - weight) * AF (asymmetric focal Tversky++ and asymmetric focal)
    Paper: Yeung et al., CMIG 2022, arXiv:2102.04525; J Digit Imaging 2023, arXiv:2111.00528

    Args:
        weight: Share of the Tversky part, in [0, 1]; None adds both with factor 1.
        delta: Weight of the foreground and of misses, in [0, 1].
        gamma: In [0, 1]: exponent of the background's focal part, and 1 minus the foreground's
            Tversky exponent.
        gamma_plus_plus: Exponent >= 1 of the errors; 1 is the unified focal loss.
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Example:
        >>> import torch
        >>> loss = UnifiedFocalPlusPlusLoss()
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.3807)
    """

    voxel_means = frozenset({"focal"})

    def __init__(
        self,
        weight: float | None = 0.5,
        *,
        delta: float = 0.6,
        gamma: float = 0.5,
        gamma_plus_plus: float = 2.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if weight is not None:
            check_within(0, 1, weight=weight)
        check_within(0, 1, delta=delta, gamma=gamma)
        check_at_least(1, gamma_plus_plus=gamma_plus_plus)
        self.weight = weight
        self.delta = delta
        self.gamma = gamma
        self.gamma_plus_plus = gamma_plus_plus

    def bind(self, num_classes: int) -> None:
        """Refuse more than two classes before training starts."""
        super().bind(num_classes)
        _check_binary(num_classes)

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"tversky": ..., "focal": ...}``."""
        logits, target = self.prepare(logits, target)
        _check_binary(logits.shape[1])
        log_probs = logits.log_softmax(dim=1)
        shared = {"delta": self.delta, "gamma": self.gamma}
        tversky = asymmetric_focal_tversky(
            log_probs.exp(),
            target,
            gamma_plus_plus=self.gamma_plus_plus,
            ignore_index=self.ignore_index,
            **shared,
        )
        focal = asymmetric_focal(log_probs, target, ignore_index=self.ignore_index, **shared)
        first, second = (1.0, 1.0) if self.weight is None else (self.weight, 1 - self.weight)
        return {"tversky": first * tversky, "focal": second * focal}


def _check_binary(num_classes: int) -> None:
    if num_classes != 2:
        raise ValueError(
            "UnifiedFocalPlusPlusLoss is published for background and one foreground class: "
            f"num_classes must be 2, got {num_classes}. For more take FocalTverskyPlusPlusLoss."
        )
