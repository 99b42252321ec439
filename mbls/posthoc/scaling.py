r"""Temperature and vector scaling, fitted by Newton's method on exact sums.

With :math:`x_k = \log p_k`, calibrated logits are

- ``temperature``: :math:`z_k = x_k / T`, one number for all classes;
- ``vector``: :math:`z_k = w_k x_k + b_k`;
- ``vector_ti``: :math:`z_k = w_k (x_k - \bar x) + b_k`, :math:`\bar x` the mean over the classes.

Guo et al., ICML 2017, arXiv:1706.04599. Probabilities give logits only up to a constant of each
voxel. Temperature scaling does not depend on it. Vector scaling does: fitted to log-probabilities
(here) and to a network's logits, it is two different families of maps. The third form depends on
differences between classes alone: it is the matrix scaling with
:math:`W = \mathrm{diag}(w)(I - 11^T/C)`, whose rows all sum to 0, of the translation-invariant
kind in Kirscher et al., TMLR 2026, arXiv:2607.01902.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mbls.posthoc.base import Calibrator, check_numbers
from mbls.posthoc.newton import Sums

__all__ = ["Temperature", "Vector", "VectorTI", "temperature_sums", "vector_sums"]


@dataclass(frozen=True, eq=False)
class Temperature(Calibrator):
    r"""Temperature scaling: :math:`q \propto p^{1/T}`; labels do not change.

    Attributes:
        temperature: T > 0; above 1 the predictions were overconfident.

    Example:
        >>> from mbls.posthoc import Card
        >>> halved = Temperature(Card(("rest", "organ")), temperature=2.0)
        >>> halved.apply(torch.tensor([[0.8], [0.2]]).log()).exp()
        tensor([[0.6667],
                [0.3333]])
    """

    temperature: float
    method: ClassVar[str] = "temperature"
    keeps_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers("temperature", (self.temperature,), 1, above=0.0)

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)``."""
        return torch.log_softmax(log_probs / self.temperature, dim=0)


@dataclass(frozen=True, eq=False)
class Vector(Calibrator):
    """Vector scaling of log-probabilities; labels can change.

    Attributes:
        weight: Factor of each class ``(C,)``.
        bias: Offset of each class ``(C,)``, with a sum near 0.
    """

    weight: tuple[float, ...]
    bias: tuple[float, ...]
    method: ClassVar[str] = "vector"
    centered: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_numbers("weight", self.weight, self.num_classes)
        check_numbers("bias", self.bias, self.num_classes)

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)``."""
        if self.centered:
            log_probs = log_probs - log_probs.mean(dim=0)
        shape = (-1, *[1] * (log_probs.ndim - 1))
        weight, bias = (log_probs.new_tensor(v).view(shape) for v in (self.weight, self.bias))
        return torch.log_softmax(log_probs * weight + bias, dim=0)

    @classmethod
    def sums(cls, log_probs: Tensor, label: Tensor, parameters: Tensor) -> Sums:
        """Return :func:`vector_sums`."""
        return vector_sums(log_probs, label, parameters, centered=cls.centered)


@dataclass(frozen=True, eq=False)
class VectorTI(Vector):
    """Vector scaling of centered log-probabilities: adding a constant to a voxel changes nothing.

    A probability of nearly 0 in one class shifts the center of all: with many classes, or maps
    that were rounded to few digits, compare with ``vector``.
    """

    method: ClassVar[str] = "vector_ti"
    centered: ClassVar[bool] = True


def temperature_sums(log_probs: Tensor, label: Tensor, inverse: Tensor) -> Sums:
    """Return the sums of temperature scaling.

    Args:
        log_probs: ``(C, L)``, float32 or float64.
        label: ``(L,)``.
        inverse: 1 / T, float64 ``(1,)``.
    """
    b = float(inverse)
    largest = log_probs.amax(dim=0)
    weight = (log_probs - largest).mul_(b).exp_()
    total = weight.sum(dim=0)
    mean = weight.mul_(log_probs).sum(dim=0).div_(total)
    square = weight.mul_(log_probs).sum(dim=0).div_(total)
    true = log_probs.gather(0, label[None])[0]
    value = total.log_().add_((largest - true).mul_(b))
    found = torch.stack([value, mean - true, square - mean * mean]).double().sum(dim=1).cpu()
    return Sums(len(label), found[0], found[1:2], found[2:, None])


def vector_sums(log_probs: Tensor, label: Tensor, parameters: Tensor, *, centered: bool) -> Sums:
    """Return the sums of vector scaling.

    Args:
        log_probs: ``(C, L)``, float32 or float64.
        label: ``(L,)``.
        parameters: Weights and biases, float64 ``(2 C,)``.
        centered: Center the log-probabilities.
    """
    x = log_probs - log_probs.mean(dim=0) if centered else log_probs
    weight, bias = parameters.to(x).view(2, -1, 1)
    z = torch.addcmul(bias, weight, x)
    log_total = z.logsumexp(dim=0)
    value = (log_total - z.gather(0, label[None])[0]).double().sum()
    probs = z.sub_(log_total).exp_()
    # the residual of the true class is minus the sum of the others: 1 - p would lose its digits
    residual = probs.scatter(0, label[None], 0.0)
    residual.scatter_(0, label[None], -residual.sum(dim=0, keepdim=True))
    weighted = probs * x
    both = torch.cat([weighted, probs])
    gradient = torch.cat([residual * x, residual]).double().sum(dim=1)
    C = len(x)
    own = torch.zeros(2 * C, 2 * C, dtype=torch.float64, device=x.device)
    own.diagonal()[:] = torch.cat([weighted.mul_(x), probs]).double().sum(dim=1)
    mixed = both[:C].double().sum(dim=1)
    own.diagonal(C)[:], own.diagonal(-C)[:] = mixed, mixed
    hessian = (own - (both @ both.T).double()).cpu()
    return Sums(len(label), value.cpu(), *_without_constant(gradient.cpu(), hessian, len(label)))


def _without_constant(gradient: Tensor, hessian: Tensor, voxels: int) -> tuple[Tensor, Tensor]:
    """Remove rounding along the sum of the biases, on which the function does not depend.

    There the second derivative is set to the number of voxels, so that no step goes along it.
    """
    P = len(gradient)
    sum_of_biases = torch.zeros(P, dtype=torch.float64)
    sum_of_biases[P // 2 :] = (P // 2) ** -0.5
    onto = torch.outer(sum_of_biases, sum_of_biases)
    across = torch.eye(P, dtype=torch.float64) - onto
    return across @ gradient, across @ hessian @ across + voxels * onto
