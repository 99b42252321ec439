"""Chooses voxel size, normalization and sample size from the files of a dataset.

The rules are those of nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z) in their
plainest form: the median voxel size, a window from the percentiles of the foreground for CT and
z-scores for other modalities, and samples of the median shape as far as the memory allows.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import voxel_sizes

from datamodules.cache.intensity import Normalization
from datamodules.cache.preprocessing import Preprocessing, Window
from datamodules.case import Case, DataError, Problem
from datamodules.layouts.images import listed_cases
from datamodules.parallel import in_parallel
from datamodules.reading.grids import Grid, resampled_grid
from datamodules.reading.volumes import NiftiError, case_grid, read_image, read_label
from datamodules.settings import Sampling
from mbls.runtime.files import replace_file

SMALLEST, HALVINGS = 4, 5  # U-Nets halve an axis to 4 voxels at least, 5 times at most
BUDGETS = {2: 512 * 512, 3: 128 * 128 * 128}  # voxels of a sample, at most
_CT_CASES, _CT_VOXELS = 20, 10_000  # cases and voxels of each that give the window
_CT_PERCENTILES = (0.5, 99.5)  # nnU-Net's
_PLAN_VERSION = 2


@dataclass(frozen=True)
class Plan:
    """What the files of a dataset suggest.

    Attributes:
        cases: Number of cases whose headers were read.
        shape: Median shape in voxels after resampling.
        spacing: Median voxel size in mm.
        normalize: Normalization of each channel.
        window: The window of each channel that is CT, in HU; None if none is.
        patch_size: Size of training samples.
        antialias: Whether a case is downsampled by more than a half.
    """

    cases: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    normalize: tuple[Normalization, ...]
    window: tuple[Window | None, ...] | None
    patch_size: tuple[int, ...]
    antialias: bool

    def fill(
        self, preprocessing: Preprocessing, sampling: Sampling, spatial_dims: int
    ) -> tuple[Preprocessing, Sampling]:
        """Return the settings with the plan in place of ``auto``."""
        if preprocessing.spacing == "auto":
            spacing = self.spacing[:spatial_dims]
            antialias = self.antialias or preprocessing.antialias
            preprocessing = replace(preprocessing, spacing=spacing, antialias=antialias)
        if preprocessing.normalize == "auto":
            alone = len(set(self.normalize)) == 1 and "window" not in self.normalize
            how = self.normalize[0] if alone else self.normalize
            window = preprocessing.window or self.window
            preprocessing = replace(preprocessing, normalize=how, window=window)
        if sampling.patch_size == "auto":
            sampling = replace(sampling, patch_size=self.patch_size)
        return preprocessing, sampling


def make_plan(
    cases: Sequence[Case],
    *,
    channels: Sequence[str],
    background: Sequence[int],
    spatial_dims: Literal[2, 3],
    orientation: str | None,
    voxels: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Plan:
    """Return the plan of a dataset; reads headers, and for CT some of the images.

    Args:
        cases: The cases; those whose headers cannot be read are left out.
        channels: Names of the channels; nnU-Net's names choose the normalization.
        background: Values of the label files that are no foreground.
        spatial_dims: 2 for slices, 3 for volumes.
        orientation: Axis codes to which volumes are turned.
        voxels: Largest number of voxels of a sample; None for :data:`BUDGETS`.
        cache_dir: Folder of all caches, where the plan is kept until a file changes.
        progress: If True, show a progress bar.

    Raises:
        DataError: No header can be read.
    """
    settings = [_PLAN_VERSION, list(channels), list(background), spatial_dims, orientation, voxels]
    file = None if cache_dir is None else cache_dir / "plans" / f"{_key(cases, settings)}.json"
    if file is not None and (known := _read(file)) is not None:
        return known
    results = in_parallel(
        lambda case: _header(case, orientation),
        cases,
        workers=None,
        description="Reading headers",
        progress=progress and len(cases) > 100,
    )
    headers = {case.id: header for case, header in results}
    grids = [grid for grid in headers.values() if not isinstance(grid, NiftiError)]
    if not grids:
        raise DataError(
            Problem(case.id, str(case.images[0]), fault.rule, fault.found, fault.fix)
            for case in cases
            if isinstance(fault := headers[case.id], NiftiError)
        )
    sizes = np.array([voxel_sizes(affine) for _, affine in grids])[:, :spatial_dims]
    median = np.median(sizes, axis=0)
    spacing = tuple(float(f"{size:.6g}") for size in median)
    shapes = np.array([resampled_grid(shape, affine, spacing)[0] for shape, affine in grids])
    shape = tuple(round(n) for n in np.median(shapes, axis=0))
    how = tuple(normalization(name) for name in channels)
    window = None
    if "window" in how:
        window = tuple(
            foreground_window(cases, k, background, progress) if kind == "window" else None
            for k, kind in enumerate(how)
        )
    plan = Plan(
        cases=len(grids),
        shape=shape,
        spacing=spacing,
        normalize=how,
        window=window,
        patch_size=sample_size(shape[:spatial_dims], voxels or BUDGETS[spatial_dims]),
        antialias=bool((median / sizes).max() > 1.5),
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(asdict(plan)).encode())
    return plan


def normalization(channel: str) -> Normalization:
    """Return the normalization of a channel by its name, as nnU-Net chooses it.

    ``CT`` is clipped to a window, ``noNorm`` is left as it is, ``rescale_to_0_1`` is scaled from
    its least to its largest value, ``rgb_to_0_1``, red, green and blue from 0 and 255; any other
    channel has mean 0 and standard deviation 1.
    """
    name = channel.strip().lower()
    if name == "ct":
        return "window"
    if name == "nonorm":
        return "none"
    if name == "rescale_to_0_1":
        return "minmax"
    if name in ("rgb_to_0_1", "red", "green", "blue"):
        return "rgb"
    return "zscore"


def sample_size(shape: Sequence[int], voxels: int) -> tuple[int, ...]:
    """Return the size of training samples for the median shape of the images.

    It is the median shape, rounded up so that a U-Net can halve it; where that has too many voxels,
    the longest axes are shortened first, so that samples of volumes tend to cubes.

    Example:
        >>> sample_size((35, 50, 36), 128**3)
        (40, 56, 40)
        >>> sample_size((512, 512, 300), 128**3)
        (128, 128, 128)
    """
    size = [_multiple(n) * math.ceil(n / _multiple(n)) for n in shape]
    size[0] = max(size[0], 16)  # the least for three levels
    while math.prod(size) > voxels and max(size) > 16:
        longest = max(range(len(size)), key=lambda axis: (size[axis], axis))
        step = _multiple(size[longest] - 1)
        size[longest] = step * math.floor((size[longest] - 1) / step)
    return tuple(size)


def _multiple(size: int) -> int:
    """Return the factor by which a U-Net halves an axis of this size."""
    return max(2**k for k in range(HALVINGS + 1) if k == 0 or size >= SMALLEST * 2**k)


def foreground_window(
    cases: Sequence[Case], channel: int, background: Sequence[int], progress: bool = False
) -> Window:
    """Return the 0.5th and the 99.5th percentile of CT's foreground over some of the cases.

    Without foreground they are those of all voxels.
    """
    rng = np.random.default_rng(0)
    chosen = listed_cases(cases, _CT_CASES)
    results = in_parallel(
        lambda case: _foreground(case, channel, background),
        chosen,
        workers=None,
        description="Reading intensities",
        progress=progress,
    )
    values = {case.id: found for case, found in results if found.size}
    drawn = [
        rng.choice(values[case.id], _CT_VOXELS, replace=values[case.id].size < _CT_VOXELS)
        for case in chosen
        if case.id in values
    ]
    if not drawn:
        raise DataError(
            [
                Problem(
                    "",
                    str(cases[0].images[channel if len(cases[0].images) > 1 else 0].parent),
                    "the window of CT is chosen from cases that can be read",
                    "none",
                    "Give it: --data.init_args.preprocessing.window '[-160, 240]'.",
                )
            ]
        )
    low, high = np.percentile(np.concatenate(drawn), _CT_PERCENTILES)
    return float(f"{low:.6g}"), float(f"{max(high, low + 1):.6g}")


def describe(plan: Plan) -> str:
    """Return the plan in a line for the screen."""
    norms = ", ".join(dict.fromkeys(plan.normalize))
    windows = ", ".join(f"{pair[0]:g} to {pair[1]:g}" for pair in plan.window or () if pair)
    norms = norms.replace("window", f"window {windows}")
    spacing = f"{' x '.join(f'{size:.4g}' for size in plan.spacing)} mm"
    return (
        f"Planned from the headers of {plan.cases} cases, median shape "
        f"{' x '.join(map(str, plan.shape))}: voxel size {spacing}, normalize {norms}, "
        f"patch_size {list(plan.patch_size)}{', antialias' * plan.antialias}."
    )


def _header(case: Case, orientation: str | None) -> tuple[tuple[int, ...], np.ndarray] | NiftiError:
    try:
        shape, _, affine = case_grid(case)
    except NiftiError as error:
        return error  # listed when the case is checked
    grid = Grid(shape, affine, orientation)
    return grid.shape, grid.affine


def _foreground(case: Case, channel: int, background: Sequence[int]) -> np.ndarray:
    """Return intensities of the foreground of a case, or of all voxels if it has none."""
    try:
        path = case.images[channel] if len(case.images) > 1 else case.images[0]
        volume = read_image(path, pixel_size=case.pixel_size, stacked=case.stacked).data
        data = volume[channel if len(case.images) == 1 else 0]
        if case.label is None:
            return data[np.isfinite(data)]
        label = read_label(case.label, pixel_size=case.pixel_size).data
    except NiftiError:
        return np.empty(0, np.float32)
    if label.shape != data.shape or not np.isfinite(data).all():
        return np.empty(0, np.float32)  # listed when the case is checked
    inside = data[~np.isin(label, list(background))]
    return inside if inside.size else data.ravel()


def _key(cases: Sequence[Case], settings: Sequence[object]) -> str:
    """Return the hash of the settings and of how the cases are read from which files."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for case in cases:
        digest.update(f"{case.pixel_size}:{case.stacked};".encode())
        for path in case.sources:
            try:
                stat = path.stat()
            except OSError:
                continue
            digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    return digest.hexdigest()[:20]


def _read(file: Path) -> Plan | None:
    """Return the plan in a file, or None if it is not there or damaged."""
    try:
        content: Mapping[str, object] = json.loads(file.read_text())
        return Plan(**{key: _tuples(value) for key, value in content.items()})
    except (OSError, ValueError, TypeError):
        return None


def _tuples(value: Any) -> Any:
    """Return a value of JSON with tuples in place of lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
