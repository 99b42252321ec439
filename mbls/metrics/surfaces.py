"""Surface distances per volume in mm: 95 % Hausdorff distance and normalized surface Dice.

The distances are monai's; what a missing structure scores is decided here, since 0 mm, which some
evaluators give, would be the best value. A missed structure (labelled, not predicted) scores the
diagonal of the volume in mm, respectively 0; a structure that is not labelled is NaN, left out of
averages and counted.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mbls.metrics.settings import settings_digest
from mbls.metrics.voxels import check_index, check_shapes, check_unions


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


class SurfaceMetric(Metric):
    """Base of the surface metrics: one value for each case, foreground class and union.

    The state ``values`` is float64 ``(cases, classes + unions)``, each entry written once; the
    background's stays NaN in :meth:`compute`. ``scored`` counts how often a case was written.

    Args:
        num_classes: Number of classes, background included.
        unions: Named sets of classes.
        num_cases: Number of cases; ``index`` says which one a volume is.
        ignore_index: Label of voxels that belong to no structure, predicted or labelled.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: For malformed unions or a count of cases below one.
    """

    full_state_update = False
    is_differentiable = False

    values: Tensor
    scored: Tensor
    settings: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        num_cases: int,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unions = check_unions(num_classes, unions)
        if num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, got {num_cases}.")
        self.num_classes, self.num_cases, self.ignore_index = num_classes, num_cases, ignore_index
        shape = (num_cases, num_classes + len(self.unions))
        # Absent structures are kept as -1: a sum over processes would lose NaN's meaning.
        self.add_state("values", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        zeros = torch.zeros(num_cases, dtype=torch.int64)
        self.add_state("scored", zeros, dist_reduce_fx="sum")
        digest = settings_digest(type(self).__name__, num_classes, self.unions, num_cases)
        self.add_state("settings", digest, dist_reduce_fx="max")

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
            ValueError: If shapes do not match, spacing or index is missing, or a case comes twice.
        """
        target = check_shapes(probs, target, self.num_classes)
        numbers = check_index(index, probs.shape[0], self.num_cases) or []
        expected = (probs.shape[0], probs.ndim - 2)
        if spacing is None or tuple(spacing.shape) != expected:
            raise ValueError(
                f"Surface distances are in mm: pass spacing {expected}, got "
                f"{None if spacing is None else tuple(spacing.shape)}."
            )
        for n, number in enumerate(numbers):
            if self.scored[number]:
                raise ValueError(f"Case {number} was scored already; call reset between runs.")
            keep = target[n] != self.ignore_index
            predicted = probs[n].argmax(0)
            members = [(k,) for k in range(1, self.num_classes)] + [*self.unions.values()]
            for channel, classes in enumerate(members, start=1):
                chosen = torch.tensor(classes, device=target.device)
                guess = torch.isin(predicted, chosen) & keep
                truth = torch.isin(target[n].long(), chosen) & keep
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # monai on empty masks, decided above
                    value = self.score(guess, truth, spacing[n].tolist())
                self.values[number, channel] = -1.0 if np.isnan(value) else value
            self.scored[number] += 1

    def scores(self) -> np.ndarray:
        """Return ``(cases, classes + unions)``, NaN for background and absent structures."""
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
        if tolerance < 0:
            raise ValueError(f"tolerance must be at least 0 mm, got {tolerance}.")
        self.tolerance = tolerance
        digest = settings_digest("nsd", tolerance, num_classes, self.unions, self.num_cases)
        self.add_state("settings", digest, dist_reduce_fx="max")

    def score(self, predicted: Tensor, labelled: Tensor, spacing: Sequence[float]) -> float:
        """Return :func:`surface_dice`."""
        return surface_dice(predicted, labelled, spacing, self.tolerance)
