"""A case's grid in its file, its grid in the cache, and the way from one to the other and back."""

from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

Box = tuple[tuple[int, int], ...]  # first and one past the last voxel of each native axis
Shape = tuple[int, ...]

_CERTAIN = 20.0  # logit by which background leads where a volume was cropped away


@dataclass(frozen=True)
class Grid:
    """Crop, then flip and permute axes, then change the voxel size; and all of it undone.

    The axes of the two grids are parallel after the flips, so resampling is one axis after the
    other: linear interpolation between the two neighbors, or the nearest voxel; what is asked for
    beyond the border is the border.

    Attributes:
        native_shape: Shape ``(X, Y, Z)`` of the file.
        native_affine: The file's affine with the true voxel size.
        orientation: Axis codes of the cache's grid; None keeps the file's axes.
        spacing: Voxel size in mm of the first axes after orientation; None keeps it.
        box: The part of the native grid that is kept; None for all of it.
    """

    native_shape: Shape
    native_affine: np.ndarray
    orientation: str | None = None
    spacing: tuple[float, ...] | None = None
    box: Box | None = None

    @property
    def shape(self) -> Shape:
        """Shape on the cache's grid."""
        return self._target[0]

    @property
    def affine(self) -> np.ndarray:
        """Affine of the cache's grid."""
        return self._target[1]

    def forward(self, array: np.ndarray, *, linear: bool, antialias: bool = False) -> Tensor:
        """Bring ``(K, X, Y, Z)`` to the cache's grid.

        Args:
            array: Voxels on the native grid: float32 where ``linear``, else any integers.
            linear: Interpolate linearly; else take the nearest voxel, and keep the type.
            antialias: Where the grid gets coarser by a factor f, smooth first by a Gaussian of
                (f - 1) / 2 voxels (the rule of scikit-image's ``resize``).

        Returns:
            The voxels ``(K, X', Y', Z')``, contiguous.
        """
        if self.box is not None:
            array = array[(slice(None), *(slice(*bounds) for bounds in self.box))]
        flipped = np.flip(array, tuple(i + 1 for i, sign in enumerate(self._signs) if sign < 0))
        oriented = flipped.transpose(0, *(axis + 1 for axis in self._order))
        tensor = torch.from_numpy(np.ascontiguousarray(oriented))
        ratio, offset = self._scaling
        for axis in np.argsort(-ratio, kind="stable"):  # what gets smaller first
            if ratio[axis] == 1:
                continue
            if antialias and linear and ratio[axis] > 1:
                sigma = (ratio[axis] - 1) / 2
                smooth = gaussian_filter1d(tensor.numpy(), sigma, axis + 1, mode="nearest")
                tensor = torch.from_numpy(smooth)
            positions = offset[axis] + ratio[axis] * np.arange(self.shape[axis])
            tensor = _along(tensor, int(axis) + 1, positions, linear=linear)
        return tensor

    def back(self, logits: Tensor) -> Tensor:
        """Bring logits ``(C, X', Y', Z')`` to the native grid, linearly, on their own device.

        Outside the box, background (class 0) leads by 20.

        Raises:
            ValueError: ``logits`` are not on the cache's grid.
        """
        if tuple(logits.shape[1:]) != self.shape:
            raise ValueError(
                f"logits must have the spatial shape {self.shape}, got {tuple(logits.shape[1:])}."
            )
        logits = logits.float()
        ratio, offset = self._scaling
        oriented_shape = self._oriented[0]
        for axis in np.argsort(ratio, kind="stable"):
            if ratio[axis] == 1:
                continue
            positions = (np.arange(oriented_shape[axis]) - offset[axis]) / ratio[axis]
            logits = _along(logits, int(axis) + 1, positions, linear=True)
        native = logits.permute(0, *(int(axis) + 1 for axis in np.argsort(self._order)))
        native = native.flip([axis + 1 for axis, sign in enumerate(self._signs) if sign < 0])
        if self.box is None:
            return native.contiguous()
        whole = native.new_zeros((native.shape[0], *self.native_shape))
        whole[0] = _CERTAIN
        whole[(slice(None), *(slice(*bounds) for bounds in self.box))] = native
        return whole

    @cached_property
    def _cropped(self) -> tuple[Shape, np.ndarray]:
        if self.box is None:
            return self.native_shape, self.native_affine
        affine = self.native_affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [begin for begin, _ in self.box]
        return tuple(end - begin for begin, end in self.box), affine

    @cached_property
    def _turn(self) -> np.ndarray:
        if self.orientation is None:
            return np.array([[0, 1], [1, 1], [2, 1]])
        start = io_orientation(self.native_affine)
        return np.asarray(ornt_transform(start, axcodes2ornt(self.orientation)), dtype=int)

    @property
    def _signs(self) -> list[int]:
        """-1 for each mirrored native axis, else 1."""
        return [int(sign) for sign in self._turn[:, 1]]

    @property
    def _order(self) -> list[int]:
        """For each axis of the cache, the native axis it comes from."""
        return [int(axis) for axis in np.argsort(self._turn[:, 0])]

    @cached_property
    def _oriented(self) -> tuple[Shape, np.ndarray]:
        shape, affine = self._cropped
        turned = tuple(shape[axis] for axis in self._order)
        return turned, affine @ inv_ornt_aff(self._turn, shape)

    @cached_property
    def _target(self) -> tuple[Shape, np.ndarray]:
        return resampled_grid(*self._oriented, self.spacing)

    @cached_property
    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """For each axis, voxels of the oriented grid a voxel of the cache, and where it begins."""
        shape, affine = self._oriented
        ratio = voxel_sizes(self.affine) / voxel_sizes(affine)
        ratio = np.where(np.isclose(ratio, 1, rtol=1e-9), 1.0, ratio)
        return ratio, (np.array(shape) - 1) / 2 - ratio * (np.array(self.shape) - 1) / 2


