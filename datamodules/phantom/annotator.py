r"""The annotator: labels drawn about the mean shape, and their exact posterior.

Each surface is displaced by a random field of its own, and each voxel is labelled at its centre:
inside means :math:`\phi(x) + g(x) < 0`, with :math:`\phi` the signed distance to the mean surface
and :math:`g` a zero-mean Gaussian field of standard deviation :math:`\sigma`. Hence
:math:`q = P(\mathrm{inside}) = \Phi(-\phi / \sigma)` whatever the field's correlation. The
structures are painted right ventricle, epicardium, endocardium, each over the one before, so

.. math::
    P(\mathrm{LV}) = q_1, \quad P(\mathrm{MYO}) = (1 - q_1) q_2, \quad
    P(\mathrm{RV}) = (1 - q_1)(1 - q_2) q_3, \quad
    P(\mathrm{background}) = (1 - q_1)(1 - q_2)(1 - q_3).

The slice at the valve plane is outlined as a whole with probability ``basal_pi`` and left empty
otherwise, and slices above it are always empty. The image is rendered from the mean shape alone
and knows nothing of the draw, so these probabilities are the posterior given the image, as far as
the image shows the shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from datamodules.phantom.heart import Heart
from datamodules.phantom.random_field import Floats, gaussian_field
from datamodules.phantom.settings import CardiacPhantom

BACKGROUND, RV, MYO, LV = range(4)


@dataclass(frozen=True)
class Annotation:
    """All that is needed to draw labels of a frame and to say how probable they are.

    Args:
        distance: Signed distances to endocardium, epicardium and right endocardium at the voxel
            centres ``(3, X, Y, Z)``, mm, negative inside.
        outlined: Probability that a slice is outlined at all ``(Z,)``: 0, ``basal_pi`` or 1.
        spacing: Voxel size, mm.
        settings: Size and correlation of the displacement.
    """

    distance: Floats
    outlined: Floats
    spacing: tuple[float, float, float]
    settings: CardiacPhantom


def annotation(
    heart: Heart,
    *,
    x: Floats,
    y: Floats,
    basal: int,
    spacing: tuple[float, float, float],
    settings: CardiacPhantom,
) -> Annotation:
    """Return the annotation of the ``heart`` cut at the slices' centres."""
    surfaces = (heart.endo, heart.epi, heart.right)
    distance = np.stack([surface.signed_distance(x, y) for surface in surfaces])
    outlined = np.ones(distance.shape[-1], dtype=np.float32)
    outlined[:basal] = 0
    outlined[basal] = settings.basal_pi
    return Annotation(distance, outlined, spacing, settings)


def posterior(case: Annotation) -> Floats:
    """Return the probability of each label ``(4, X, Y, Z)``, float32; they sum to 1."""
    endo, epi, right = ndtr(-case.distance / np.float32(case.settings.sigma_mm))
    outside = (1 - endo) * (1 - epi)
    probs = np.stack([outside * (1 - right), outside * right, (1 - endo) * epi, endo])
    probs *= case.outlined
    probs[BACKGROUND] += 1 - case.outlined
    return probs.astype(np.float32)


def draw_labels(case: Annotation, rng: np.random.Generator) -> np.ndarray:
    """Draw what one annotator outlines, ``(X, Y, Z)`` uint8: 0 background, 1 RV, 2 MYO, 3 LV."""
    settings = case.settings
    length = (settings.correlation_mm, settings.correlation_mm, settings.correlation_z_mm)
    local = math.sqrt(settings.sigma_mm**2 - settings.bias_mm**2)
    shape = case.distance.shape[1:]
    labels = np.full(shape, BACKGROUND, dtype=np.uint8)
    for distance, value in zip(case.distance[::-1], (RV, MYO, LV), strict=True):
        shift = settings.bias_mm * rng.standard_normal(dtype=np.float32)
        field = gaussian_field(shape, case.spacing, length, rng)
        labels[distance + shift + np.float32(local) * field < 0] = value
    labels[..., rng.random() >= case.outlined] = BACKGROUND
    return labels
