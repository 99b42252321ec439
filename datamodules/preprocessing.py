"""Brings a case from its native grid to the cache's grid, and logits back again."""

import math
import re
import warnings
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, SpatialResample
from nibabel.affines import voxel_sizes
from torch import Tensor

from datamodules.checks import RawCase
from datamodules.posterior import Shares

_ANISOTROPIC = 1.5  # a voxel that much longer on one axis than on the others belongs to a slice
_AXES = ("LR", "PA", "IS")  # of the world, by nibabel's number
_CODES = re.compile(r"(?=.*[LR])(?=.*[AP])(?=.*[SI])[LRAPSI]{3}")


@dataclass(frozen=True)
class Preprocessing:
    """The settings that decide the numbers in the cache.

    Attributes:
        orientation: Axis codes to which volumes are flipped and permuted (closest axes, no
            interpolation), such as ``"LPS"``; None keeps the file's axes.
        spacing: Voxel size in mm of the first axes after orientation; an axis without a value
            keeps its own. None keeps the native grid. Images are resampled linearly, labels and
            posteriors by nearest neighbour; there is no smoothing before a grid gets coarser.
        normalize: ``"zscore"`` (mean 0, standard deviation 1 over the volume) or
            ``"percentile"`` (clipped to two percentiles, then scaled to [0, 1]).
        percentiles: The two percentiles of ``"percentile"``.
        dtype: Type of the images on disk; batches are float32.
    """

    orientation: str | None = "LPS"
    spacing: tuple[float, ...] | None = None
    normalize: Literal["zscore", "percentile"] = "zscore"
    percentiles: tuple[float, float] = (1.0, 99.0)
    dtype: Literal["float16", "float32"] = "float32"

    def __post_init__(self) -> None:
        if self.orientation is not None and not _CODES.fullmatch(self.orientation):
            raise ValueError(
                "orientation must be null or three axis codes, one each of L/R, A/P and S/I, "
                f"got {self.orientation!r}."
            )
        if self.spacing is not None and not all(
            math.isfinite(size) and size > 0 for size in self.spacing
        ):
            raise ValueError(f"spacing must be positive, in mm, got {self.spacing}.")
        if self.normalize not in ("zscore", "percentile"):
            raise ValueError(f"normalize must be zscore or percentile, got {self.normalize!r}.")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within [0, 100], got {self.percentiles}.")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be float16 or float32, got {self.dtype!r}.")


@dataclass(frozen=True)
class PreparedCase:
    """A case on the cache's grid.

    Attributes:
        image: ``(M, X, Y, Z)``, normalised, in the cache's type.
        label: uint8 ``(X, Y, Z)``, or None.
        posterior: uint16 shares ``(C, X, Y, Z)``, or None.
        spacing: Voxel size in mm along x, y and z.
    """

    image: np.ndarray
    label: np.ndarray | None
    posterior: Shares | None
    spacing: tuple[float, float, float]


