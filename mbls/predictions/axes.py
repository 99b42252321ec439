"""Order of the axes of stored maps, found by the shapes of the labels."""

import itertools
from collections.abc import Sequence

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from mbls.runtime.errors import PredictionError

__all__ = [
    "ORDERS",
    "common_order",
    "from_ras",
    "from_stored",
    "ras_shape",
    "to_ras",
    "to_stored",
]

RAS = axcodes2ornt(("R", "A", "S"))

ORDERS = ("cxyz", "czyx", "xyzc", "zyxc")
"""Orders of a stored array's axes: the class, and those of a NIfTI label."""


def common_order(
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    orders: Sequence[str],
    channels: int | None,
    names: Sequence[str],
) -> str:
    """Return the one order of axes that fits all maps.

    Args:
        shapes: Shapes of each case's map and label ``(X, Y, Z)``.
        orders: The orders that are possible, the likeliest first.
        channels: Number of channels, if known.
        names: File of each case, for messages.

    Raises:
        PredictionError: A map has another grid, other axes, or another number of classes; or
            several orders fit, and the first of them is not certain.
    """
    left = list(orders)
    for (shape, label), name in zip(shapes, names, strict=True):
        fits = [o for o in left if _fits(shape, label, o, channels)]
        if not fits:
            raise PredictionError(_misfit(shape, label, orders, channels, name))
        left = fits
    counts = {o: {shape[_place(o, shape)] for shape, _ in shapes} for o in left}
    left = [o for o in left if len(counts[o]) == 1]
    if not left:
        found = sorted(counts[orders[0]] if orders[0] in counts else set.union(*counts.values()))
        raise PredictionError(
            f"The maps have different numbers of classes, {', '.join(map(str, found))}. All cases "
            "of one folder must have the same."
        )
    if len(left) > 1:
        raise PredictionError(
            f"The axes of {names[0]} {shapes[0][0]} may be {' or '.join(left)}: all labels' "
            f"shapes, such as {shapes[0][1]}, fit both. Say which, AXES={left[0]} (--axes); "
            "nnU-Net's is czyx."
        )
    return left[0]


def _place(order: str, shape: Sequence[int]) -> int:
    return order.index("c") if len(shape) == 4 else (0 if order[0] == "c" else 2)


def _fits(shape: tuple[int, ...], label: tuple[int, ...], order: str, channels: int | None) -> bool:
    if len(shape) == 3 and label[2] == 1:  # a picture without a third axis
        order = order.replace("z", "")
    if len(shape) != len(order):
        return False
    sizes = dict(zip(order, shape, strict=True))
    known = channels is None or sizes["c"] == channels
    grid = dict(zip("xyz", label, strict=True))
    return known and all(size == grid[axis] for axis, size in sizes.items() if axis != "c")


def _misfit(
    shape: tuple[int, ...],
    label: tuple[int, ...],
    orders: Sequence[str],
    channels: int | None,
    name: str,
) -> str:
    for order in orders:
        if _fits(shape, label, order, None):
            return (
                f"{name} has {shape[_place(order, shape)]} channels, and there are {channels} "
                "classes. State their names or label values, or for overlapping regions "
                '--regions "NAME=VALUE,VALUE ..." (make: REGIONS).'
            )
    head = f"{name} has the shape {shape}, and its label {label}"
    for one in map("".join, itertools.permutations("cxyz")):
        if _fits(shape, label, one, channels):
            return (
                f"{head}: the axes are swapped. They are {one}, and must be "
                f"{' or '.join(orders)}; transpose the array before saving it"
                + (f", or say AXES={one} (--axes)." if one in ORDERS else ".")
            )
    return (
        f"{head}: they are not on one grid. Resample the logits to the label's grid before the "
        "softmax, and export again."
    )


def from_stored(array: np.ndarray, order: str) -> np.ndarray:
    """Return a view ``(C, X, Y, Z)`` of a stored array."""
    if array.ndim == 3:
        array, order = array[..., None], order.replace("z", "") + "z"
    return array.transpose([order.index(axis) for axis in "cxyz"])


def to_stored(probs: np.ndarray, order: str, ndim: int) -> np.ndarray:
    """Return the stored form of an array ``(C, X, Y, Z)``; the inverse of :func:`from_stored`."""
    if ndim == 3:
        probs, order = probs[..., 0], order.replace("z", "")
    return probs.transpose(["cxyz".index(axis) for axis in order])


def ras_shape(grid: Sequence[int], affine: np.ndarray) -> tuple[int, ...]:
    """Return the shape of a volume ``(X, Y, Z)`` after its axes were turned to R, A and S."""
    turned = {int(axis): size for (axis, _), size in zip(_turn(affine), grid, strict=True)}
    return tuple(turned[axis] for axis in range(3))


def from_ras(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return an array ``(C, R, A, S)`` along the axes of a file with an affine."""
    turn = ornt_transform(RAS, _turn(affine))
    return np.moveaxis(apply_orientation(np.moveaxis(array, 0, -1), turn), -1, 0)


def to_ras(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return an array ``(C, X, Y, Z)`` along R, A and S; the inverse of :func:`from_ras`."""
    turn = ornt_transform(_turn(affine), RAS)
    return np.moveaxis(apply_orientation(np.moveaxis(array, 0, -1), turn), -1, 0)


def _turn(affine: np.ndarray) -> np.ndarray:
    found: np.ndarray = io_orientation(affine)
    return found
