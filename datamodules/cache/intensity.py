"""Normalizes the intensities of one modality."""

from typing import Literal, get_args

import numpy as np

Normalization = Literal["zscore", "zscore_nonzero", "percentile", "window", "minmax", "rgb", "none"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


def normalize(
    data: np.ndarray,
    how: Normalization,
    *,
    percentiles: tuple[float, float] = (1.0, 99.0),
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return one channel of a volume as float32, normalized.

    Args:
        data: Voxels of any shape.
        how: ``"zscore"``: mean 0 and standard deviation 1 over all voxels. ``"zscore_nonzero"``:
            the same over the voxels that are not 0, and those that are stay 0.
            ``"percentile"``: clipped to two percentiles of all voxels, then scaled to [0, 1].
            ``"window"``: clipped to two fixed values, then scaled to [0, 1]. ``"minmax"``: the
            least value becomes 0 and the largest 1. ``"rgb"``: divided by 255. ``"none"``: as it
            is.
        percentiles: The two of ``"percentile"``.
        window: The two of ``"window"``, such as Hounsfield units.
    """
    if how == "zscore":
        wide = data.astype(np.float64)
        return ((wide - wide.mean()) / max(wide.std(), 1e-12)).astype(np.float32)
    if how == "zscore_nonzero":
        inside = data != 0
        values = data[inside].astype(np.float64)
        out = np.zeros(data.shape, dtype=np.float32)
        if values.size:
            out[inside] = (values - values.mean()) / max(values.std(), 1e-12)
        return out
    if how == "none":
        return data.astype(np.float32)
    if how == "rgb":
        return data.astype(np.float32) / np.float32(255)
    if how == "window":
        if window is None:
            raise ValueError("window must be given for normalize: window.")
        low, high = window
        out = np.clip(data, np.float32(low), np.float32(high)).astype(np.float32)
        out -= np.float32(low)
        out /= np.float32(high - low)
        return out
    wide = data.astype(np.float64)
    low, high = np.percentile(wide, (0, 100) if how == "minmax" else percentiles)
    return ((wide.clip(low, high) - low) / max(high - low, 1e-12)).astype(np.float32)


def box_above(image: np.ndarray, threshold: float) -> tuple[tuple[int, int], ...]:
    """Return the smallest box of ``(M, X, Y, Z)`` with all voxels above ``threshold`` in it.

    A voxel counts if any modality is above. An image without such a voxel keeps its whole box.

    Returns:
        For each of X, Y and Z, the first voxel and one past the last.
    """
    inside = image[0] > threshold
    for channel in image[1:]:
        inside |= channel > threshold
    if not inside.any():
        return tuple((0, size) for size in inside.shape)
    box = []
    for axis in range(inside.ndim):
        others = tuple(i for i in range(inside.ndim) if i != axis)
        (hits,) = np.nonzero(inside.any(axis=others))
        box.append((int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)
