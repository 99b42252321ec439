r"""Penalties of a constraint h <= 0, each with its derivative: the next multiplier.

The penalties of augmented Lagrangian methods (Birgin, Castillo and Martinez, 2005), each a function
of the constraint, its multiplier lambda > 0 and its weight rho > 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["PENALTIES", "PenaltyFunction", "hinge", "p2", "p3", "phr"]

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
