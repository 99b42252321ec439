"""Losses of other packages: check if they can be used, and how to mask ignored voxels.

Most know nothing of the label -100. What a loss does with its voxels is determined once, by a trial
on a small batch on the CPU before training: see :class:`Plan`.
"""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = ["IGNORED", "Plan", "foreign_loss", "plan_of"]

IGNORED = -100  # of every batch
SPACE = (12, 13, 14)  # of the trial; windows of 11 voxels fit
CERTAIN = 200.0  # a logit at which softmax and sigmoid are 1, and 0 at its negative, in float32


@dataclass(frozen=True)
class Plan:
    """How a loss is called where voxels are ignored.

    Args:
        way: ``"itself"``: it leaves them out on its own. ``"pooled"``: it sums over the voxels of
            the batch, in any order, and gets the labeled ones alone. ``"images"``: it does so in
            each image, and gets the labeled voxels of one image at a time. ``"agreed"``: it looks
            at neighbors, so the voxels stay where they are, and there the network's answer and the
            label are background with certainty. ``None``: none of these is right.
        label: The loss's own label of ignored voxels.
        summed: It adds up the images, in place of their mean.
        channel: It wants its target as ``(N, 1, *S)``.
    """

    way: Literal["itself", "pooled", "images", "agreed"] | None
    label: int = IGNORED
    summed: bool = False
    channel: bool = False


_plans: "WeakKeyDictionary[nn.Module, dict[tuple[int, int], Plan]]" = WeakKeyDictionary()


def foreign_loss(
    loss: nn.Module, logits: Tensor, target: Tensor, *, ignore_index: int = IGNORED
) -> Tensor:
    """Return the loss over the labeled voxels; zero, with a gradient of zero, where none is.

    If the loss does not ignore voxels itself, the number of labeled ones becomes a
    shape: the host waits for the device once a call, which no loss of ours does.

    Args:
        loss: Called with ``(logits, target)``, returns a scalar.
        logits: ``(N, C, *S)``.
        target: Labels ``(N, *S)``, int64.
        ignore_index: The label of voxels that take no part.

    Raises:
        ValueError: It cannot be called so, or there are ignored voxels and no way to leave them
            out of it.
    """
    plan = plan_of(loss, logits.shape[1], logits.ndim - 2)
    keep = target != ignore_index
    if plan.way == "itself":
        some = keep.any()
        counts = int(plan.label == 0)  # a class that it does not leave out, or it has no mean
        target = target.masked_fill(~keep, plan.label).masked_fill(~some, counts)
        return _call(loss, plan, logits, target) * some
    if plan.way == "agreed":
        return _call(loss, plan, *_agreed(logits, target, keep)) * keep.any()
    if bool(keep.all()):
        return _call(loss, plan, logits, target)
    if plan.way is None:
        raise ValueError(
            f"{type(loss).__name__} looks at neighboring voxels and has no value for those to "
            f"ignore (label {ignore_index}), which this batch has. Train on data without any "
            "(patches no larger than the images, no rotation, scaling or tilt, every voxel "
            "labeled), or take a loss of mbls.losses."
        )
    return _gathered(loss, plan, logits, target, keep)


