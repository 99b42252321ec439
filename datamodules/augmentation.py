"""Random changes to a training slice, each a function of (seed, epoch, index)."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from monai.networks.layers import AffineTransform
from monai.transforms import AdjustContrast
from torch import Tensor


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


def augment(
    image: Tensor, label: Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change a slice.

    The number of draws does not depend on the settings, so a setting that is turned off leaves
    the others' draws as they were. What moves in from outside is 0 in the image and ignored in
    the label.

    Args:
        image: float32 ``(M, H, W)``.
        label: int64 ``(H, W)``, ignored pixels negative.
        settings: How much to change.
        generator: Source of every draw.

    Returns:
        Image and label of the same shapes and types.
    """
    flip_h, flip_w, angle, size, contrast, level = torch.rand(6, generator=generator).tolist()
    if settings.gamma:
        exponent = (1 + settings.gamma) ** (2 * contrast - 1)
        image = torch.as_tensor(AdjustContrast(gamma=exponent)(image)).float()
    if settings.noise:
        noise = torch.randn(image.shape, generator=generator)
        image = image + settings.noise * level * noise
    axes = [axis for axis, draw in ((-2, flip_h), (-1, flip_w)) if draw < settings.flip]
    image, label = image.flip(axes), label.flip(axes)
    if settings.rotation or settings.scale:
        turn = math.radians(settings.rotation) * (2 * angle - 1)
        factor = (1 + settings.scale) ** (2 * size - 1)
        image, label = rotate_and_scale(image, label, angle=turn, factor=factor)
    return image, label


def rotate_and_scale(
    image: Tensor, label: Tensor, *, angle: float, factor: float
) -> tuple[Tensor, Tensor]:
    """Turn a slice about its centre by ``angle`` (radians) and enlarge it ``factor`` times.

    The image is interpolated linearly, the label by nearest neighbour. Both are resampled in
    pixels, so a slice that is not square is not sheared.
    """
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    pull = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    linear = AffineTransform(
        mode="bilinear", padding_mode="zeros", align_corners=False, zero_centered=True
    )
    nearest = AffineTransform(
        mode="nearest", padding_mode="zeros", align_corners=False, zero_centered=True
    )
    inside = label.clamp_min(-1) + 1  # ignored pixels become 0, which is what moves in
    turned = nearest(inside[None, None].float(), pull)[0, 0].long() - 1
    return linear(image[None], pull)[0], turned.masked_fill(turned < 0, -100)
