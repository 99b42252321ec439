"""Maximum mean calibration error (MMCE): a kernel distance between confidence and correctness."""

from typing import Any

import torch
from torch import Tensor

from mbls.losses._checks import check_at_least, check_count
from mbls.losses.penalty import PenaltyLoss

__all__ = ["KernelCalibrationLoss", "kernel_calibration_error", "weighted_kernel_error"]

WIDTH = 0.4  # of the Laplacian kernel, in units of probability


def kernel_calibration_error(confidence: Tensor, correct: Tensor, weight: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{M^2} \sum_{ij} e_i e_j K(r_i, r_j)` with :math:`e = c - r`.

    Args:
        confidence: r, probability of the winning class ``(M,)``.
        correct: c, 1.0 where the winning class is the label ``(M,)``, no gradient.
        weight: 1.0 for samples that take part, else 0.0 ``(M,)``.

    Returns:
        A scalar; zero without samples.

    Example:
        >>> r = torch.tensor([0.75])
        >>> kernel_calibration_error(r, torch.ones(1), torch.ones(1))
        tensor(0.0625)
    """
    error = (correct - confidence) * weight
    return _quadratic(error, confidence) / weight.sum().square().clamp_min(1)


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
    square = _quadratic(error, confidence)
    both = (right.sum() > 0) & (wrong.sum() > 0)
    return torch.where(both, square + 1e-10, 1).sqrt() * both


class KernelCalibrationLoss(PenaltyLoss):
    """A base loss plus the (weighted) MMCE over a random sample of the labeled voxels.

    Formula: CE + alpha * E, E = sum_ij e_i e_j exp(-|r_i - r_j| / 0.4), e = (c - r) / M;
        weighted: sqrt(E), M counts the right ones for the right, the wrong ones for the wrong
    Paper: Kumar et al., ICML 2018

    As published, a subsample represents the batch: at most ``max_samples`` labeled voxels, drawn
    with torch's global generator. Every pair counts, at the cost of a sort.

    Args:
        alpha: Factor of the error.
        weighted: Average right and wrong samples on their own, and take the root.
        max_samples: Most voxels that are compared.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

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
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, alpha=alpha)
        check_count(1, max_samples=max_samples)
        self.alpha = alpha
        self.weighted = weighted
        self.max_samples = max_samples

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"mmce": ...}``."""
        labels = target.flatten()
        flat = logits.flatten(2) if logits.ndim > 2 else logits.unsqueeze(2)  # (N, C, V)
        if len(labels) > self.max_samples:
            drawn = torch.rand(len(labels), device=labels.device)
            drawn = drawn.masked_fill(labels == self.ignore_index, -1)
            chosen = drawn.topk(self.max_samples, sorted=False).indices
            labels, voxels = labels[chosen], flat.shape[2]
            flat = flat[chosen // voxels, :, chosen % voxels]
        else:
            flat = flat.movedim(1, 2).flatten(0, 1)
        confidence, winner = flat.softmax(dim=1).max(dim=1)
        correct = (winner == labels).to(flat.dtype)
        weight = (labels != self.ignore_index).to(flat.dtype)
        error = weighted_kernel_error if self.weighted else kernel_calibration_error
        value = error(confidence, correct, weight)
        return {"mmce": self.alpha * value}


def _quadratic(error: Tensor, confidence: Tensor) -> Tensor:
    """Sum ``e_i e_j K(r_i, r_j)`` over all pairs.

    In the order of r the kernel is a product, ``exp(r_j / w) exp(-r_i / w)`` for j before i, whose
    factors stay within ``exp(1 / w)``: a running sum replaces the matrix of pairs.
    """
    ordered, order = confidence.sort()
    e, growth = error[order], (ordered / WIDTH).exp()
    before = (e * growth).cumsum(dim=0) - e * growth
    return (e.square() + 2 * e * before / growth).sum().clamp_min(0)
