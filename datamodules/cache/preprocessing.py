"""Settings of the cache, and preprocessing of a case from its files' grid to the cache's."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from datamodules.cache.intensity import NORMALIZATIONS, Normalization, box_above, normalize
from datamodules.reading.checks import RawCase
from datamodules.reading.grids import Box, Grid, axis_codes
from datamodules.reading.posterior import Shares

Window = tuple[float, float]
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
            posteriors by nearest neighbor. ``"auto"``: the median of the cases, for datasets that
            choose it from their files (:mod:`datamodules.plan`).
        normalize: How intensities are normalized, each modality by itself, on the cache's grid;
            see :func:`~datamodules.cache.intensity.normalize`. One for all, one for each, or
            ``"auto"``: by the names of the modalities.
        percentiles: The two percentiles of ``"percentile"``.
        window: The two values of ``"window"``, in the file's units (HU for CT), or a pair for each
            modality, None for those with another normalization.
        crop_above: Volumes are cropped to the box of the voxels above this value in any modality:
            0 for skull-stripped images, some -500 HU for the body; None keeps all.
        antialias: If True, smooth images before downsampling; see
            :meth:`~datamodules.reading.grids.Grid.forward`. Labels and posteriors never are.
        dtype: Type of the images in the cache; batches are float32.
    """

    orientation: str | None = "LPS"
    spacing: tuple[float, ...] | Literal["auto"] | None = None
    normalize: Normalization | tuple[Normalization, ...] | Literal["auto"] = "zscore"
    percentiles: tuple[float, float] = (1.0, 99.0)
    window: Window | tuple[Window | None, ...] | None = None
    crop_above: float | None = None
    antialias: bool = False
    dtype: Literal["float16", "float32"] = "float32"

    def __post_init__(self) -> None:
        if self.orientation is not None and not _CODES.fullmatch(self.orientation):
            raise ValueError(
                "orientation must be null or three axis codes, one each of L/R, A/P and S/I, "
                f"got {self.orientation!r}."
            )
        if isinstance(self.spacing, tuple) and not all(
            math.isfinite(size) and size > 0 for size in self.spacing
        ):
            raise ValueError(f"spacing must be positive, in mm, got {self.spacing}.")
        hows = self.normalize if isinstance(self.normalize, tuple) else (self.normalize,)
        if not hows or not set(hows) <= {*NORMALIZATIONS, "auto"}:
            known = " or ".join(NORMALIZATIONS)
            raise ValueError(f"normalize must be {known}, got {self.normalize!r}.")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within [0, 100], got {self.percentiles}.")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be float16 or float32, got {self.dtype!r}.")
        if "auto" not in hows and any(
            (self.window_of(k) is None) == (how == "window") for k, how in enumerate(hows)
        ):
            raise ValueError(
                "window must be given for normalize: window, and for nothing else, got "
                f"{self.window} with {self.normalize}."
            )
        for pair in self._windows:
            if pair is not None and not (all(map(math.isfinite, pair)) and pair[0] < pair[1]):
                raise ValueError(f"window must be two finite values that rise, got {pair}.")
        if self.crop_above is not None and not math.isfinite(self.crop_above):
            raise ValueError(f"crop_above must be null or finite, got {self.crop_above}.")

    def grid(self, shape: tuple[int, ...], affine: np.ndarray, box: Box | None = None) -> Grid:
        """Return the way from a native grid, or from a box in it, to the cache's grid."""
        if self.spacing == "auto":
            raise ValueError("spacing must be resolved by a dataset that chooses it, got auto.")
        return Grid(tuple(shape), affine, self.orientation, self.spacing, box)

    def normalization_of(self, channel: int) -> Normalization:
        """Return the normalization of a channel."""
        how = self.normalize[channel] if isinstance(self.normalize, tuple) else self.normalize
        if how == "auto":
            raise ValueError("normalize must be resolved by a dataset that chooses it, got auto.")
        return how

    def window_of(self, channel: int) -> Window | None:
        """Return the window of a channel, None if it is not normalized by one."""
        if len(self._windows) > 1:
            return self._windows[channel] if channel < len(self._windows) else None
        by_window = not isinstance(self.normalize, tuple) or self.normalize[channel] == "window"
        return self._windows[0] if by_window else None

    @property
    def _windows(self) -> Sequence[Window | None]:
        """The window of each modality, or one of all."""
        if self.window is None or isinstance(self.window[0], int | float):
            return (self.window,)
        return cast("Sequence[Window | None]", self.window)

    def box(self, image: np.ndarray) -> Box | None:
        """Return the box that ``(M, X, Y, Z)`` is cropped to, None where nothing is cropped."""
        return None if self.crop_above is None else box_above(image, self.crop_above)


@dataclass(frozen=True)
class PreparedCase:
    """A case on the cache's grid.

    Attributes:
        image: ``(M, X, Y, Z)``, normalized, in the cache's type.
        label: uint8 ``(X, Y, Z)``, or None.
        posterior: uint16 shares ``(C, X, Y, Z)``, or None.
        spacing: Voxel size in mm along x, y and z.
        box: The part of the native grid that was kept, or None for all of it.
        readers: uint8 ``(R, X, Y, Z)``, the labels of several readers, or None.
    """

    image: np.ndarray
    label: np.ndarray | None
    posterior: Shares | None
    spacing: tuple[float, float, float]
    box: Box | None = None
    readers: np.ndarray | None = None


def slice_fault(affine: np.ndarray, settings: Preprocessing) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if a stack's slices are not along the last axis, else None.

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
    rule = "slices must be along the last axis" + (f" of orientation {codes}" if codes else "")
    found = f"{size[across]:.4g} mm from slice to slice along {axis_codes(affine)[across]}"
    if codes is not None and across == 2:
        return (
            rule,
            found,
            ("Take the file's own axes with --data.init_args.preprocessing.orientation null."),
        )
    fix = "Store the volume with its slices along the third axis"
    return rule, found, f"{fix}." if codes is None else f"{fix}, and take orientation null."


def prepare_case(raw: RawCase, settings: Preprocessing) -> PreparedCase:
    """Crop, orient, resample and normalize a case, one modality at a time."""
    box = settings.box(raw.image)
    grid = settings.grid(raw.image.shape[1:], raw.affine, box)
    image = np.empty((len(raw.image), *grid.shape), dtype=settings.dtype)
    for number, (channel, voxels) in enumerate(zip(image, raw.image, strict=True)):
        resampled = grid.forward(voxels[None], linear=True, antialias=settings.antialias)
        channel[...] = normalize(
            resampled[0].numpy(),
            settings.normalization_of(number),
            percentiles=settings.percentiles,
            window=settings.window_of(number),
        )
    label = posterior = readers = None
    if raw.label is not None:
        label = grid.forward(raw.label[None], linear=False)[0].numpy()
    if raw.posterior is not None:
        posterior = grid.forward(raw.posterior, linear=False).numpy()
    if raw.readers is not None:
        readers = grid.forward(raw.readers, linear=False).numpy()
    x, y, z = (float(size) for size in voxel_sizes(grid.affine))
    return PreparedCase(image, label, posterior, (x, y, z), box, readers)