def slice_fault(affine: np.ndarray, settings: Preprocessing) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if a stack's slices will not lie along the last axis, else None.

    Orientation takes the axis nearest to the last code for the slices' axis. A short-axis stack in
    the patient's coordinates may have its slices nearest to another one, and would be cut across.

    Args:
        affine: The native affine with the true voxel size.
        settings: The settings the case will be prepared with.
    """
    size = voxel_sizes(affine)
    across = int(size.argmax())
    if size[across] < _ANISOTROPIC * np.delete(size, across).max():
        return None  # no stack: slices may be taken along any axis
    codes = settings.orientation
    order = nib.io_orientation(affine)[:, 0]
    last = 2 if codes is None else next(i for i, pair in enumerate(_AXES) if codes[2] in pair)
    if (across if codes is None else int(order[across])) == last:
        return None
    rule = "slices must lie along the last axis" + (f" of orientation {codes}" if codes else "")
    found = f"{size[across]:.4g} mm from slice to slice along {nib.aff2axcodes(affine)[across]}"
    if codes is not None and across == 2:
        return rule, found, "Take the file's own axes with --data.init_args.orientation null."
    fix = "Store the volume with its slices along the third axis"
    return rule, found, f"{fix}." if codes is None else f"{fix}, and take orientation null."


def prepare_case(raw: RawCase, settings: Preprocessing) -> PreparedCase:
    """Orient, resample and normalise a case."""
    image, affine = to_grid(raw.image, raw.affine, settings, mode="bilinear")
    label = posterior = None
    if raw.label is not None:
        # One call for both, so that each voxel's label and posterior come from the same source.
        parts = [raw.label[None]] if raw.posterior is None else [raw.label[None], raw.posterior]
        stack, _ = to_grid(np.concatenate(parts), raw.affine, settings, mode="nearest")
        label = stack[0].numpy().astype(np.uint8)
        posterior = None if raw.posterior is None else stack[1:].numpy().astype(np.uint16)
    normalised = np.stack([normalise(channel, settings) for channel in image.numpy()])
    x, y, z = (float(size) for size in voxel_sizes(affine))
    return PreparedCase(normalised.astype(settings.dtype), label, posterior, (x, y, z))


def normalise(data: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """Return one channel of a volume as float32, normalised over all its voxels."""
    data = data.astype(np.float64)
    if settings.normalize == "zscore":
        return ((data - data.mean()) / max(data.std(), 1e-12)).astype(np.float32)
    low, high = np.percentile(data, settings.percentiles)
    return ((data.clip(low, high) - low) / max(high - low, 1e-12)).astype(np.float32)


def to_grid(
    array: np.ndarray, affine: np.ndarray, settings: Preprocessing, *, mode: str
) -> tuple[Tensor, np.ndarray]:
    """Bring ``(K, X, Y, Z)`` from the native grid to the cache's grid.

    Returns:
        The float32 tensor ``(K, X', Y', Z')`` and its affine.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    oriented = _orient(MetaTensor(tensor, affine=torch.from_numpy(affine)), settings.orientation)
    shape, target = resampled_grid(
        tuple(oriented.shape[1:]), oriented.affine.numpy(), settings.spacing
    )
    out = _resample(oriented, target, shape, mode)
    return out.as_tensor().contiguous(), target


def from_grid(
    logits: Tensor, shape: tuple[int, ...], affine: np.ndarray, settings: Preprocessing
) -> Tensor:
    """Bring logits ``(C, X', Y', Z')`` from the cache's grid back to the native grid, linearly.

    Args:
        logits: Scores on the cache's grid.
        shape: The native shape ``(X, Y, Z)``.
        affine: The native affine with the true voxel size.
        settings: The settings the case was prepared with.

    Raises:
        ValueError: ``logits`` are not on the grid that these settings give.
    """
    reference = MetaTensor(
        torch.zeros((1, *shape), dtype=torch.uint8), affine=torch.from_numpy(affine)
    )
    oriented = _orient(reference, settings.orientation)
    oriented_shape, oriented_affine = tuple(oriented.shape[1:]), oriented.affine.numpy()
    grid, grid_affine = resampled_grid(oriented_shape, oriented_affine, settings.spacing)
    if tuple(logits.shape[1:]) != grid:
        raise ValueError(
            f"logits must have the spatial shape {grid}, got {tuple(logits.shape[1:])}."
        )
    source = MetaTensor(logits.float(), affine=torch.from_numpy(grid_affine))
    back = _resample(source, oriented_affine, oriented_shape, "bilinear")
    codes = "".join(nib.aff2axcodes(affine)) if settings.orientation else None
    return _orient(back, codes).as_tensor().contiguous()


def resampled_grid(
    shape: tuple[int, ...], affine: np.ndarray, spacing: tuple[float, ...] | None
) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of a grid with another voxel size and the same centre.

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


def _orient(tensor: MetaTensor, codes: str | None) -> MetaTensor:
    if codes is None:
        return tensor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # monai warns of a default we do not use
        return Orientation(axcodes=codes)(tensor)


def _resample(
    tensor: MetaTensor, affine: np.ndarray, shape: tuple[int, ...], mode: str
) -> MetaTensor:
    if tuple(tensor.shape[1:]) == shape and np.allclose(tensor.affine.numpy(), affine, atol=1e-9):
        return tensor
    resample = SpatialResample(
        mode=mode, padding_mode="border", align_corners=False, dtype=torch.float64
    )
    return resample(tensor, dst_affine=torch.from_numpy(affine), spatial_size=shape)
