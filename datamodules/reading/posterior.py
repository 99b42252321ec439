"""Posteriors p(label | image) as 16-bit shares of 65535 that add up to 65535 at every voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WHOLE = 65535
Floats = NDArray[np.floating]
Shares = NDArray[np.uint16]


def to_shares(probs: Floats) -> Shares:
    """Return probabilities ``(C, *S)`` as shares.

    They are rounded to the nearest, and the likeliest class takes what is missing to 65535, so no
    probability is off by more than ``C / 2 / 65535``.
    """
    shares = np.empty(probs.shape, dtype=np.uint16)
    for plane in range(probs.shape[1]):  # one at a time: float64 needs four times the memory
        shares[:, plane] = _plane_shares(probs[:, plane])
    return shares


def _plane_shares(probs: Floats) -> Shares:
    shares = np.rint(probs.astype(np.float64) * WHOLE).astype(np.int64)
    likeliest = probs.argmax(axis=0)[None]
    rest = WHOLE - shares.sum(axis=0, keepdims=True)
    top = np.take_along_axis(shares, likeliest, axis=0) + rest
    np.put_along_axis(shares, likeliest, top, axis=0)
    return shares.astype(np.uint16)


def to_probs(shares: Shares) -> Floats:
    """Return shares ``(C, *S)`` as float32 probabilities."""
    return np.true_divide(shares, np.float32(WHOLE), dtype=np.float32)


def save_posterior(path: Path, probs: Floats) -> None:
    """Write ``probs`` ``(C, *S)`` as ``.npz`` with one array, the shares ``posterior``."""
    np.savez_compressed(path, posterior=to_shares(probs))


def load_shares(path: Path) -> Shares:
    """Return the shares ``(C, *S)`` in a file of :func:`save_posterior`.

    Raises:
        ValueError: The file cannot be read, or has no array ``posterior`` of shares.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            shares: Shares = file["posterior"]
    except Exception as error:  # a damaged zip raises a dozen kinds
        raise ValueError(
            f"{path.name} must be an npz file with an array 'posterior' "
            f"({type(error).__name__}: {error})"
        ) from error
    if shares.dtype != np.uint16:
        raise ValueError(f"{path.name}: shares must be uint16, got {shares.dtype}.")
    if (shares.sum(axis=0, dtype=np.int64) != WHOLE).any():
        raise ValueError(f"{path.name}: shares must sum to {WHOLE} at every voxel.")
    return shares


def load_posterior(path: Path) -> Floats:
    """Return the probabilities ``(C, *S)`` float32 that :func:`save_posterior` wrote.

    Raises:
        ValueError: As :func:`load_shares`.
    """
    return to_probs(load_shares(path))
