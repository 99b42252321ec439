r"""Penalties of a constraint h <= 0, each with its derivative: the next multiplier.

The penalties of augmented Lagrangian methods (Birgin, Castillo and Martinez, 2005), each a function
of the constraint, its multiplier lambda > 0 and its weight rho > 0.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["PENALTIES", "PenaltyFunction", "hinge", "p2", "p3", "penalized", "phr"]

PenaltyFunction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def phr(h: Tensor, multiplier: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return Powell, Hestenes and Rockafellar's penalty and its derivative.

    :math:`P = ([\lambda + \rho h]_+^2 - \lambda^2) / 2 \rho` and :math:`P' = [\lambda + \rho h]_+`;
    computed as :math:`c (\lambda + \rho c / 2)` with :math:`c = \max(h, -\lambda / \rho)`, where
    nothing cancels.

    Args:
        h: Constraints of any shape.
        multiplier: Lambda, of a shape that fits.
        weight: Rho, of a shape that fits.

    Example:
        >>> value, slope = phr(torch.tensor([-9.0, 2.0]), torch.tensor(1.0), torch.tensor(0.5))
        >>> value, slope
        (tensor([-1.,  3.]), tensor([0., 2.]))
    """
    kept = torch.maximum(h, -multiplier / weight)
    slope = weight * kept + multiplier
    return kept * (slope + multiplier) / 2, slope


def p2(h: Tensor, multiplier: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the penalty P2 and its derivative: as :func:`p3`, and for h > 0 a cubic more.

    :math:`P = \lambda h + \lambda \rho h^2 + \rho^2 h^3 / 6` for h >= 0.
    """
    above = h.clamp_min(0)
    value, slope = p3(h, multiplier, weight)
    bend = weight.square() * above.square() / 2
    return value + bend * above / 3, slope + bend


def p3(h: Tensor, multiplier: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the penalty P3 and its derivative.

    :math:`P = \lambda h + \lambda \rho h^2` for h >= 0, :math:`\lambda h / (1 - \rho h)` below.
    """
    above, below = h.clamp_min(0), h.clamp_max(0)
    damp = 1 / (1 - weight * below)
    value = multiplier * (below * damp + above + weight * above.square())
    return value, multiplier * (damp.square() + 2 * weight * above)


def hinge(h: Tensor, multiplier: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\lambda [h]_+` and its derivative; the weight plays no part."""
    return multiplier * h.clamp_min(0), multiplier * (h > 0)


PENALTIES: dict[str, PenaltyFunction] = {"phr": phr, "p2": p2, "p3": p3}


class _Penalized(Function):
    """A penalty whose gradient by h is the derivative that it comes with."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, multiplier: Tensor, weight: Tensor, penalty: PenaltyFunction
    ) -> Tensor:
        value, slope = penalty(h, multiplier, weight)
        ctx.save_for_backward(h, multiplier, weight, slope)
        ctx.penalty = penalty
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        *arguments, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: a second derivative may follow
            slope = ctx.penalty(*arguments)[1]
        return slope * upstream, None, None, None


def penalized(h: Tensor, multiplier: Tensor, weight: Tensor, penalty: PenaltyFunction) -> Tensor:
    """Return a penalty's value; its gradient by h costs one product.

    Args:
        h: Constraints of any shape.
        multiplier: Lambda, of a shape that fits, no gradient.
        weight: Rho, of a shape that fits, no gradient.
        penalty: What a violation costs.
    """
    value: Tensor = _Penalized.apply(h, multiplier, weight, penalty)
    return value
