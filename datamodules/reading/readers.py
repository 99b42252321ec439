"""Labels of several readers of one image: their majority, and the share of readers of each class.

A voxel that any reader ignores is ignored.
"""

from __future__ import annotations

import numpy as np

IGNORED = 255  # the value of an ignored voxel on disk; -100 in batches

__all__ = ["majority", "reader_probs", "unite_ignored"]


def unite_ignored(readers: np.ndarray) -> np.ndarray:
    """Ignore in all label maps ``(R, *S)`` uint8 what is ignored in one, in place; return them."""
    ignored = (readers == IGNORED).any(axis=0)
    if ignored.any():
        readers[:, ignored] = IGNORED
    return readers


def majority(readers: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the class of most readers; of equally many, the one with the lowest index.

    Args:
        readers: uint8 ``(R, *S)``, as :func:`unite_ignored` returns them.
        num_classes: Number of classes C.

    Returns:
        uint8 ``(*S,)``, 255 where ignored.

    Example:
        >>> majority(np.array([[0, 1, 2], [1, 1, 1], [0, 2, 0]], np.uint8), 3).tolist()
        [0, 1, 0]
    """
    label = np.zeros(readers.shape[1:], np.uint8)
    most = (readers == 0).sum(axis=0, dtype=np.uint16)
    for index in range(1, num_classes):
        votes = (readers == index).sum(axis=0, dtype=np.uint16)
        more = votes > most
        label[more] = index
        np.maximum(most, votes, out=most)
    label[readers[0] == IGNORED] = IGNORED
    return label


def reader_probs(readers: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the share of readers who labeled each class, float32 ``(C, *S)``.

    Ignored voxels, and background outside the patient, are background.

    Args:
        readers: uint8 ``(R, *S)``, as :func:`unite_ignored` returns them.
        num_classes: Number of classes C.
    """
    probs = np.empty((num_classes, *readers.shape[1:]), np.float32)
    for index in range(1, num_classes):
        votes = (readers == index).sum(axis=0, dtype=np.uint16)
        np.divide(votes, np.float32(len(readers)), out=probs[index])
    probs[0] = 1 - probs[1:].sum(axis=0)
    return probs
