"""Random changes to a training sample, each a function of (seed, epoch, index)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.patches import Pair, cut_at
from datamodules.loading.rotation import rotated_patch, rotation_matrix

_PIECE = 1 << 15  # voxels changed at a time, which stay in the processor's cache
_TINY = 1e-12  # of an image's range


@dataclass(frozen=True)
class Augmentation:
    """How much training samples are changed; every setting is off at 0.

    Attributes:
        flip: Probability of mirroring, for each spatial axis.
        rotation: Largest angle in degrees, within slices (about the last axis); the angle is
            uniform in [-rotation, rotation].
        tilt: The same about each of the other two axes of a 3D patch; slices are not tilted.
        scale: Largest change of size; the factor is log-uniform in [1/(1+scale), 1+scale].
        gamma: Largest change of contrast; the exponent, on intensities scaled to [0, 1], is
            log-uniform in [1/(1+gamma), 1+gamma].
        noise: Largest standard deviation of Gaussian noise, in units of the normalized image;
            the standard deviation is uniform in [0, noise].
        probability: Of rotating and scaling a sample; likewise, each drawn by itself, of changing
            its contrast and of adding noise.
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
        """Return True if nothing is changed."""
        changes = (self.rotation, self.tilt, self.scale, self.gamma, self.noise)
        return self.flip == 0 and (self.probability == 0 or not any(changes))

    def factor(self, draw: float) -> float:
        """Return the enlargement, by a draw in [0, 1)."""
        return (1 + self.scale) ** (2 * draw - 1)

    def exponent(self, draw: float) -> float:
        """Return the exponent of the contrast, by a draw in [0, 1)."""
        return (1 + self.gamma) ** (2 * draw - 1)

    def chosen(self, generator: np.random.Generator) -> tuple[bool, bool, bool]:
        """Draw whether to rotate and scale, to change contrast, to add noise."""
        if self.probability == 1:
            return True, True, True
        rotates, contrasts, noises = (generator.random(3) < self.probability).tolist()
        return rotates, contrasts, noises


def sample_generator(seed: int, epoch: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of one sample in one epoch, one of its own for each purpose."""
    seeds = np.random.SeedSequence([seed, epoch, index], spawn_key=(purpose,))
    return np.random.Generator(np.random.SFC64(seeds))


def augmented_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    begin: Sequence[int],
    *,
    spacing: Sequence[float],
    settings: Augmentation,
    generator: np.random.Generator,
    out: Pair,
) -> None:
    """Cut a patch out of a slice or volume and change it.

    Every setting has draws of its own, so turning one off leaves the others' draws as they were.
    Voxels that are exactly 0 (padding, a masked background, clipped air) stay 0 in all changes of
    contrast and noise.

    Args:
        pixels: float ``(M, *S)``; may be mapped from a file, of which only the patch is read.
        classes: uint8 ``(*S,)``, 255 for ignored voxels; ``(R, *S)`` of several readers.
        begin: First voxel of the patch on each axis.
        spacing: Voxel size in mm on each axis: rotations are in mm.
        settings: How much to change.
        generator: Source of every draw.
        out: Where the patch is written: float32 ``(M, *size)`` and uint8 ``(*size,)`` or
            ``(R, *size)``; padding is 0 and ignored.
    """
    axes = len(begin)
    mirror = np.flatnonzero(generator.random(axes) < settings.flip).tolist()
    angles = 2 * generator.random(1 if axes == 2 else 3) - 1
    zoom, contrast, level = generator.random(3).tolist()
    rotates, contrasts, noises = settings.chosen(generator)
    limits = (settings.rotation, settings.tilt, settings.tilt)[: len(angles)]
    if rotates and (any(limits) or settings.scale):
        matrix = rotation_matrix(
            np.radians(limits) * angles,
            spacing=spacing,
            factor=settings.factor(zoom),
            mirror=mirror,
        )
        rotated_patch(pixels, classes, begin, matrix, out)
    else:
        cut_at(pixels, classes, begin, out, mirror=mirror)
    change_intensities(
        out[0],
        exponent=settings.exponent(contrast) if contrasts else 1.0,
        deviation=settings.noise * level if noises else 0.0,
        generator=generator,
    )


def change_intensities(
    image: Tensor, *, exponent: float, deviation: float, generator: np.random.Generator
) -> None:
    """Change contrast and add Gaussian noise in place; what is 0 stays 0.

    Args:
        image: float32, contiguous.
        exponent: What the image is raised to, with its range mapped to [0, 1] and back.
        deviation: Standard deviation of the noise.
        generator: Source of the noise's seed.
    """
    values = image.view(-1).numpy()
    low, high = (values.min(), values.max()) if exponent != 1 else (np.float32(0), np.float32(0))
    if low == high and deviation == 0:
        return
    noise = torch.Generator().manual_seed(int(generator.integers(2**63)))
    for begin in range(0, len(values), _PIECE):
        part = values[begin : begin + _PIECE]
        keep = part != 0
        if low < high:
            _raise(part, exponent, low, high)
        if deviation:
            part += torch.empty(len(part)).normal_(0, deviation, generator=noise).numpy()
        part *= keep


def _raise(part: np.ndarray, exponent: float, low: np.floating, high: np.floating) -> None:
    """Raise values in [low, high] in place, without a power: exp(log(x - low) * exponent + ...).

    numpy's logarithm and exponential take half the time of torch's.
    """
    part -= low
    np.maximum(part, np.float32(_TINY * (high - low)), out=part)  # of log 0
    np.log(part, out=part)
    part *= np.float32(exponent)
    part += np.float32((1 - exponent) * math.log(high - low))
    np.exp(part, out=part)
    part += low
