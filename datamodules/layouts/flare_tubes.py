"""FLARE22's tubes that are labeled on part of the slices: the other slices are unknown.

The challenge scores aorta, inferior vena cava and oesophagus between their first and last labeled
slice only, because they are not always labeled over their whole length. Beyond those slices their
voxels are labeled background, which would teach and reward the opposite of the truth.
"""

import numpy as np
from nibabel.affines import voxel_sizes
from scipy.ndimage import distance_transform_edt

from datamodules.reading.checks import IGNORED

TUBES = (5, 6, 10)  # aorta, inferior vena cava, oesophagus
_NEAR, _FAR = 10.0, 30.0  # mm


def ignore_beyond(label: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return labels in which background that may be a tube is ignored beyond the tube's slices.

    On a slice at distance d beyond the last labeled one, that is background within
    ``min(10 + d, 30)`` mm, in the plane, of the tube's cross-section on its last labeled slice: a
    cone and then a column about the way the tube may go on. The rest of the slice keeps its labels,
    so that other organs and the background are trained and scored there; labeled organs always
    are. A tube without any voxel has no known end and ignores nothing.

    Args:
        label: uint8 class indices ``(X, Y, Z)``.
        affine: Voxel to mm; slices are along the axis nearest to foot-head.
    """
    axis = int(np.abs(affine[2, :3] / voxel_sizes(affine)).argmax())
    size = voxel_sizes(affine)[[axis, *(a for a in range(3) if a != axis)]]
    amended = label.copy()
    slices, found = np.moveaxis(label, axis, 0), np.moveaxis(amended, axis, 0)
    for tube in TUBES:
        levels = np.flatnonzero((slices == tube).any(axis=(1, 2)))
        if not len(levels):
            continue
        for end, beyond in (
            (levels[0], range(int(levels[0]))),
            (levels[-1], range(int(levels[-1]) + 1, len(slices))),
        ):
            if not beyond:
                continue
            away = distance_transform_edt(slices[end] != tube, sampling=size[1:])
            for level in beyond:
                reach = min(_NEAR + abs(level - int(end)) * size[0], _FAR)
                found[level][(slices[level] == 0) & (away <= reach)] = IGNORED
    return amended
