"""What the published code computes where it departs from the formula: oracles, a few lines each.

Each takes what the published code takes and shares no code with the library. They exist so that
the stored values of a fault can be told from a fault of ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def l1_per_image(logits: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Divides the penalty by the number of images, not of voxels."""
    gap = (logits.softmax(1) - 1 / logits.shape[1]).abs().sum() / len(logits)
    return F.cross_entropy(logits, target) + alpha * gap


def margin_squared_first(
    logits: Tensor, target: Tensor, margin: float, alpha: float, ignore_index: int = -100
) -> Tensor:
    """Squares before the hinge, so that distances inside the margin cost too."""
    gap = logits.amax(1, keepdim=True) - logits - margin
    kept = gap.movedim(1, -1)[target != ignore_index]
    ce = F.cross_entropy(logits, target, ignore_index=ignore_index)
    return ce + alpha * kept.square().mean()


def margin_over_all(logits: Tensor, target: Tensor, margin: float, alpha: float) -> Tensor:
    """Cross-entropy skips the ignored voxels, the penalty does not."""
    hinge = (logits.amax(1, keepdim=True) - logits - margin).clamp_min(0)
    return F.cross_entropy(logits, target) + alpha * hinge.mean()


def entropy_over_all(logits: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Cross-entropy skips the ignored voxels, the entropy does not."""
    p = logits.softmax(1)
    return F.cross_entropy(logits, target) + alpha * (p * p.log()).mean()


def acls_over_all(
    logits: Tensor,
    target: Tensor,
    pos_lambda: float,
    neg_lambda: float,
    alpha: float,
    margin: float,
) -> Tensor:
    """Cross-entropy skips the ignored voxels, both penalties do not."""
    top = logits.amax(1, keepdim=True)
    winner = (top - margin).clamp_min(0).square().mean()
    losers = (top.detach() - logits - margin).clamp_min(0).square().sum(1).mean()
    reg = pos_lambda * winner + neg_lambda * losers / (logits.shape[1] - 1)
    return F.cross_entropy(logits, target) + alpha * reg


def mmce_divided_twice(logits: Tensor, target: Tensor, weight: float) -> Tensor:
    """Means over pairs, divided by the number of pairs once more."""
    p, winner = logits.movedim(1, -1).flatten(0, -2).softmax(1).max(1)
    right, wrong = p[winner == target.flatten()], p[winner != target.flatten()]
    ce = F.cross_entropy(logits, target)
    if len(right) == 0 or len(wrong) == 0:
        return ce

    def pairs(a: Tensor, b: Tensor, value_a: Tensor, value_b: Tensor) -> Tensor:
        kernel = torch.exp(-(a[:, None] - b[None]).abs() / 0.4)
        count = len(a) * len(b)
        return (value_a[:, None] * value_b[None] * kernel).mean() / (count + 1e-5)

    s = pairs(right, right, 1 - right, 1 - right) + pairs(wrong, wrong, wrong, wrong)
    s = s - 2 * pairs(right, wrong, 1 - right, wrong)
    return ce + weight * (s + 1e-10).sqrt()


def dice_over_all(
    logits: Tensor, target: Tensor, margin: float, alpha: float, ignore_index: int
) -> Tensor:
    """Cross-entropy and margin skip the ignored voxels, Dice does not."""
    keep = target != ignore_index
    hinge = (logits.amax(1, keepdim=True) - logits - margin).clamp_min(0)
    p = logits.softmax(1).flatten(2)[:, 1:]
    q = F.one_hot(target, logits.shape[1]).movedim(-1, 1).flatten(2)[:, 1:]
    dice = 1 - (2 * (p * q).sum(2) + 1e-5) / (p.sum(2) + q.sum(2) + 1e-5)
    ce = F.cross_entropy(logits, target, ignore_index=ignore_index)
    return ce + dice.mean() + alpha * hinge.movedim(1, -1)[keep].mean()


def nacl_wrong_center(logits: Tensor, target: Tensor, alpha: float, size: int) -> Tensor:
    """Takes element [1, 1] for the kernel's center whatever its size."""
    place = torch.arange(size, dtype=logits.dtype) - size // 2
    g = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / 2)
    g = g / g.sum()
    around = 1 - g[1, 1]
    g[size // 2, size // 2] = around
    g = g / around
    g = g / g.sum()
    q = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    q = F.pad(q, [size // 2] * 4, mode="replicate").flatten(0, 1).unsqueeze(1)
    tau = F.conv2d(q, g[None, None]).view(logits.shape)
    return F.cross_entropy(logits, target) + alpha * (tau - logits).abs().mean()


def _clipped(probs: Tensor, target: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    p = probs.clamp(1e-7, 1 - 1e-7).flatten(2)
    q = F.one_hot(target, probs.shape[1]).movedim(-1, 1).flatten(2).to(p.dtype)
    q = q.clamp(1e-7, 1 - 1e-7)
    fn, fp = (q * (1 - p)) ** gamma, ((1 - q) * p) ** gamma
    return (p * q).sum(2), fn.sum(2), fp.sum(2)


def dice_plus_plus_clipped(probs: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Clips the one-hot target to [1e-7, 1 - 1e-7] as well as the probabilities."""
    tp, fn, fp = _clipped(probs, target, gamma)
    return (1 - (2 * tp + 1e-7) / (2 * tp + fn + fp + 1e-7)).mean()


def tversky_plus_plus_clipped(
    probs: Tensor, target: Tensor, gamma: float, delta: float, focal: float = 1.0
) -> Tensor:
    """Clips the one-hot target to [1e-7, 1 - 1e-7] as well as the probabilities."""
    tp, fn, fp = _clipped(probs, target, gamma)
    tversky = (tp + 1e-7) / (tp + delta * fn + (1 - delta) * fp + 1e-7)
    return ((1 - tversky) ** focal).mean()


def ce_of_probabilities(probs: Tensor, target: Tensor) -> Tensor:
    """Takes probabilities as free inputs, clipped; ours takes logits."""
    return F.nll_loss(probs.clamp(1e-7, 1 - 1e-7).log(), target)
