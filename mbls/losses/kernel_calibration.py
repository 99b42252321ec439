"""Maximum mean calibration error (MMCE): a kernel distance between confidence and correctness."""

import torch
from torch import Tensor, nn

from mbls.losses.penalty import PenaltyLoss
from mbls.losses.settings import check_at_least

__all__ = ["KernelCalibrationLoss", "kernel_calibration_error", "weighted_kernel_error"]

WIDTH = 0.4  # of the Laplacian kernel, in units of probability


def kernel_calibration_error(confidence: Tensor, correct: Tensor, weight: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{M^2} \sum_{ij} e_i e_j K(r_i, r_j)` with :math:`e = c - r`.

    Args:
        confidence: r, probability of the winning class ``(M,)``.
        correct: c, 1.0 where the winning class is the label ``(M,)``, no gradient.
        weight: 1.0 for samples that take part, else 0.0 ``(M,)``.

    Returns:
        A scalar; zero where no sample takes part.

    Example:
        >>> r = torch.tensor([0.75])
        >>> kernel_calibration_error(r, torch.ones(1), torch.ones(1))
        tensor(0.0625)
    """
    error = (correct - confidence) * weight
    return _quadratic(error, error, confidence) / weight.sum().square().clamp_min(1)


def weighted_kernel_error(confidence: Tensor, correct: Tensor, weight: Tensor) -> Tensor:
    r"""Return the weighted MMCE: right and wrong samples are averaged on their own.

    The square root of :math:`\sum_{aa'} (1 - r_a)(1 - r_{a'}) K / m^2 + \sum_{bb'} r_b r_{b'} K /
    n^2 - 2 \sum_{ab} (1 - r_a) r_b K / (m n)` over m right samples a and n wrong samples b; zero
    where one kind is missing. (The published code divides by the number of pairs twice.)

    Args:
        confidence: r ``(M,)``.
        correct: c, 1.0 or 0.0 ``(M,)``, no gradient.
        weight: 1.0 for samples that take part, else 0.0 ``(M,)``.

    Returns:
        A scalar.

    Example:
        >>> r = torch.tensor([0.5, 0.5])
        >>> weighted_kernel_error(r, torch.tensor([1.0, 0.0]), torch.ones(2))
        tensor(1.0000e-05)
    """
    right, wrong = correct * weight, (1 - correct) * weight
    m, n = right.sum().clamp_min(1), wrong.sum().clamp_min(1)
    error = (1 - confidence) * right / m - confidence * wrong / n
    square = _quadratic(error, error, confidence).clamp_min(0)
    both = (right.sum() > 0) & (wrong.sum() > 0)
    return torch.where(both, square + 1e-10, 1).sqrt() * both


class KernelCalibrationLoss(PenaltyLoss):
    """A base loss plus the (weighted) MMCE over a random sample of the labelled voxels.

    Formula: CE + alpha * mean_ij (c_i - r_i)(c_j - r_j) exp(-|r_i - r_j| / 0.4)
    Paper: Kumar et al., ICML 2018

    The kernel has a row and a column for every sample, so at most ``max_samples`` labelled voxels
    are drawn, with torch's global generator; up to that many all take part.

    Args:
        alpha: Factor of the error.
        weighted: Average right and wrong samples on their own, and take the root.
        max_samples: Most voxels that are compared; memory grows with its square.
        base: The loss below the penalty; None is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> terms = KernelCalibrationLoss().terms(torch.zeros(1, 2), torch.tensor([0]))
        >>> terms["mmce"]
        tensor(0.2500)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        weighted: bool = False,
        max_samples: int = 4096,
        base: nn.Module | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(base, ignore_index=ignore_index, validate=validate)
        check_at_least("alpha", alpha, 0)
        check_at_least("max_samples", max_samples, 1)
        self.alpha = alpha
        self.weighted = weighted
        self.max_samples = max_samples

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms and ``"mmce"``."""
        logits, target = self.prepare(logits, target)
        flat = logits.movedim(1, -1).flatten(0, -2)
        labels = target.flatten()
        if len(labels) > self.max_samples:
            drawn = torch.rand(len(labels), device=labels.device)
            drawn = drawn.masked_fill(labels == self.ignore_index, -1)
            chosen = drawn.topk(self.max_samples, sorted=False).indices
            flat, labels = flat[chosen], labels[chosen]
        confidence, winner = flat.softmax(dim=1).max(dim=1)
        correct = (winner == labels).to(flat.dtype)
        weight = (labels != self.ignore_index).to(flat.dtype)
        error = weighted_kernel_error if self.weighted else kernel_calibration_error
        value = error(confidence, correct, weight)
        return {**self.base_terms(logits, target), "mmce": self.alpha * value}


def _quadratic(left: Tensor, right: Tensor, confidence: Tensor) -> Tensor:
    """Sum ``left_i right_j K(r_i, r_j)``, without a matrix product that autocast would narrow."""
    kernel = (-(confidence.unsqueeze(1) - confidence).abs() / WIDTH).exp()
    return (left.unsqueeze(1) * right * kernel).sum()