def resampled_grid(
    shape: Shape, affine: np.ndarray, spacing: tuple[float, ...] | None
) -> tuple[Shape, np.ndarray]:
    """Return shape and affine of a grid with another voxel size and the same center.

    The number of voxels is rounded so that the field of view is kept to half a voxel; an axis
    whose voxel size already agrees to 1e-3 is left as it is.
    """
    size = voxel_sizes(affine)
    target = size.copy()
    if spacing is not None:
        target[: len(spacing)] = spacing
        target = np.where(np.isclose(target, size, rtol=1e-3), size, target)
    ratio = target / size
    count = np.maximum(1, np.rint(np.array(shape) / ratio).astype(int))
    count = np.where(ratio == 1, shape, count)
    change = np.diag([*ratio, 1.0])
    change[:3, 3] = (np.array(shape) - 1) / 2 - ratio * (count - 1) / 2
    return tuple(int(n) for n in count), affine @ change


def axis_codes(affine: np.ndarray) -> str:
    """Return the codes of the directions that the voxel axes point to, such as ``LPS``."""
    return "".join(nib.aff2axcodes(affine))


def _along(tensor: Tensor, axis: int, positions: np.ndarray, *, linear: bool) -> Tensor:
    """Read ``tensor`` at ``positions`` (in voxels) of one axis; beyond the border is the border."""
    last = tensor.shape[axis] - 1
    positions = positions.clip(0, last)

    def take(index: np.ndarray) -> Tensor:
        where = torch.from_numpy(index.astype(np.int64)).to(tensor.device)
        if tensor.dtype != torch.uint16:  # of which torch can select nothing
            return tensor.index_select(axis, where)
        return tensor.view(torch.int16).index_select(axis, where).view(torch.uint16)

    if not linear:
        return take(np.rint(positions))
    low = np.floor(positions)
    share = torch.from_numpy((positions - low).astype(np.float32)).to(tensor.device)
    share = share.view([-1 if i == axis else 1 for i in range(tensor.ndim)])
    return torch.lerp(take(low), take(np.minimum(low + 1, last)), share)
