"""Random changes to a training sample, each a function of (seed, epoch, index)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.patches import (
    CENTER,
    cut_at,
    cut_patch,
    turn_and_scale,
    turned_patch,
    turned_volume_patch,
)


@dataclass(frozen=True)
class Augmentation:
    """How much training samples are changed; every setting is off at 0.

    Attributes:
        flip: Probability of mirroring, for each spatial axis.
        rotation: Largest angle in degrees, within slices (about the last axis); the angle is
            uniform in [-rotation, rotation].
        tilt: The same for each of the other two axes of a 3D patch; slices are not tilted.
        scale: Largest change of size; the factor is log-uniform in [1/(1+scale), 1+scale].
        gamma: Largest change of contrast; the exponent, on intensities scaled to [0, 1], is
            log-uniform in [1/(1+gamma), 1+gamma].
        noise: Largest standard deviation of Gaussian noise, in units of the normalised image;
            the standard deviation is uniform in [0, noise].
        probability: Share of the samples that are rotated and scaled; likewise, each drawn by
            itself, those whose contrast is changed and those that get noise.
    """

    flip: float = 0.0
    rotation: float = 0.0
    tilt: float = 0.0
    scale: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be finite and >= 0, got {value}.")
        for name, value in (("flip", self.flip), ("probability", self.probability)):
            if value > 1:
                raise ValueError(f"{name} is a probability and must be at most 1, got {value}.")

    @property
    def is_off(self) -> bool:
        """Whether nothing is changed."""
        changes = (self.rotation, self.tilt, self.scale, self.gamma, self.noise)
        return self.flip == 0 and (self.probability == 0 or not any(changes))

    def chosen(self, generator: torch.Generator) -> tuple[bool, bool, bool]:
        """Draw whether to turn and scale, to change contrast, to add noise."""
        if self.probability == 1:
            return True, True, True
        turns, contrasts, noises = torch.rand(3, generator=generator).tolist()
        share = self.probability
        return turns < share, contrasts < share, noises < share


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
    turns, contrasts, noises = settings.chosen(generator)
    if settings.gamma and contrasts:
        exponent = (1 + settings.gamma) ** (2 * contrast - 1)
        pixels = adjusted_contrast(pixels, exponent)
    if settings.noise and noises:
        noise = torch.randn(pixels.shape, generator=generator).numpy()
        pixels = pixels + np.float32(settings.noise * level) * noise
    for axis, draw in ((-2, flip_h), (-1, flip_w)):
        if draw < settings.flip:
            pixels, classes = np.flip(pixels, axis), np.flip(classes, axis)
    if not (turns and (settings.rotation or settings.scale)):
        return cut_patch(pixels, classes, size, where)
    return turned_patch(
        pixels,
        classes,
        size,
        where,
        angle=math.radians(settings.rotation) * (2 * angle - 1),
        factor=(1 + settings.scale) ** (2 * zoom - 1),
    )


def augmented_volume_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    size: Sequence[int],
    begin: Sequence[int],
    *,
    spacing: Sequence[float],
    settings: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a volume and change it.

    Rotations are in mm. Voxels that are exactly 0 (a masked background, clipped air, padding) stay
    0 whatever happens to contrast and noise.

    Args:
        pixels: float ``(M, X, Y, Z)``; may be mapped from a file, of which only the patch is read.
        classes: uint8 ``(X, Y, Z)``, 255 for ignored voxels.
        size: Size of the patch on each axis.
        begin: First voxel of the patch on each axis.
        spacing: Voxel size in mm on each axis.
        settings: How much to change.
        generator: Source of every draw.

    Returns:
        float32 ``(M, *size)`` and uint8 ``(*size,)``; padding is 0 and ignored.
    """
    draws = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    angle, tilt, roll, zoom, contrast, level = draws[3:]
    turns, contrasts, noises = settings.chosen(generator)
    if turns and (settings.rotation or settings.tilt or settings.scale):
        pull = turn_and_scale(
            spacing,
            turn=math.radians(settings.rotation) * (2 * angle - 1),
            tilts=(
                math.radians(settings.tilt) * (2 * tilt - 1),
                math.radians(settings.tilt) * (2 * roll - 1),
            ),
            factor=(1 + settings.scale) ** (2 * zoom - 1),
        )
        image, label = turned_volume_patch(pixels, classes, size, begin, pull)
    else:
        image, label = cut_at(pixels, classes, size, begin)
    mirrored = [axis for axis, draw in enumerate(draws[:3]) if draw < settings.flip]
    if mirrored:
        image, label = image.flip([axis + 1 for axis in mirrored]), label.flip(mirrored)
    contrasts, noises = bool(settings.gamma) and contrasts, bool(settings.noise) and noises
    if not (contrasts or noises):
        return image, label
    empty = image == 0
    if contrasts:
        exponent = (1 + settings.gamma) ** (2 * contrast - 1)
        low, high = image.aminmax()
        if low < high:
            image = (image - low).div_(high - low).pow_(exponent).mul_(high - low).add_(low)
    if noises:
        noise = torch.randn(image.shape, generator=generator)
        image = image.add(noise, alpha=settings.noise * level)
    return image.masked_fill_(empty, 0), label


def adjusted_contrast(pixels: np.ndarray, exponent: float) -> np.ndarray:
    """Return the image with its range mapped to [0, 1], raised to ``exponent``, and mapped back."""
    pixels = np.asarray(pixels, dtype=np.float32)
    low, high = pixels.min(), pixels.max()
    if low == high:
        return pixels
    return ((pixels - low) / (high - low)) ** np.float32(exponent) * (high - low) + low
