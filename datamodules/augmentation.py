"""Random changes to a training slice, each a function of (seed, epoch, index)."""

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.patches import CENTER, cut_patch, turned_patch


@dataclass(frozen=True)
class Augmentation:
    """How much training slices are changed; every setting is off at 0.

    Attributes:
        flip: Probability of mirroring, for each of the two axes.
        rotation: Largest angle in degrees; the angle is uniform in [-rotation, rotation].
        scale: Largest change of size; the factor is log-uniform in [1/(1+scale), 1+scale].
        gamma: Largest change of contrast; the exponent, on intensities scaled to [0, 1], is
            log-uniform in [1/(1+gamma), 1+gamma].
        noise: Largest standard deviation of Gaussian noise, in units of the normalised image;
            the standard deviation is uniform in [0, noise].
    """

    flip: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be finite and >= 0, got {value}.")
        if self.flip > 1:
            raise ValueError(f"flip is a probability and must be at most 1, got {self.flip}.")

    @property
    def is_off(self) -> bool:
        """Whether nothing is changed."""
        return all(getattr(self, field.name) == 0 for field in fields(self))


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Return the random generator of one sample in one epoch."""
    state = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def augmented_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    *,
    crop: Literal["center", "random"],
    settings: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a slice and change it.

    Every setting has draws of its own, so turning one off leaves the others' draws as they were.

    Args:
        pixels: float ``(M, H, W)``.
        classes: uint8 ``(H, W)``, 255 for ignored pixels.
        size: Height and width of the patch.
        crop: Whether the patch is from the centre or from anywhere.
        settings: How much to change.
        generator: Source of every draw.

    Returns:
        float32 ``(M, *size)`` and uint8 ``(*size,)``; padding is 0 and ignored.
    """
    row, column, flip_h, flip_w, angle, zoom, contrast, level = torch.rand(
        8, generator=generator, dtype=torch.float64
    ).tolist()
    where = (row, column) if crop == "random" else CENTER
    if settings.gamma:
        exponent = (1 + settings.gamma) ** (2 * contrast - 1)
        pixels = adjusted_contrast(pixels, exponent)
    if settings.noise:
        noise = torch.randn(pixels.shape, generator=generator).numpy()
        pixels = pixels + np.float32(settings.noise * level) * noise
    for axis, draw in ((-2, flip_h), (-1, flip_w)):
        if draw < settings.flip:
            pixels, classes = np.flip(pixels, axis), np.flip(classes, axis)
    if not (settings.rotation or settings.scale):
        return cut_patch(pixels, classes, size, where)
    return turned_patch(
        pixels,
        classes,
        size,
        where,
        angle=math.radians(settings.rotation) * (2 * angle - 1),
        factor=(1 + settings.scale) ** (2 * zoom - 1),
    )


def adjusted_contrast(pixels: np.ndarray, exponent: float) -> np.ndarray:
    """Return the image with its range mapped to [0, 1], raised to ``exponent``, and mapped back."""
    pixels = np.asarray(pixels, dtype=np.float32)
    low, high = pixels.min(), pixels.max()
    if low == high:
        return pixels
    return ((pixels - low) / (high - low)) ** np.float32(exponent) * (high - low) + low
