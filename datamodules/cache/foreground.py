"""Slices and sampled voxels of each class of a case, computed once and stored in the cache."""

import numpy as np

PLACES = 1024  # voxels kept of each class
_SEED = 20250


def class_slices(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a mask of the classes in each slice, bool ``(C, Z)``, from uint8 ``(X, Y, Z)``."""
    found = np.zeros((num_classes, label.shape[2]), dtype=bool)
    for z in range(label.shape[2]):
        counts = np.bincount(label[:, :, z].ravel(), minlength=num_classes)
        found[:, z] = counts[:num_classes] > 0
    return found


def class_places(label: np.ndarray, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """Return voxels of each foreground class, sampled if there are more than 1024.

    Args:
        label: uint8 ``(X, Y, Z)``.
        num_classes: Number of classes, background (which gets no voxels) included.

    Returns:
        uint16 ``(n, 3)``, class after class, and the number of rows of each class.
    """
    label = np.ascontiguousarray(label)
    flat = np.flatnonzero((label > 0) & (label < num_classes))
    classes = label.reshape(-1)[flat]
    rows, counts = [], [0]
    for index in range(1, num_classes):
        where = flat[classes == index]
        if len(where) > PLACES:
            where = np.random.default_rng([_SEED, index]).choice(where, PLACES, replace=False)
            where.sort()
        rows.append(np.stack(np.unravel_index(where, label.shape), axis=1))
        counts.append(len(where))
    return np.concatenate(rows).astype(np.uint16), counts


def pick(share: float, n: int) -> int:
    """Return one of ``n`` numbers from 0 on, by a draw in [0, 1)."""
    return min(int(share * n), n - 1)
