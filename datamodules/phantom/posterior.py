r"""Labels painted in layers, their exact posterior, and the random fields that displace them.

A layer is one structure: a level set :math:`\phi(x)` of its mean shape, negative inside (a signed
distance or any other function). An annotator displaces it by a Gaussian field :math:`g` of mean 0
and standard deviation :math:`\sigma` at every voxel, drawn for this layer alone, and takes as
inside what has :math:`\phi(x) + g(x) < 0`; with probability :math:`1 - c` the layer is left out
as a whole. So at a voxel, for any correlation of the field,

.. math:: q = P(\mathrm{inside}) = c \, \Phi(-\phi / \sigma).

The layers are painted in order, each over what is there. Where two structures touch, the one
painted later has the voxel: this is the tie rule. The draws of a layer do not depend on what was
painted before, hence the probabilities follow layer by layer: painting :math:`k` over everything
turns :math:`P(j)` into :math:`(1 - q) P(j)` for each :math:`j`, and adds :math:`q` to
:math:`P(k)`; painting :math:`k` over label :math:`m` alone moves :math:`q P(m)` from :math:`m` to
:math:`k`. Starting from :math:`P(\mathrm{background}) = 1` this is exact at every voxel, for any
number of layers and any overlap. Three disjoint organs 1, 2, 3 painted in turn get

.. math::
    P(3) = q_3, \quad P(2) = (1 - q_3) q_2, \quad P(1) = (1 - q_3)(1 - q_2) q_1.

A slice that is outlined with probability :math:`\pi`, all structures or none, gets
:math:`\pi P(k)` for each, and the background has the rest.

The image is rendered from the mean shapes alone and knows nothing of the draw, so these are the
posterior given the image, as far as the image shows the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr

Floats = NDArray[np.floating]
Box = tuple[slice, slice, slice]
BACKGROUND = 0


@dataclass(frozen=True)
class Layer:
    """One structure of the annotation.

    Args:
        label: Class it is painted with, >= 1; several layers may share one.
        distance: Level set of the mean shape inside ``box``, mm, negative inside.
        box: Where the structure may be; outside it never is.
        sigma_mm: Standard deviation of the displacement, mm, in all.
        chance: Probability that the structure is outlined at all.
        over: The one class that it is painted over; None paints over all.
    """

    label: int
    distance: Floats
    box: Box
    sigma_mm: float
    chance: float = 1.0
    over: int | None = None

    def inside(self) -> Floats:
        """Return the probability of being inside the drawn structure, over the box."""
        return np.float32(self.chance) * ndtr(self.distance / np.float32(-self.sigma_mm))


@dataclass(frozen=True)
class Annotation:
    """Model of a case's label distribution, to draw labels and compute their posterior.

    Args:
        layers: The structures in the order in which they are painted.
        shape: Grid ``(X, Y, Z)``.
        spacing: Voxel size, mm.
        num_classes: Number of classes with the background.
        correlation_mm: Length l along each axis of the displacement's correlation
            ``exp(-d^2 / 2 l^2)``, mm.
        bias_share: Share of ``sigma_mm`` that a whole structure has in common, in [0, 1]: the
            annotator's habit. The rest varies along the surface.
        outlined: Probability that a slice is outlined at all ``(Z,)``; None is 1 for all.
    """

    layers: Sequence[Layer]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    num_classes: int
    correlation_mm: tuple[float, float, float]
    bias_share: float
    outlined: Floats | None = None


def posterior(case: Annotation) -> Floats:
    """Return the probability of each class ``(C, X, Y, Z)``, float32; they sum to 1."""
    probs = np.zeros((case.num_classes, *case.shape), dtype=np.float32)
    probs[BACKGROUND] = 1
    for layer in case.layers:
        inside, part = layer.inside(), probs[:, *layer.box]
        if layer.over is None:
            part *= 1 - inside
            part[layer.label] += inside
        else:
            moved = inside * part[layer.over]
            part[layer.over] -= moved
            part[layer.label] += moved
    if case.outlined is not None:
        probs *= case.outlined
        probs[BACKGROUND] += 1 - case.outlined
    return probs


def draw_labels(case: Annotation, rng: np.random.Generator) -> np.ndarray:
    """Draw what one annotator outlines, ``(X, Y, Z)`` uint8."""
    labels = np.full(case.shape, BACKGROUND, dtype=np.uint8)
    for layer in case.layers:
        outlined = rng.random() < layer.chance
        shift = layer.sigma_mm * case.bias_share * rng.standard_normal()
        local = layer.sigma_mm * math.sqrt(1 - case.bias_share**2)
        field = gaussian_field(layer.distance.shape, case.spacing, case.correlation_mm, rng)
        inside = layer.distance + np.float32(shift) + np.float32(local) * field < 0
        part = labels[layer.box]
        if layer.over is not None:
            inside &= part == layer.over
        if outlined:
            part[inside] = layer.label
    if case.outlined is not None:
        labels[..., rng.random() >= case.outlined] = BACKGROUND
    return labels


def stream(seed: int, number: int, purpose: str) -> np.random.Generator:
    """Return a separate generator for each patient and purpose."""
    return np.random.default_rng([seed, number, *purpose.encode()])


def gaussian_field(
    shape: Sequence[int],
    spacing: Sequence[float],
    length: Sequence[float],
    rng: np.random.Generator,
) -> Floats:
    r"""Draw a field of mean 0 and variance 1 at every voxel.

    Two voxels ``d`` apart (mm) have the correlation :math:`\prod_a \exp(-d_a^2 / 2 \ell_a^2)`.
    In plane, white noise on a periodic grid, padded by two lengths, is filtered in the Fourier
    domain by a kernel of unit energy, so that the variance is 1 and not only close to it. Across
    the few slices it is multiplied by the square root of the correlation matrix. Neither uses
    BLAS, whose own threads would slow down many fields drawn at once.

    Args:
        shape: Voxels along each axis ``(X, Y, Z)``.
        spacing: Voxel size along each axis, mm.
        length: Correlation length along each axis, mm, > 0.
        rng: Source of the draw; how many values it gives depends on the other arguments alone.

    Returns:
        float32 array of ``shape``.
    """
    padded = [
        fft.next_fast_len(n + math.ceil(2 * scale / step), real=True)
        for n, step, scale in zip(shape[:2], spacing, length, strict=False)
    ]
    noise = rng.standard_normal((shape[2], *padded), dtype=np.float32)
    noise = np.einsum("ij,jxy->ixy", _root(shape[2], spacing[2], length[2]), noise)
    gain = _gain(padded[0], spacing[0], length[0])[:, None]
    gain = gain * _gain(padded[1], spacing[1], length[1])[: padded[1] // 2 + 1]
    field = fft.irfft2(fft.rfft2(noise, workers=1) * gain, s=padded, workers=1)
    return np.ascontiguousarray(field[:, : shape[0], : shape[1]].transpose(1, 2, 0))


def _gain(n: int, step: float, length: float) -> Floats:
    """Return the transform ``(n,)`` of a kernel that correlates white noise as requested."""
    distance = np.minimum(np.arange(n), n - np.arange(n)) * step
    kernel = np.exp(-((distance / length) ** 2))  # its autocorrelation is exp(-d^2 / 2 l^2)
    kernel /= np.sqrt((kernel**2).sum())
    return np.fft.fft(kernel).real.astype(np.float32)


def _root(n: int, step: float, length: float) -> Floats:
    """Return the symmetric square root of the correlation matrix ``(n, n)`` of one axis."""
    distance = (np.arange(n)[:, None] - np.arange(n)) * step
    values, vectors = np.linalg.eigh(np.exp(-0.5 * (distance / length) ** 2))
    root = np.einsum("ik,k,jk->ij", vectors, np.sqrt(np.clip(values, 0, None)), vectors)
    return (root / np.linalg.norm(root, axis=1, keepdims=True)).astype(np.float32)
