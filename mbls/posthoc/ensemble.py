"""Ensembles: the mean of several networks' probabilities, and how far they disagree."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["UNCERTAINTIES", "mean_log_probs", "pairwise_dice", "uncertainty"]


UNCERTAINTIES = ("entropy", "mutual_information", "variance")


def mean_log_probs(logits: Sequence[Tensor], dim: int = 1) -> Tensor:
    r"""Return :math:`\log \frac1M \sum_m \mathrm{softmax}(z_m)`, the mean of probabilities.

    Deep ensembles average probabilities, not logits (Lakshminarayanan et al., NeurIPS 2017,
    arXiv:1612.01474).

    Args:
        logits: Logits or log-probabilities of each of M networks, of one shape.
        dim: The axis of the classes.

    Returns:
        Log-probabilities of that shape.

    Example:
        >>> import torch
        >>> sure, unsure = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> mean_log_probs([sure, unsure]).exp()
        tensor([[0.7500, 0.2500]])
    """
    first, *rest = logits
    mean = torch.log_softmax(first, dim)
    for each in rest:
        mean = torch.logaddexp(mean, torch.log_softmax(each, dim))
    return mean.sub_(math.log(len(logits))) if rest else mean


def uncertainty(logits: Sequence[Tensor]) -> dict[str, Tensor]:
    r"""Return maps of the uncertainty of an ensemble, in nats.

    ``entropy`` is that of the mean, :math:`H(\bar p)`; ``mutual_information`` the part that the
    networks' disagreement explains, :math:`H(\bar p) - \frac1M \sum_m H(p_m)`; ``variance`` the
    variance of the probabilities over the networks, summed over the classes.

    Source: Depeweg et al., ICML 2018, arXiv:1710.07283; for segmentation Kahl et al. (ValUES),
    ICLR 2024, arXiv:2401.08501.

    Args:
        logits: Logits or log-probabilities ``(C, *S)`` of each network.

    Returns:
        The maps ``(*S)`` by name, at least 0; of a single network the entropy alone.
    """
    mean = mean_log_probs(logits, dim=0)
    total = _entropy(mean)
    if len(logits) == 1:
        return {"entropy": total}
    expected, squares = torch.zeros_like(total), torch.zeros_like(total)
    for each in logits:
        log_probs = torch.log_softmax(each, dim=0)
        expected += _entropy(log_probs) / len(logits)
        squares += (log_probs.exp() - mean.exp()).square_().sum(dim=0) / len(logits)
    return {
        "entropy": total,
        "mutual_information": (total - expected).clamp_min_(0),
        "variance": squares,
    }


def pairwise_dice(labels: Sequence[Tensor], num_classes: int) -> float:
    """Return the mean Dice between the label maps of each two networks.

    It is averaged over the foreground classes that one of the two predicts; a low value marks a
    case that is likely to have failed (Zenk et al., MedIA 2025, arXiv:2406.03323).

    Args:
        labels: Label maps ``(*S)``, integers.
        num_classes: C, background included.

    Returns:
        The mean over pairs, in [0, 1]; NaN without pairs or without any foreground.
    """
    sizes = [torch.bincount(each.flatten(), minlength=num_classes) for each in labels]
    values = []
    for one, other in itertools.combinations(range(len(labels)), 2):
        agreed = labels[one][labels[one] == labels[other]]
        both = torch.bincount(agreed.flatten(), minlength=num_classes)
        dice = 2 * both / (sizes[one] + sizes[other])
        values.append(dice[1:].nanmean())
    return float(torch.stack(values).nanmean()) if values else math.nan


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs.clamp_min(-1e4)).sum(dim=0)
