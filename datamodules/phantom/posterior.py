"""The file of a posterior: 16-bit shares of 65535 that add up to 65535 at every voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantom.random_field import Floats

WHOLE = 65535


def save_posterior(path: Path, probs: Floats) -> None:
    """Write ``probs`` ``(C, *S)`` as ``.npz`` with one array, ``posterior``, of uint16 shares.

    Shares are rounded to the nearest, and the likeliest class takes what is missing to 65535, so
    no probability is off by more than ``C / 2 / 65535``.
    """
    shares = np.rint(probs.astype(np.float64) * WHOLE).astype(np.int64)
    likeliest = probs.argmax(axis=0)[None]
    rest = WHOLE - shares.sum(axis=0, keepdims=True)
    top = np.take_along_axis(shares, likeliest, axis=0) + rest
    np.put_along_axis(shares, likeliest, top, axis=0)
    np.savez_compressed(path, posterior=shares.astype(np.uint16))


def load_posterior(path: Path) -> Floats:
    """Return the probabilities ``(C, *S)`` float32 that :func:`save_posterior` wrote.

    Raises:
        ValueError: The file holds no array ``posterior`` of uint16.
    """
    with np.load(path, allow_pickle=False) as file:
        if "posterior" not in file.files:
            raise ValueError(f"{path} must hold an array 'posterior', it holds {file.files}.")
        shares = file["posterior"]
    if shares.dtype != np.uint16:
        raise ValueError(f"{path}: 'posterior' must be uint16 shares, got {shares.dtype}.")
    return shares.astype(np.float32) / np.float32(WHOLE)
