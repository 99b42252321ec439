"""Regions of voxels: by label and prediction, and by distance in mm.

- ``"all"``: every voxel that is not ignored;
- ``"label"``: labeled foreground, the papers' region, blind to false positives;
- ``"union"``: labeled or predicted foreground;
- ``"dilated"``: within ``dilated_mm`` of labeled foreground, the foreground included;
- ``"boundary"``: within ``boundary_mm`` of a voxel with another label.

Distances are between voxel centers. Axes are assumed to be orthogonal: with a sheared affine (a CT
with a tilted gantry), distances across the sheared axes are wrong.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from mbls.metrics.boxes import around, bounding_boxes, common, grown

CODE_REGIONS = ("all", "label", "union")
MASK_REGIONS = ("dilated", "boundary")
REGIONS = CODE_REGIONS + MASK_REGIONS


def check_regions(regions: Sequence[str], **margins: float) -> tuple[str, ...]:
    """Return ``regions`` as a tuple.

    Raises:
        ValueError: If one is unknown or repeated, or a margin is not positive.
    """
    names = tuple(regions)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"regions must name each region once, got {names}.")
    if unknown := [name for name in names if name not in REGIONS]:
        raise ValueError(f"regions must be among {REGIONS}, got {unknown}.")
    for name, value in margins.items():
        if not value > 0:
            raise ValueError(f"{name} must be a positive distance in mm, got {value}.")
    return names


def code_slice(region: str, num_classes: int) -> slice:
    """Return the voxel codes (:mod:`mbls.metrics._kernel.counting`) a region consists of."""
    first = 0 if region not in ("label", "union") else 1
    return slice(first, num_classes if region == "label" else num_classes + 1)


def dilated_mask(
    labels: np.ndarray, spacing: Sequence[float], margin: float, *, ignore_index: int = -100
) -> np.ndarray:
    """Return voxels at most ``margin`` mm from one of labeled foreground, boolean.

    Args:
        labels: Labels ``S`` of any number of axes.
        spacing: Voxel size along each axis in mm.
        margin: Distance in mm.
        ignore_index: Label of ignored voxels.
    """
    foreground = (labels > 0) & (labels != ignore_index)
    near = np.zeros(labels.shape, dtype=bool)
    for box in bounding_boxes(foreground.view(np.int8)).values():
        wider = grown(box, labels.shape, spacing, margin)
        distance = distance_transform_edt(~foreground[wider], sampling=spacing)
        near[wider] = distance <= margin
    return near


def boundary_mask(
    labels: np.ndarray, spacing: Sequence[float], margin: float, *, ignore_index: int = -100
) -> np.ndarray:
    """Return voxels at most ``margin`` mm from one with another label, boolean.

    Ignored voxels have no label and make no boundary. Two such voxels are both in the boxes of
    either label, grown by the margin, so distances are only computed in the intersection of the
    grown boxes of a label and of all others.

    Args:
        labels: Labels ``S`` of any number of axes, at most 32765.
        spacing: Voxel size along each axis in mm.
        margin: Distance in mm.
        ignore_index: Label of ignored voxels.
    """
    numbers = labels.astype(np.int16) + np.int16(1)
    numbers[labels == ignore_index] = 0
    near = np.zeros(labels.shape, dtype=bool)
    boxes = bounding_boxes(numbers)
    for number, box in boxes.items():
        others = [other for n, other in boxes.items() if n != number]
        if not others:
            continue
        wider = (grown(b, labels.shape, spacing, margin) for b in (box, around(others)))
        both = common(*wider)
        part = numbers[both]
        own = part == number
        inside = own | (part == 0)
        if not inside.all():
            near[both] |= own & (distance_transform_edt(inside, sampling=spacing) <= margin)
    return near


def check_spacing(
    spacing: Tensor | None, shape: Sequence[int], wanted_for: str
) -> list[list[float]]:
    """Return the voxel sizes of each volume in mm.

    Args:
        spacing: ``(N, len(S))``.
        shape: Shape of the labels ``(N, *S)``.
        wanted_for: Start of the error message: the metric or regions that need it.

    Raises:
        ValueError: If ``spacing`` is missing, of another shape, or not positive and finite.
    """
    expected = (shape[0], len(shape) - 1)
    found = None if spacing is None else spacing.tolist()
    if (
        spacing is None
        or tuple(spacing.shape) != expected
        or not all(0 < mm < math.inf for row in found or [] for mm in row)
    ):
        raise ValueError(
            f"{wanted_for} are measured in mm: pass spacing {expected} with positive voxel sizes, "
            f"got {found}."
        )
    return found or []


def region_masks(
    target: Tensor,
    spacing: Tensor | None,
    regions: Sequence[str],
    *,
    dilated_mm: float,
    boundary_mm: float,
    ignore_index: int,
) -> Tensor:
    """Return the masks of the distance regions as bits, in the order of :data:`MASK_REGIONS`.

    Args:
        target: Labels ``(N, *S)``.
        spacing: ``(N, len(S))`` in mm.
        regions: Names of regions; those without distances are skipped.
        dilated_mm: Margin of ``"dilated"``.
        boundary_mm: Margin of ``"boundary"``.
        ignore_index: Label of ignored voxels.

    Returns:
        float32 ``(N, 1, *S)``: the sum of ``2**i`` over the requested distance regions ``i``.

    Raises:
        ValueError: If ``spacing`` is missing, of another shape, or not positive and finite.
    """
    wanted = [r for r in regions if r in MASK_REGIONS]
    steps = check_spacing(spacing, target.shape, f"Regions {wanted}")
    bits = torch.zeros(target.shape, dtype=torch.float32)
    for n, step in enumerate(steps):
        # invalid labels are rejected when they are counted
        narrow = target[n].to(torch.int16).masked_fill_(target[n] == ignore_index, -1)
        labels = narrow.cpu().numpy()
        masks = []
        if "dilated" in regions:
            masks.append(dilated_mask(labels, step, dilated_mm, ignore_index=-1))
        if "boundary" in regions:
            masks.append(boundary_mask(labels, step, boundary_mm, ignore_index=-1))
        for bit, mask in enumerate(masks):
            bits[n] += torch.from_numpy(mask.astype(np.float32)) * (1 << bit)
    return bits[:, None].to(target.device)
