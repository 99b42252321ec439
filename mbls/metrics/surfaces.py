"""Surface distances per volume in mm: 95 % Hausdorff distance and normalized surface Dice.

The distances are monai's; what a missing structure scores is decided here, since 0 mm, which some
evaluators give, would be the best value. A missed structure (labelled, not predicted) scores the
diagonal of the volume in mm, respectively 0; a structure that is not labelled is NaN, left out of
averages and counted.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbls.metrics.regions import check_spacing
from mbls.metrics.volumes import VolumeMetric


def hausdorff_95(predicted: Tensor, labelled: Tensor, spacing: Sequence[float]) -> float:
    """Return the 95th percentile of surface distances in mm, the larger of the two directions.

    Args:
        predicted: Boolean volume ``S``.
        labelled: Boolean volume ``S``.
        spacing: Voxel size along each axis in mm.

    Returns:
        NaN if nothing is labelled; the volume's diagonal if nothing is predicted.
    """
    if not labelled.any():
        return float("nan")
    if not predicted.any():
        sides = np.array(labelled.shape) * np.asarray(spacing)
        return float(np.linalg.norm(sides))
    from monai.metrics import compute_hausdorff_distance  # three seconds, only when needed

    value = compute_hausdorff_distance(
        predicted[None, None],
        labelled[None, None],
        include_background=True,
        percentile=95,
        spacing=list(spacing),
    )
    return float(value)


def surface_dice(
    predicted: Tensor, labelled: Tensor, spacing: Sequence[float], tolerance: float
) -> float:
    """Return the share of both surfaces that lies within ``tolerance`` mm of the other.

    Args:
        predicted: Boolean volume ``S``.
        labelled: Boolean volume ``S``.
        spacing: Voxel size along each axis in mm.
        tolerance: Distance in mm up to which surfaces agree.

    Returns:
        NaN if nothing is labelled; 0 if nothing is predicted.
    """
    if not labelled.any():
        return float("nan")
    if not predicted.any():
        return 0.0
    from monai.metrics import compute_surface_dice

    value = compute_surface_dice(
        predicted[None, None],
        labelled[None, None],
        class_thresholds=[tolerance],
        include_background=True,
        spacing=list(spacing),
    )
    return float(value)


class SurfaceMetric(VolumeMetric):
    """Base of the surface metrics: one value for each case, foreground class and union.

    The state ``values`` is float64 ``(cases, classes + unions)``, each entry written once; the
    background's stays NaN in :meth:`compute`. ``scored`` counts how often a case was written.

    Args:
        num_classes: Number of classes, background included.
        kwargs: As :class:`VolumeMetric` takes them, ``num_cases`` among them.
    """

    values: Tensor
    scored: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        # Absent structures are kept as -1: a sum over processes would lose NaN's meaning.
        zeros = torch.zeros(self.num_cases, len(self.members), dtype=torch.float64)
        self.add_state("values", zeros, dist_reduce_fx="sum")
        zeros = torch.zeros(self.num_cases, dtype=torch.int64)
        self.add_state("scored", zeros, dist_reduce_fx="sum")

    def score(self, predicted: Tensor, labelled: Tensor, spacing: Sequence[float]) -> float:
        """Return the value of one structure; NaN where it is not labelled."""
        raise NotImplementedError

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Add volumes ``(N, C, *S)`` and labels ``(N, *S)`` with voxel sizes ``(N, len(S))`` in mm.

        Raises:
            TypeError: If dtypes are not floats and labels.
            ValueError: As :meth:`VolumeMetric.label_maps` does, if spacing is missing or not
                positive, or a case comes twice.
        """
        maps = self.label_maps(probs, target, index)
        shape = (probs.shape[0], *probs.shape[2:])
        steps = check_spacing(spacing, shape, "Surface distances")
        for case, times in Counter(volume.case for volume in maps).items():
            if times + self.scored[case] > 1:
                raise ValueError(f"Case {case} was scored already; call reset between runs.")
        for (case, predicted, labelled), step in zip(maps, steps, strict=True):
            for channel, members in enumerate([*self.members.values()][1:], start=1):
                chosen = torch.tensor(members, device=labelled.device)
                guess, truth = torch.isin(predicted, chosen), torch.isin(labelled, chosen)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # monai on empty masks, decided above
                    value = self.score(guess, truth, step)
                self.values[case, channel] = -1.0 if np.isnan(value) else value
            self.scored[case] += 1

    def scores(self) -> np.ndarray:
        """Return ``(cases, classes + unions)``, NaN for background and absent structures.

        Raises:
            ValueError: If two processes or merged metrics scored the same case.
        """
        if twice := (self.scored > 1).nonzero().flatten().tolist():
            raise ValueError(f"Each case must be scored once, got cases {twice} more often.")
        values = self.values.cpu().numpy().copy()
        values[values < 0] = np.nan
        values[:, 0] = np.nan
        values[self.scored.cpu().numpy() == 0] = np.nan
        return values

    def compute(self) -> Tensor:
        """Return :meth:`scores` as a tensor."""
        return torch.from_numpy(self.scores())


class HausdorffDistance95(SurfaceMetric):
    """95th percentile of surface distances in mm; missed structures score the diagonal."""

    higher_is_better = False

    def score(self, predicted: Tensor, labelled: Tensor, spacing: Sequence[float]) -> float:
        """Return :func:`hausdorff_95`."""
        return hausdorff_95(predicted, labelled, spacing)


class NormalizedSurfaceDice(SurfaceMetric):
    """Share of both surfaces within ``tolerance`` mm of the other; a missed structure scores 0.

    Args:
        num_classes: Number of classes, background included.
        tolerance: Distance in mm up to which surfaces agree.
        kwargs: As :class:`SurfaceMetric` takes them.

    Raises:
        ValueError: If ``tolerance`` is negative.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, *, tolerance: float = 2.0, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0 mm, got {tolerance}.")
        self.tolerance = tolerance
        self.tell_apart(tolerance)

    def score(self, predicted: Tensor, labelled: Tensor, spacing: Sequence[float]) -> float:
        """Return :func:`surface_dice`."""
        return surface_dice(predicted, labelled, spacing, self.tolerance)
