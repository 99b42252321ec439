"""Cuts a patch out of a slice, straight or turned and scaled."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.checks import IGNORED

Where = tuple[float, float]  # position of the patch on each axis, from 0 to 1; 0.5 is the centre
CENTER: Where = (0.5, 0.5)


def patch_begin(length: int, wanted: int, share: float) -> int:
    """Return the first pixel of a patch on an axis of a slice; negative where the patch is padded.

    Args:
        length: Pixels of the slice.
        wanted: Pixels of the patch.
        share: Position of the patch, from 0 (first pixels) to 1 (last pixels); 0.5 is the centre,
            rounded down. Padding is the same on both sides, whatever the position.
    """
    spare = length - wanted
    if spare <= 0:
        return -(-spare // 2)
    return spare // 2 if share == 0.5 else min(int(share * (spare + 1)), spare)


def cut_patch(
    pixels: np.ndarray, classes: np.ndarray, size: tuple[int, int], where: Where = CENTER
) -> tuple[Tensor, Tensor]:
    """Crop or pad a slice to ``size``; padding is 0 in the image and ignored in the label.

    Args:
        pixels: ``(M, H, W)``, any float type.
        classes: uint8 ``(H, W)``, 255 for ignored pixels.
        size: Height and width of the patch.
        where: Position of the patch.

    Returns:
        float32 ``(M, *size)`` and uint8 ``(*size,)``.
    """
    source, target = [], []
    for length, wanted, share in zip(classes.shape, size, where, strict=True):
        begin = patch_begin(length, wanted, share)
        source.append(slice(max(begin, 0), min(begin + wanted, length)))
        target.append(slice(max(-begin, 0), max(-begin, 0) + min(wanted, length)))
    image = np.zeros((pixels.shape[0], *size), dtype=np.float32)
    label = np.full(size, IGNORED, dtype=np.uint8)
    image[:, target[0], target[1]] = pixels[:, source[0], source[1]]
    label[target[0], target[1]] = classes[source[0], source[1]]
    return torch.from_numpy(image), torch.from_numpy(label)


def turned_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    where: Where = CENTER,
    *,
    angle: float,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a slice that is turned about the patch's centre and enlarged.

    The image is interpolated linearly, the label by nearest neighbour; what comes from outside
    the slice is 0 in the image and ignored in the label. Angles and lengths are those of the
    pixel grid.

    Args:
        pixels: As for :func:`cut_patch`.
        classes: As for :func:`cut_patch`.
        size: Height and width of the patch.
        where: Position of the patch.
        angle: Turn in radians, from the first axis towards the second.
        factor: Enlargement.

    Returns:
        As :func:`cut_patch`, to which it is equal for angle 0 and factor 1.
    """
    lengths = np.array(classes.shape, dtype=np.float64)
    sizes = np.array(size, dtype=np.float64)
    begin = [patch_begin(int(n), m, s) for n, m, s in zip(lengths, size, where, strict=True)]
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    # Patch to slice, both in coordinates that run over [-1, 1] from edge to edge.
    pull = np.empty((2, 3))
    pull[:, :2] = np.array([[cos, sin], [-sin, cos]]) * sizes / lengths[:, None]
    pull[:, 2] = (2 * np.array(begin) + sizes - lengths) / lengths
    # torch counts a point's coordinates from the last axis.
    theta = torch.from_numpy(pull[::-1, [1, 0, 2]].copy()).float()[None]
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)

    def sample(array: np.ndarray, mode: str) -> Tensor:
        source = torch.from_numpy(array)[None]
        return F.grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False)[0]

    # One up in uint8 makes the ignored value 0, which is also what comes from outside.
    shifted = (classes + np.uint8(1)).astype(np.float32)
    image = sample(np.array(pixels, dtype=np.float32, order="C"), "bilinear")
    return image, sample(shifted[None], "nearest")[0].to(torch.uint8) - 1
