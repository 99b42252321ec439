"""Surface distances per volume in mm: 95 % Hausdorff distance and normalized surface Dice.

Distances are computed by monai. The score of a missing structure is defined here, since the 0 mm
of some evaluators would be the best value: a missed structure (labeled, not predicted) scores the
diagonal of the volume in mm, or an NSD of 0; a structure that is not labeled is NaN, which averages
skip.

Axes are assumed to be orthogonal: with a sheared affine (a CT with a tilted gantry), distances
across the sheared axes are wrong.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbls.metrics.boxes import around, bounding_boxes
from mbls.metrics.regions import check_spacing
from mbls.metrics.volumes import VolumeMetric


class Surfaces(NamedTuple):
    """Distances between the predicted and labeled surface of a labeled structure.

    Attributes:
        diagonal: Diagonal of the volume in mm.
        distances: From each predicted surface voxel to the labeled surface, and vice versa,
            float32 in mm; None if nothing is predicted.
    """

    diagonal: float
    distances: tuple[Tensor, Tensor] | None

    def hausdorff_95(self) -> float:
        """Return the larger 95th percentile of the two directions; the diagonal if missed."""
        if self.distances is None:
            return self.diagonal
        return max(float(torch.quantile(d, 0.95)) for d in self.distances)

    def within(self, tolerance: float) -> float:
        """Return the share of both surfaces at most ``tolerance`` mm from the other; 0 if missed.

        Surface Dice (Nikolov et al. 2018, arXiv:1809.04430), with voxels instead of areas.
        """
        if self.distances is None:
            return 0.0
        near = torch.stack([(d <= tolerance).sum() for d in self.distances]).sum()
        return float(near / sum(len(d) for d in self.distances))


class MeasuredVolume(NamedTuple):
    """One volume: its case number, and the surfaces of each structure (None if not labeled)."""

    case: int
    structures: list[Surfaces | None]


def surfaces_between(
    predicted: np.ndarray, labeled: np.ndarray, spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the distances in mm from one surface to the other, in both directions.

    Args:
        predicted: Boolean volume ``S``, not empty.
        labeled: Boolean volume ``S``, not empty.
        spacing: Voxel size along each axis in mm.
    """
    from monai.metrics.utils import get_edge_surface_distance  # slow import (3 s)

    masks = [torch.from_numpy(mask) for mask in (predicted, labeled)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from monai's own call
        _, distances, _ = get_edge_surface_distance(*masks, spacing=list(spacing), symmetric=True)
    return distances


class SurfaceMetric(VolumeMetric):
    """Base of the surface metrics: one value per case, foreground class and union.

    With ``num_cases``, ``compute`` returns each case's values from the state ``values``, float64
    ``(cases, classes + unions)``; the background is NaN. Each case is scored once; ``scored``
    counts. Without ``num_cases``, it returns the mean over the foreground classes, a scalar.
    """

    values: Tensor
    scored: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None,
        num_cases: int | None,
        ignore_index: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        if num_cases is not None:
            # absent structures are -1, since a sum over processes would spread NaN
            zeros = torch.zeros(num_cases, len(self.members), dtype=torch.float64)
            self.add_state("values", zeros, dist_reduce_fx="sum")
            zeros = torch.zeros(num_cases, dtype=torch.int64)
            self.add_state("scored", zeros, dist_reduce_fx="sum")

    def score(self, surfaces: Surfaces) -> float:
        """Return the value of one labeled structure."""
        raise NotImplementedError

    def measure(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> list[MeasuredVolume]:
        """Return the measurements of :meth:`update`, to share them among metrics.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``, or predicted classes ``(N, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``.
            spacing: Voxel sizes ``(N, len(S))`` in mm.
            index: Case numbers ``(N,)``; required with ``num_cases``.

        Raises:
            TypeError: Invalid dtypes of probabilities or labels.
            ValueError: See :meth:`VolumeMetric.label_maps`; or spacing is missing or not positive.
        """
        maps = self.label_maps(probs, target, index)
        if not maps:
            return []
        shape = (len(maps), *maps[0].labeled.shape)
        steps = check_spacing(spacing, shape, "Surface distances")
        return [
            MeasuredVolume(
                case, self._surfaces(predicted.cpu().numpy(), labeled.cpu().numpy(), step)
            )
            for (case, predicted, labeled), step in zip(maps, steps, strict=True)
        ]

    def _surfaces(
        self, predicted: np.ndarray, labeled: np.ndarray, spacing: Sequence[float]
    ) -> list[Surfaces | None]:
        """Return each structure's surfaces in one volume, measured inside the structure's box."""
        diagonal = float(np.linalg.norm(np.array(labeled.shape) * np.asarray(spacing)))
        guesses, truths = (bounding_boxes(volume + 1) for volume in (predicted, labeled))
        found: list[Surfaces | None] = [None]  # the background has none
        for members in [*self.members.values()][1:]:
            guess, truth = ([b[k + 1] for k in members if k + 1 in b] for b in (guesses, truths))
            if not truth:
                found.append(None)
                continue
            box = around([*guess, *truth])
            mine, theirs = (np.isin(volume[box], members) for volume in (predicted, labeled))
            distances = surfaces_between(mine, theirs, spacing) if guess else None
            found.append(Surfaces(diagonal, distances))
        return found

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
        measured: Sequence[MeasuredVolume] | None = None,
    ) -> None:
        """Add volumes; an invalid batch changes nothing.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``, or predicted classes ``(N, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or whole floats.
            spacing: Voxel sizes ``(N, len(S))`` in mm.
            index: Case numbers ``(N,)``; required with ``num_cases``.
            measured: Result of :meth:`measure` for the same volumes, of this metric or another one
                with the same classes, unions, cases and ``ignore_index``.

        Raises:
            TypeError: Invalid dtypes of probabilities or labels.
            ValueError: See :meth:`measure`; or a case is repeated.
        """
        if measured is None:
            measured = self.measure(probs, target, spacing=spacing, index=index)
        if self.num_cases is not None:
            for case, times in Counter(volume.case for volume in measured).items():
                if times + self.scored[case] > 1:
                    raise ValueError(f"Case {case} was scored already; call reset between runs.")
        for case, structures in measured:
            values = np.array([np.nan if s is None else self.score(s) for s in structures])
            if self.num_cases is None:
                self.average_in(values)
            else:
                kept = torch.from_numpy(np.nan_to_num(values, nan=-1.0))
                kept[0] = 0
                self.values[case] = kept.to(self.values.device)
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


class HausdorffDistance95(SurfaceMetric):
    """95th percentile of the distances between surfaces in mm (HD95); the lower the better.

    The larger of the two directions (Huttenlocher et al. 1993). A structure that is labeled and not
    predicted scores the diagonal of the volume; one that is not labeled is left out. ``compute``
    returns one number for ``log_dict``; :meth:`per_class` has the mean of each class.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        unions: Named sets of classes; one is predicted where the predicted class is a member.
        num_cases: Number of cases, filled by ``index``, each with a row of ``compute``; None
            averages over volumes and foreground classes to one number.
        ignore_index: Label of voxels that are ignored, also in the prediction.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: Invalid unions, ``num_cases`` below 1, or ``ignore_index`` is a class.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.long)
        >>> target[:, 2:5, 2:5] = 1
        >>> metric = HausdorffDistance95(2)
        >>> metric.update(target.roll(1, -1), target, spacing=torch.tensor([[1.0, 3.0]]))
        >>> float(metric.compute())
        3.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        num_cases: int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )

    def score(self, surfaces: Surfaces) -> float:
        """Return :meth:`Surfaces.hausdorff_95`."""
        return surfaces.hausdorff_95()


class NormalizedSurfaceDice(SurfaceMetric):
    """Share of both surfaces at most ``tolerance`` mm from the other (NSD, surface Dice).

    Nikolov et al. 2018, arXiv:1809.04430, with voxels for areas. A structure that is labeled and
    not predicted scores 0; one that is not labeled is left out. ``compute`` returns one number for
    ``log_dict``; :meth:`per_class` has the mean of each class.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        tolerance: Distance in mm up to which surfaces agree.
        unions: Named sets of classes; one is predicted where the predicted class is a member.
        num_cases: Number of cases, filled by ``index``, each with a row of ``compute``; None
            averages over volumes and foreground classes to one number.
        ignore_index: Label of voxels that are ignored, also in the prediction.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``tolerance`` is negative, for malformed unions, a count of cases below one,
            or a class to ignore.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.long)
        >>> target[:, 2:5, 2:5] = 1
        >>> metric = NormalizedSurfaceDice(2, tolerance=3.0)
        >>> metric.update(target.roll(1, -1), target, spacing=torch.tensor([[1.0, 3.0]]))
        >>> float(metric.compute())
        1.0
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(
        self,
        num_classes: int,
        *,
        tolerance: float = 2.0,
        unions: Mapping[str, Sequence[int]] | None = None,
        num_cases: int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0 mm, got {tolerance}.")
        self.tolerance = tolerance
        self.add_settings_state(type(self).__name__, tolerance)

    def score(self, surfaces: Surfaces) -> float:
        """Return :meth:`Surfaces.within` the tolerance."""
        return surfaces.within(self.tolerance)
