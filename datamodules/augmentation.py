"""Random changes to a training sample, each a function of (seed, epoch, index)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.patches import CENTER, Pair, cut_at, patch_begin, turn_and_scale, turned_patch

_PIECE = 1 << 16  # voxels changed at a time
_TINY = 1e-12  # of an image's range
_LEVELS = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
_QUANTILES = torch.special.ndtri(_LEVELS).float().numpy()


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

    def factor(self, draw: float) -> float:
        """Return the enlargement of a draw in [0, 1)."""
        return (1 + self.scale) ** (2 * draw - 1)

    def exponent(self, draw: float) -> float:
        """Return the exponent of the contrast of a draw in [0, 1)."""
        return (1 + self.gamma) ** (2 * draw - 1)

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
    *,
    crop: Literal["center", "random"],
    settings: Augmentation,
    generator: torch.Generator,
    out: Pair,
) -> Pair:
    """Cut a patch out of a slice and change it.

    Every setting has draws of its own, so turning one off leaves the others' draws as they were.
    Angles and lengths are those of the pixel grid. Pixels that are exactly 0 (padding, a masked
    background) stay 0 whatever happens to contrast and noise.

    Args:
        pixels: float ``(M, H, W)``; may be mapped from a file, of which only the patch is read.
        classes: uint8 ``(H, W)``, 255 for ignored pixels.
        crop: Whether the patch is from the centre or from anywhere.
        settings: How much to change.
        generator: Source of every draw.
        out: Where the patch is written: float32 ``(M, *size)`` and uint8 ``(*size,)``.

    Returns:
        ``out``; padding is 0 and ignored.
    """
    row, column, flip_h, flip_w, angle, zoom, contrast, level = torch.rand(
        8, generator=generator, dtype=torch.float64
    ).tolist()
    where = (row, column) if crop == "random" else CENTER
    sizes = zip(classes.shape, out[1].shape, where, strict=True)
    begin = [patch_begin(n, m, share) for n, m, share in sizes]
    mirror = [axis for axis, draw in enumerate((flip_h, flip_w)) if draw < settings.flip]
    turns, contrasts, noises = settings.chosen(generator)
    if turns and (settings.rotation or settings.scale):
        turn = math.radians(settings.rotation) * (2 * angle - 1)
        pull = turn_and_scale((1, 1, 1), turn=turn, tilts=(0, 0), factor=settings.factor(zoom))
        pull[:, mirror] *= -1
        turned_patch(pixels, classes, begin, pull[:2, :2], out)
    else:
        cut_at(pixels, classes, begin, out, mirror=mirror)
    change_intensities(
        out[0],
        exponent=settings.exponent(contrast) if contrasts else 1.0,
        deviation=settings.noise * level if noises else 0.0,
        generator=generator,
    )
    return out


def augmented_volume_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    begin: Sequence[int],
    *,
    spacing: Sequence[float],
    settings: Augmentation,
    generator: torch.Generator,
    out: Pair,
) -> Pair:
    """Cut a patch out of a volume and change it.

    Rotations are in mm. Voxels that are exactly 0 (a masked background, clipped air, padding) stay
    0 whatever happens to contrast and noise.

    Args:
        pixels: float ``(M, X, Y, Z)``; may be mapped from a file, of which only the patch is read.
        classes: uint8 ``(X, Y, Z)``, 255 for ignored voxels.
        begin: First voxel of the patch on each axis.
        spacing: Voxel size in mm on each axis.
        settings: How much to change.
        generator: Source of every draw.
        out: As for :func:`augmented_patch`.

    Returns:
        ``out``; padding is 0 and ignored.
    """
    draws = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    angle, tilt, roll, zoom, contrast, level = draws[3:]
    mirror = [axis for axis, draw in enumerate(draws[:3]) if draw < settings.flip]
    turns, contrasts, noises = settings.chosen(generator)
    if turns and (settings.rotation or settings.tilt or settings.scale):
        pull = turn_and_scale(
            spacing,
            turn=math.radians(settings.rotation) * (2 * angle - 1),
            tilts=(
                math.radians(settings.tilt) * (2 * tilt - 1),
                math.radians(settings.tilt) * (2 * roll - 1),
            ),
            factor=settings.factor(zoom),
        )
        pull[:, mirror] *= -1
        turned_patch(pixels, classes, begin, pull, out)
    else:
        cut_at(pixels, classes, begin, out, mirror=mirror)
    change_intensities(
        out[0],
        exponent=settings.exponent(contrast) if contrasts else 1.0,
        deviation=settings.noise * level if noises else 0.0,
        generator=generator,
    )
    return out


def change_intensities(
    image: Tensor, *, exponent: float, deviation: float, generator: torch.Generator
) -> None:
    """Change contrast and add noise in place; what is 0 stays 0.

    The image is gone through once, in pieces that stay in the processor's cache.

    Args:
        image: float32, contiguous.
        exponent: What the image is raised to, with its range mapped to [0, 1] and back.
        deviation: Standard deviation of the noise.
        generator: Source of the noise's seed.
    """
    low, high = (float(value) for value in image.aminmax()) if exponent != 1 else (0.0, 0.0)
    if low == high and deviation == 0:
        return
    source = _noise_source(generator) if deviation else None
    for part in image.view(-1).split(_PIECE):
        values = part.numpy()
        keep = values != 0
        if low < high:  # exp(log x * e) takes a fifth of torch's power, unless it meets log 0
            part.sub_(low).mul_(1 / (high - low)).clamp_min_(_TINY).log_().mul_(exponent).exp_()
            part.mul_(high - low).add_(low)
        if source is not None:
            part.add_(gaussian(len(part), source), alpha=deviation)
        if not keep.all():
            np.multiply(values, keep, out=values)


def gaussian(count: int, source: np.random.BitGenerator) -> Tensor:
    """Return standard normal noise: one of 65536 equally likely quantiles a value.

    They reach to 4.3 standard deviations. It takes a third of the time of ``torch.randn``.
    """
    words = source.random_raw(-(-count // 4))
    return torch.from_numpy(_QUANTILES.take(words.view(np.uint16)[:count]))


def _noise_source(generator: torch.Generator) -> np.random.BitGenerator:
    return np.random.SFC64(int(torch.randint(1 << 62, (), generator=generator)))