def plan_of(loss: nn.Module, num_classes: int, spatial_dims: int) -> Plan:
    """Return how a loss is called, determined by a trial at the first call.

    Args:
        loss: A module called with ``(logits, target)``.
        num_classes: C.
        spatial_dims: Of the logits ``(N, C, *S)``.

    Raises:
        ValueError: It cannot be called with logits ``(N, C, *S)`` and labels ``(N, *S)``, or what
            it returns is not a finite scalar.
    """
    plans = _plans.setdefault(loss, {})
    key = (num_classes, spatial_dims)
    if key not in plans:
        with (
            torch.random.fork_rng(devices=[]),
            torch.autocast("cpu", enabled=False),
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            plans[key] = _probe(loss, num_classes, spatial_dims)
    return plans[key]


def _probe(loss: nn.Module, num_classes: int, spatial_dims: int) -> Plan:
    try:
        trial = copy.deepcopy(loss).cpu()  # one that counts its calls does not count these
    except Exception:  # what cannot be copied is tried as it is
        trial = loss
    channel = any(getattr(module, "to_onehot_y", False) for module in loss.modules())
    logits, target = _trial_batch(num_classes, spatial_dims)
    whole = _checked(trial, Plan(None, channel=channel), logits, target, type(loss).__name__)

    keep = torch.rand(target.shape) < 0.4
    keep[1:] |= torch.rand(target[1:].shape) < 0.8
    theirs = getattr(loss, "ignore_index", None)
    theirs = theirs if isinstance(theirs, int) else IGNORED
    itself = Plan("itself", label=theirs, channel=channel)
    elsewhere = torch.where(keep.unsqueeze(1), logits, torch.randn_like(logits))
    labels = target.masked_fill(~keep, theirs)
    value = _value(trial, itself, logits, labels)
    if value is not None and _same(value, _value(trial, itself, elsewhere, labels)):
        return itself

    order = torch.randperm(target[0].numel()) if spatial_dims else torch.randperm(len(target))
    pooled = Plan("pooled", channel=channel)
    if _same(whole, _value(trial, pooled, *_reordered(logits, target, order))):
        every = torch.ones_like(keep)
        value = _attempt(lambda: _gathered(trial, pooled, logits, target, every))
        if _same(whole, value):
            return pooled
        images = Plan("images", channel=channel)
        total = Plan("images", summed=True, channel=channel)
        value = _attempt(lambda: _gathered(trial, total, logits, target, every))
        if value is not None:
            return total if _same(whole, value) else images
    agreed = Plan("agreed", channel=channel)
    value = _value(trial, agreed, *_agreed(logits, target, torch.zeros_like(keep)))
    return agreed if value is not None and abs(value) < 1e-4 else Plan(None, channel=channel)


def _trial_batch(num_classes: int, spatial_dims: int) -> tuple[Tensor, Tensor]:
    """Return logits and labels on which the ways to use voxels give different values.

    Labels lie in stripes, so their order matters to a loss that looks at neighbors; images differ
    in their classes and in how well they are predicted, so it matters what is summed over. The
    number of images is not that of the classes, so nothing is broadcast unseen.
    """
    n = 2 if spatial_dims else 24
    n += n == num_classes
    space = (*SPACE, *[2] * spatial_dims)[:spatial_dims]
    target = torch.zeros(n, math.prod(space), dtype=torch.int64)
    rare = target[1:, -num_classes:] if spatial_dims else target[num_classes:]
    rare.copy_(torch.arange(rare.numel()).view(rare.shape) % num_classes)
    even = target[:1] if spatial_dims else target[:num_classes]
    even.copy_((torch.arange(even.numel()) * num_classes // even.numel()).view(even.shape))
    target = target.view(n, *space)
    logits = torch.randn(n, num_classes, *space)
    logits[:1].scatter_add_(1, target[:1].unsqueeze(1), torch.full_like(logits[:1, :1], 3.0))
    return logits, target


def _checked(loss: nn.Module, plan: Plan, logits: Tensor, target: Tensor, name: str) -> float:
    """Return the loss of a batch without ignored voxels; raise ValueError without one."""
    shape = target.unsqueeze(1).shape if plan.channel else target.shape
    tried = f"logits {tuple(logits.shape)} and labels {tuple(shape)}"
    try:
        value = _call(loss, plan, logits, target)
    except Exception as error:
        said = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{name} must take raw scores (N, C, *S) and labels (N, *S); tried with {tried} it "
            f"raised: {said}. With a loss of MONAI state to_onehot_y: true, and softmax: true; one "
            "that compares scores with a target of equal shape cannot be used: choose one of "
            "mbls losses."
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{name} must return a scalar, got {found} for {tried}. State reduction: mean."
        )
    if not bool(value.isfinite()):
        raise ValueError(f"{name} must return a finite number, got {value.item()} for {tried}.")
    return value.item()


def _value(loss: nn.Module, plan: Plan, logits: Tensor, target: Tensor) -> float | None:
    return _attempt(lambda: _call(loss, plan, logits, target))


def _attempt(compute: Callable[[], Tensor]) -> float | None:
    """Return a finite value, or None where the loss has none for such a batch."""
    try:
        value = compute()
    except Exception:  # a loss may raise anything for unsupported labels or shapes
        return None
    return value.item() if bool(value.isfinite().all()) else None


def _same(value: float, other: float | None) -> bool:
    return other is not None and abs(value - other) <= 2e-5 * max(1.0, abs(value))


def _call(loss: nn.Module, plan: Plan, logits: Tensor, target: Tensor) -> Tensor:
    return loss(logits, target.unsqueeze(1) if plan.channel else target)


def _reordered(logits: Tensor, target: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same voxels in another order, alike in every image."""
    if logits.ndim == 2:
        return logits[order], target[order]
    z, labels = logits.flatten(2)[..., order], target.flatten(1)[:, order]
    return z.reshape(logits.shape), labels.reshape(target.shape)


def _agreed(logits: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Set prediction (with certainty) and label of ignored voxels to background."""
    certain = torch.full_like(logits, -CERTAIN)
    certain[:, 0] = CERTAIN
    return torch.where(keep.unsqueeze(1), logits, certain), target.masked_fill(~keep, 0)


def _gathered(loss: nn.Module, plan: Plan, logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Return the loss of the labeled voxels of the batch, or of each image and their mean."""
    c = logits.shape[1]
    if logits.ndim == 2:
        chosen = keep.nonzero().squeeze(1)
        if not len(chosen):
            return (logits * 0).sum()
        return _call(loss, plan, logits.index_select(0, chosen), target.index_select(0, chosen))
    images = 1 if plan.way == "pooled" else len(logits)
    z = logits.transpose(0, 1).reshape(1, c, -1) if images == 1 else logits.flatten(2)
    labels, kept = target.reshape(images, -1), keep.reshape(images, -1)
    first = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # labeled ones first
    others = (1,) * (logits.ndim - 3)  # the loss sees as many axes as it always does
    values = []
    for k, count in enumerate(kept.sum(dim=1).tolist()):
        if count:
            chosen = first[k, :count]
            scores = z[k].index_select(1, chosen).view(1, c, count, *others)
            values.append(
                _call(loss, plan, scores, labels[k].index_select(0, chosen).view(1, count, *others))
            )
    if not values:
        return (logits * 0).sum()
    together = torch.stack([value.reshape(()) for value in values])
    return together.sum() if plan.summed else together.mean()
