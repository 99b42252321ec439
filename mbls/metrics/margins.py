"""Voxels within a margin in mm of each predicted structure, counted per volume."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from mbls.metrics._kernel.checks import is_class_map
from mbls.metrics.boxes import bounding_boxes, grown
from mbls.metrics.regions import check_spacing
from mbls.metrics.volumes import VolumeMetric

__all__ = ["MARGINS", "MarginCounts", "margin_mask", "margin_places"]

MARGINS = np.arange(-20, 61) / 2
"""Margins in mm: above 0 a mask is dilated, below 0 eroded, at 0 it is the mask itself."""
_DIGITS = 4  # of a mm: the same voxels for a voxel size in float32 and in float64


def margin_places(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the position in :data:`MARGINS` of the least margin at which each voxel is inside.

    A voxel outside the mask is inside at a margin that reaches the center of the nearest voxel of
    the mask, a voxel of the mask until the margin is below minus its distance to the nearest one
    outside. So masks of larger margins contain those of smaller ones.

    Args:
        mask: Boolean ``S``.
        spacing: Voxel size along each axis in mm.

    Returns:
        Integers ``S``, ``len(MARGINS)`` where none is large enough.
    """
    places = np.full(mask.shape, len(MARGINS), dtype=np.int16)
    if not mask.any():
        return places
    (box,) = bounding_boxes(mask.view(np.int8)).values()
    wider = grown(box, mask.shape, spacing, MARGINS[-1])
    part = mask[wider]
    signed = distance_transform_edt(~part, sampling=spacing)
    if not mask.all():  # else there is no voxel outside to be near to
        # a layer around the volume is no border: what lies there is unknown
        inner = grown(box, mask.shape, spacing, 0)
        depth = distance_transform_edt(mask[inner], sampling=spacing)
        local = tuple(
            slice(i.start - w.start, i.stop - w.start) for i, w in zip(inner, wider, strict=True)
        )
        signed[local] -= depth
    else:
        signed -= np.inf
    places[wider] = np.searchsorted(MARGINS, np.round(signed, _DIGITS))
    return places


def margin_mask(mask: np.ndarray, spacing: Sequence[float], margin: float) -> np.ndarray:
    """Return the voxels within a margin of :data:`MARGINS` of a mask, boolean ``S``."""
    place = int(np.searchsorted(MARGINS, margin))
    inside: np.ndarray = margin_places(mask, spacing) <= place
    return inside


class MarginCounts(VolumeMetric):
    """Count labeled and all voxels within each margin of the predicted class.

    ``compute`` returns int64 ``(cases, classes + unions, margins, 2)``: of voxels within the
    margin, those that are labeled as the structure, and all. The background is zero, as is a
    structure that is not predicted: no margin reaches it.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        num_cases: Number of cases, identified by ``index``.
        unions: Named sets of classes; one is predicted where the predicted class is a member.
        ignore_index: Label of voxels that are not counted.
        kwargs: Settings of :class:`torchmetrics.Metric`.
    """

    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        num_cases: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        zeros = torch.zeros(num_cases, len(self.members), len(MARGINS), 2, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Add volumes; each must be whole.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``, or predicted classes ``(N, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``.
            spacing: Voxel sizes ``(N, len(S))`` in mm.
            index: Case numbers ``(N,)``.

        Raises:
            TypeError: Invalid dtypes of scores or labels.
            ValueError: See :meth:`VolumeMetric.label_maps`; or spacing is missing or not positive.
        """
        maps = self.label_maps(probs, target, index)
        shape = (len(maps), *maps[0].labeled.shape) if maps else (0,)
        steps = check_spacing(spacing, shape, "Margins") if maps else []
        # a mask is that of a prediction, which knows of no voxel to be ignored
        classes = probs if is_class_map(probs) else probs.argmax(dim=1)
        for (case, _, given), chosen, step in zip(maps, classes, steps, strict=True):
            predicted, labeled = chosen.cpu().numpy(), given.cpu().numpy()
            kept = labeled < self.num_classes
            for place, members in enumerate([*self.members.values()][1:], 1):
                counted = _counts(
                    np.isin(predicted, members), np.isin(labeled, members), kept, step
                )
                self.counts[case, place] += torch.from_numpy(counted).to(self.counts.device)

    def scores(self) -> np.ndarray:
        """Return the counts ``(cases, classes + unions, margins, 2)``."""
        return self.counts.cpu().numpy()


def _counts(
    mask: np.ndarray, truth: np.ndarray, kept: np.ndarray, spacing: Sequence[float]
) -> np.ndarray:
    """Return labeled and all voxels within each margin ``(margins, 2)``."""
    places = margin_places(mask, spacing)
    size = len(MARGINS)
    found = [np.bincount(places[chosen], minlength=size)[:size] for chosen in (truth, kept)]
    return np.cumsum(np.stack(found, axis=-1), axis=0, dtype=np.int64)
