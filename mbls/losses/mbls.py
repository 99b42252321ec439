"""Margin-based label smoothing (MbLS): a hinge on the distances from the largest logit."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from mbls.losses._checks import check_at_least, check_one_of
from mbls.losses.penalty import PenaltyLoss

__all__ = ["MarginLoss", "logit_distances", "margin_penalty"]

PIECE = 1 << 17  # numbers in a piece, a thread: half a megabyte in float32


class _LogitDistances(Function):
    """``max_j z_j - z_k - m`` with a gradient that costs fewer passes than that of ``amax``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, margin: float) -> Tensor:
        top = logits.amax(dim=1, keepdim=True)
        ctx.save_for_backward(logits, top)
        return (top - logits).sub_(margin)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, top = ctx.saved_tensors
        wins = (logits == top).to(upstream.dtype)
        share = upstream.sum(dim=1, keepdim=True).div_(wins.sum(dim=1, keepdim=True))
        return wins.mul_(share).sub_(upstream), None


def logit_distances(logits: Tensor, margin: float = 0.0) -> Tensor:
    r"""Return :math:`\max_j z_j - z_k - m`; on exact ties the gradient of the maximum is shared.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        margin: m, subtracted from each distance.

    Returns:
        ``(N, C, *S)``, at least ``-margin``, the winning class's.

    Example:
        >>> import torch
        >>> logit_distances(torch.tensor([[9.0, 4.0, -3.0]]))
        tensor([[ 0.,  5., 12.]])
    """
    distances: Tensor = _LogitDistances.apply(logits, margin)
    return distances


class _MeanHinge(Function):
    """:func:`margin_penalty` in pieces that fit the processor's cache; nothing but logits is kept.

    The gradient by the logits is ``[winner] * mean_k d_k - d_k / C``, where d is the slope of the
    hinge or of its square. A derivative of the gradient goes through autograd's own formula.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, margin: float, squared: bool) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.settings = margin, squared
        z = _flat(logits)
        found = z.new_empty(z.shape[0], z.shape[2])
        for at, voxels in _pieces(z):
            part = z[at, :, voxels]
            excess = torch.sub(part.amax(dim=1, keepdim=True) - margin, part).relu_()
            found[at, voxels] = (excess.square_() if squared else excess).mean(dim=1)
        return found.view(logits.shape[0], *logits.shape[2:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (logits,), (margin, squared) = ctx.saved_tensors, ctx.settings
        if torch.is_grad_enabled():  # create_graph
            values = _mean_hinge(logits, margin, squared)
            return torch.autograd.grad(values, logits, upstream, create_graph=True)[0], None, None
        z = _flat(logits)
        scale = upstream.reshape(z.shape[0], 1, z.shape[2])
        gradient = torch.empty_like(z)
        for at, voxels in _pieces(z):
            part = z[at, :, voxels]
            top = part.amax(dim=1, keepdim=True)
            slope = torch.sub(top - margin, part).relu_()
            slope = slope.mul_(2) if squared else slope.sign_()
            slope *= scale[at, :, voxels] / z.shape[1]
            wins = torch.sub(part, top).eq_(0)  # 1 for each of the largest
            share = slope.sum(dim=1, keepdim=True).div_(wins.sum(dim=1, keepdim=True))
            gradient[at, :, voxels] = wins.mul_(share).sub_(slope)
        return gradient.view(logits.shape), None, None


def _mean_hinge(logits: Tensor, margin: float, squared: bool) -> Tensor:
    excess = logit_distances(logits, margin).relu()
    return (excess.square() if squared else excess).mean(dim=1)


def _flat(logits: Tensor) -> Tensor:
    plain = logits.as_subclass(Tensor)  # MONAI's tensors would carry their affine to each piece
    return plain.flatten(2) if plain.ndim > 2 else plain.unsqueeze(2)


def _pieces(z: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut ``(N, C, V)`` into some images, or parts of one; all of it at once off the CPU."""
    n, c, v = z.shape
    size = max(1, PIECE * torch.get_num_threads() // c) if z.device.type == "cpu" else n * v
    images, step = max(1, size // max(v, 1)), max(1, min(size, v))
    for first in range(0, n, images):
        for start in range(0, v, step):
            yield slice(first, first + images), slice(start, start + step)


def margin_penalty(logits: Tensor, margin: float, *, norm: Literal["l1", "l2"] = "l1") -> Tensor:
    r"""Average :math:`\max(0, \max_j z_j - z_k - m)`, or its square, over the classes.

    The winning class counts with zero.

    Args:
        logits: Raw scores ``(N, C, *S)``, not probabilities.
        margin: Distance m >= 0, in logit units, that goes unpunished.
        norm: ``"l1"`` is the hinge, ``"l2"`` the squared hinge.

    Returns:
        A map ``(N, *S)``, zero where every distance fits in the margin.

    Example:
        >>> import torch
        >>> margin_penalty(torch.tensor([[9.0, 4.0, -3.0]]), margin=5.0)
        tensor([2.3333])
    """
    squared = norm == "l2"
    if torch.compiler.is_compiling():
        return _mean_hinge(logits, margin, squared)
    values: Tensor = _MeanHinge.apply(logits, margin, squared)
    return values


class MarginLoss(PenaltyLoss):
    """Cross-entropy plus a penalty on logit distances beyond a margin; see :func:`margin_penalty`.

    Formula: CE + alpha * mean_vk max(0, max_j z_j - z_k - margin)
    Paper: Liu et al., CVPR 2022, arXiv:2111.15430; Murugesan et al., MedIA 2023, arXiv:2209.09641

    The squared form is a hinge as well: distances inside the margin cost nothing. The published
    code squares first, so that they do; results with ``norm="l2"`` therefore differ from it.

    Args:
        margin: Distance in logit units that goes unpunished.
        alpha: Factor of the penalty.
        norm: ``"l1"`` for the hinge, ``"l2"`` for its square.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> loss = MarginLoss(margin=5.0, alpha=0.1)
        >>> terms = loss.terms(torch.tensor([[9.0, 4.0, -3.0]]), torch.tensor([0]))
        >>> round(terms["margin"].item(), 4)
        0.2333
    """

    voxel_means = frozenset({"margin"})
    soft_targets = True

    def __init__(
        self,
        margin: float = 10.0,
        *,
        alpha: float = 0.1,
        norm: Literal["l1", "l2"] = "l1",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, margin=margin, alpha=alpha)
        check_one_of(("l1", "l2"), norm=norm)
        self.margin = margin
        self.alpha = alpha
        self.norm: Literal["l1", "l2"] = norm

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"margin": ...}``."""
        hinge = margin_penalty(logits, self.margin, norm=self.norm)
        return {"margin": self.alpha * self.voxel_mean(hinge, target)}
