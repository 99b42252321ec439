"""Random changes to a training sample, each a function of (seed, epoch, index)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import numpy as np
from torch import Tensor

from datamodules.loading.patches import CENTER, Pair, cut_at, patch_begin
from datamodules.loading.turned_volume import turned_patch
from datamodules.loading.turning import frame_memory, turn_and_scale, turn_frames, turn_in_plane

_PIECE = 1 << 15  # voxels changed at a time
_TINY = 1e-12  # of an image's range
_POOL = 1 << 20  # values of noise: 4 MB, which the processor's cache may hold


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

    def chosen(self, generator: np.random.Generator) -> tuple[bool, bool, bool]:
        """Draw whether to turn and scale, to change contrast, to add noise."""
        if self.probability == 1:
            return True, True, True
        turns, contrasts, noises = generator.random(3).tolist()
        share = self.probability
        return turns < share, contrasts < share, noises < share


def sample_generator(seed: int, epoch: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of one sample in one epoch, one of its own for each purpose."""
    words = np.random.SeedSequence([seed, epoch, index], spawn_key=(purpose,))
    return np.random.Generator(np.random.SFC64(words))


def augmented_patches(
    slices: Iterable[tuple[np.ndarray, np.ndarray]],
    generators: Sequence[np.random.Generator],
    *,
    crop: Literal["center", "random"],
    settings: Augmentation,
    out: Pair,
) -> Pair:
    """Cut a patch out of each slice and change it; those that are turned are turned together.

    Every setting has draws of its own, so turning one off leaves the others' draws as they were.
    Angles and lengths are those of the pixel grid. Pixels that are exactly 0 (padding, a masked
    background) stay 0 whatever happens to contrast and noise. A patch does not depend on the
    others.

    Args:
        slices: float ``(M, H, W)`` and uint8 ``(H, W)`` with 255 for ignored pixels, one after the
            other: the next may overwrite it.
        generators: Source of every draw of each slice.
        crop: Whether the patch is from the centre or from anywhere.
        settings: How much to change.
        out: Where the patches are written: float32 ``(N, M, *size)`` and uint8 ``(N, *size)``.

    Returns:
        ``out``; padding is 0 and ignored.
    """
    images, labels = out
    size = tuple(labels.shape[1:])
    margin = turned_margin(size, settings)
    frames, marks = frame_memory(len(labels), images.shape[1], size, margin)
    turned: list[int] = []
    pulls, intensities = [], []
    for n, ((pixels, classes), generator) in enumerate(zip(slices, generators, strict=True)):
        row, column, flip_h, flip_w, angle, zoom, contrast, level = generator.random(8).tolist()
        where = (row, column) if crop == "random" else CENTER
        sizes = zip(classes.shape, size, where, strict=True)
        begin = [patch_begin(length, wanted, share) for length, wanted, share in sizes]
        mirror = [axis for axis, draw in enumerate((flip_h, flip_w)) if draw < settings.flip]
        turns, contrasts, noises = settings.chosen(generator)
        if turns and (settings.rotation or settings.scale):
            framed = frames[len(turned)], marks[len(turned)]
            cut_at(pixels, classes, [b - m for b, m in zip(begin, margin, strict=True)], framed)
            turn = math.radians(settings.rotation) * (2 * angle - 1)
            pulls.append(turn_in_plane(turn, settings.factor(zoom), mirror))
            turned.append(n)
        else:
            cut_at(pixels, classes, begin, (images[n], labels[n]), mirror=mirror)
        exponent = settings.exponent(contrast) if contrasts else 1.0
        intensities.append((exponent, settings.noise * level if noises else 0.0))
    if turned:
        turn_frames(frames[: len(turned)], marks[: len(turned)], pulls, turned, out)
    for image, (exponent, deviation), generator in zip(
        images, intensities, generators, strict=True
    ):
        change_intensities(image, exponent=exponent, deviation=deviation, generator=generator)
    return out


def turned_margin(size: Sequence[int], settings: Augmentation) -> tuple[int, ...]:
    """Return how far beyond a patch on each axis its corners may come from, in whole pixels."""
    margins = []
    for mine, other in (size, size[::-1]):
        widest = min(math.radians(settings.rotation), math.atan2(other, mine))
        reach = (mine * math.cos(widest) + other * math.sin(widest)) * (1 + settings.scale)
        margins.append(math.ceil((reach - mine) / 2) + 1)
    return tuple(margins)


def augmented_volume_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    begin: Sequence[int],
    *,
    spacing: Sequence[float],
    settings: Augmentation,
    generator: np.random.Generator,
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
        out: Where the patch is written: float32 ``(M, *size)`` and uint8 ``(*size,)``.

    Returns:
        ``out``; padding is 0 and ignored.
    """
    draws = generator.random(9).tolist()
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
    image: Tensor, *, exponent: float, deviation: float, generator: np.random.Generator
) -> None:
    """Change contrast and add noise in place; what is 0 stays 0.

    The image is gone through once, in pieces that stay in the processor's cache, by numpy, whose
    logarithm and exponential take half the time of torch's.

    Args:
        image: float32, contiguous.
        exponent: What the image is raised to, with its range mapped to [0, 1] and back.
        deviation: Standard deviation of the noise.
        generator: Source of the noise.
    """
    values = image.view(-1).numpy()
    low, high = (values.min(), values.max()) if exponent != 1 else (np.float32(0), np.float32(0))
    if low == high and deviation == 0:
        return
    for begin in range(0, len(values), _PIECE):
        part = values[begin : begin + _PIECE]
        keep = part != 0
        if low < high:
            _raise(part, exponent, low, high)
        if deviation:
            part += gaussian(len(part), generator, deviation)
        part *= keep


def _raise(part: np.ndarray, exponent: float, low: np.floating, high: np.floating) -> None:
    """Raise values in [low, high] in place, without a power: exp(log(x - low) * exponent + ...)."""
    part -= low
    np.maximum(part, np.float32(_TINY * (high - low)), out=part)  # of log 0
    np.log(part, out=part)
    part *= np.float32(exponent)
    part += np.float32((1 - exponent) * math.log(high - low))
    np.exp(part, out=part)
    part += low


def gaussian(count: int, generator: np.random.Generator, deviation: float = 1) -> np.ndarray:
    """Return Gaussian noise: a run of a pool of a million normal values, from a drawn place on.

    Its sign is drawn too. A piece of an image is a run of its own, so no two have the same noise
    beside each other; fresh values for each voxel would take ten times as long.

    Args:
        count: How many values, at most a million.
        generator: Source of the draws.
        deviation: The standard deviation.
    """
    pool = _noise_pool()
    where, sign = generator.random(2).tolist()
    begin = int(where * (len(pool) - count + 1))
    return pool[begin : begin + count] * np.float32(deviation if sign < 0.5 else -deviation)


@cache
def _noise_pool() -> np.ndarray:
    return np.random.Generator(np.random.SFC64(0)).standard_normal(_POOL, np.float32)
