"""Whether probabilities lie as their label does: equal axes may be swapped, any flipped."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mbls.predictions.classes import Channels

__all__ = ["Agreement", "agreement", "better_turn", "inside"]

_VOXELS = 1 << 22  # compared at most, on a coarser grid
_PLACES = 1 << 17  # labeled voxels that are looked up at most


@dataclass(frozen=True)
class Agreement:
    """How well a label map agrees with probabilities.

    Attributes:
        all: Share of the voxels.
        foreground: Share of those that are foreground in either; 1 if there are none.
    """

    all: float
    foreground: float


def agreement(probs: Tensor, label_map: np.ndarray, channels: Channels) -> Agreement:
    """Return how well a label map ``(*S)`` agrees with that of probabilities ``(C, *S)``."""
    step = _step(label_map.shape)
    given = label_map[tuple([slice(None, None, step)] * label_map.ndim)]
    likely = channels.label_map(_coarse(probs, step))
    background = 0 if channels.regions else channels.values[0][0]
    either, same = (given != background) | (likely != background), given == likely
    return Agreement(float(same.mean()), float(same[either].mean()) if either.any() else 1.0)


def inside(label: Tensor, *, regions: bool) -> Tensor:
    """Return channel and place ``(N, 4)`` of labeled foreground, of at most 2^17 voxels.

    Args:
        label: Classes ``(X, Y, Z)``, or regions ``(R, X, Y, Z)``.
        regions: True for regions.
    """
    step = _step(label.shape[-3:])
    coarse = _coarse(label if regions else label[None], step)
    found = (coarse > 0).nonzero()
    found = found[:: max(1, math.ceil(len(found) / _PLACES))]
    channel = found[:, :1] if regions else coarse[tuple(found.T)][:, None]
    return torch.cat([channel, found[:, 1:] * step], dim=1)


def better_turn(probs: Tensor, places: Tensor) -> tuple[str, float, float] | None:
    """Return the turn of a label that fits probabilities clearly better than the label as it is.

    Clearly is a mean probability of the labeled foreground that is 0.2 higher, and 1.5 times.

    Args:
        probs: Probabilities ``(C, X, Y, Z)``.
        places: Result of :func:`inside`, of the label.

    Returns:
        Name of the turn, and the mean probabilities of the label as it is and turned; or None.
    """
    if not len(places):
        return None
    shape, channel = probs.shape[1:], places[:, 0]
    found = []
    for order, flips in _turns(shape):
        turned = [places[:, 1 + axis] for axis in order]
        turned = [
            size - 1 - one if flip else one
            for one, size, flip in zip(turned, shape, flips, strict=True)
        ]
        found.append((float(probs[channel, *turned].double().mean()), order, flips))
    as_is = found[0][0]
    best, order, flips = max(found, key=lambda one: one[0])
    if best <= as_is + 0.2 or best <= 1.5 * as_is:
        return None
    return _named(order, flips), as_is, best


def _turns(shape: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Yield order and flips of the axes that keep a shape, the label as it is first."""
    orders = [o for o in itertools.permutations(range(3)) if [shape[k] for k in o] == list(shape)]
    flips = [(False, True) if size > 1 else (False,) for size in shape]
    yield from itertools.product(orders, itertools.product(*flips))


def _named(order: Sequence[int], flips: Sequence[bool]) -> str:
    moved = [axis for axis, source in enumerate(order) if axis != source]
    swap = {0: "", 2: f"{' and '.join('XYZ'[k] for k in moved)} swapped"}
    axes = swap.get(len(moved), f"X, Y, Z turned to {', '.join('XYZ'[k] for k in order)}")
    along = [axis for axis, flip in zip("XYZ", flips, strict=True) if flip]
    flipped = f"{' and '.join(along)} flipped" if along else ""
    return ", ".join(part for part in (axes, flipped) if part)


def _step(shape: Sequence[int]) -> int:
    return max(1, math.ceil((math.prod(shape) / _VOXELS) ** (1 / 3)))


def _coarse(array: Tensor, step: int) -> Tensor:
    """Return a view ``(C, *S)`` of every ``step``-th voxel along each axis."""
    return array[:, ::step, ::step, ::step]
