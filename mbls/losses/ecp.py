"""Confidence penalty (ECP): low entropy costs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbls.losses._pointwise import Chunk, Pointwise
from mbls.losses._settings import check_at_least
from mbls.losses.penalty import PenaltyLoss

__all__ = ["EntropyPenaltyLoss", "EntropyTerm", "mean_entropy"]


def mean_entropy(logits: Tensor) -> Tensor:
    r"""Return :math:`-\frac{1}{C} \sum_k p_k \log p_k`, the entropy over the number of classes.

    Args:
        logits: Raw scores ``(N, C, *S)``.

    Returns:
        ``(N, *S)``, in [0, log(C) / C].

    Example:
        >>> import torch
        >>> mean_entropy(torch.zeros(1, 2))
        tensor([0.3466])
    """
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).mean(dim=1)


@dataclass(frozen=True)
class EntropyTerm(Pointwise):
    """:func:`mean_entropy` on a chunk, with its gradient."""

    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return :func:`mean_entropy`; the labels do not matter."""
        return mean_entropy(logits)

    def value(self, chunk: Chunk) -> Tensor:
        """Return the entropy over the number of classes."""
        return self._surprise(chunk).mean(dim=1, keepdim=True).neg_()

    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Add ``-p_k (log p_k + H) / C``, H the entropy."""
        surprise = self._surprise(chunk)
        weight = weight / gradient.shape[1]
        entropy = surprise.sum(dim=1, keepdim=True).mul_(weight)
        gradient.addcmul_(surprise, weight, value=-1)
        gradient.addcmul_(chunk.probs, entropy)

    def _surprise(self, chunk: Chunk) -> Tensor:
        return torch.mul(chunk.log_probs, chunk.probs, out=chunk.buffer("work"))


class EntropyPenaltyLoss(PenaltyLoss):
    """A base loss minus ``alpha`` times the entropy of the output; see :func:`mean_entropy`.

    Formula: CE - alpha * mean_vk -p_k log p_k
    Paper: Pereyra et al., 2017, arXiv:1701.06548

    The entropy is averaged over classes too, as the published segmentation runs do: against the
    paper, which sums, ``alpha`` counts 1 / C.

    Args:
        alpha: Factor of the entropy.
        base: The loss below the penalty; None is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> terms = EntropyPenaltyLoss(0.1).terms(torch.zeros(1, 2), torch.tensor([0]))
        >>> terms["entropy"]
        tensor(-0.0347)
    """

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        base: nn.Module | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(base, ignore_index=ignore_index, validate=validate)
        check_at_least("alpha", alpha, 0)
        self.alpha = alpha

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms and ``"entropy"``, which is not positive."""
        logits, target = self.prepare(logits, target)
        return self.with_base(logits, target, "entropy", -self.alpha, EntropyTerm())
