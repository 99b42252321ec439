"""Constraints on the logits, a multiplier for each group of voxels, and how it moves.

One mechanism: a constraint, a penalty of it (``constraints.py``, ``penalty_functions.py``) and a
grouping of voxels define the loss; a subclass updates the multipliers from observations.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mbls.losses._checks import check_above, check_count, check_one_of
from mbls.losses._masking import is_labeled
from mbls.losses._neighborhood import Border, Neighborhood, mixed_windows
from mbls.losses.adaptive.constraints import Constraint
from mbls.losses.adaptive.observation import ObservingLoss, pieces
from mbls.losses.adaptive.penalty_functions import PenaltyFunction, penalized
from mbls.losses.penalty import PenaltyLoss

__all__ = ["REGIONS", "Groups", "MultiplierLoss", "Observed", "Statistics"]

Groups = Literal["class", "region"]
Statistics = Literal["all", "region", "active"]

REGIONS = ("boundary", "inner")


@dataclass(frozen=True)
class Observed:
    """What a validation showed of each group ``(R, C)``, on the host's side of a reduction.

    Args:
        statistic: Mean of what the multipliers follow.
        constraint: Mean of h.
        present: True if the group has voxels, and its means are finite.
    """

    statistic: Tensor
    constraint: Tensor
    present: Tensor


class MultiplierLoss(ObservingLoss, PenaltyLoss):
    """A base loss plus penalized constraints whose multipliers adapt; see the module.

    Before the number of classes is known the multipliers are what they start from, one for all.
    Soft labels are taken unless regions or the constraint look at the labels of neighbors.

    Args:
        num_classes: C; None until :meth:`bind`.
        constraint: One number h <= 0 for each class.
        penalty: What a violation costs.
        start: The multipliers at the start.
        limits: The least and the largest multiplier.
        weight: Rho at the start.
        groups: ``"class"`` gives each class a multiplier, ``"region"`` each class two, for
            boundary and inner voxels.
        statistics: Over which voxels a group's means go: ``"all"`` of them, those of other groups
            with h = 0, as published; those of the group's ``"region"``; or the ``"active"`` ones
            among those, where lambda + rho h > 0.
        kernel_size: Odd width of the window that defines the regions.
        border: What lies outside the image, ``"replicate"`` or ``"background"``.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.
    """

    soft_targets = True
    multipliers: Tensor
    weights: Tensor
    previous: Tensor
    seen: Tensor
    bounded: Tensor
    epochs: Tensor

    def __init__(
        self,
        num_classes: int | None,
        constraint: Constraint,
        penalty: PenaltyFunction,
        *,
        start: float,
        limits: tuple[float, float],
        weight: float = 1.0,
        groups: Groups = "class",
        statistics: Statistics = "all",
        kernel_size: int = 3,
        border: Border = "replicate",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_one_of(("class", "region"), groups=groups)
        check_one_of(("all", "region", "active"), statistics=statistics)
        check_one_of(("replicate", "background"), border=border)
        check_count(1, odd=True, kernel_size=kernel_size)
        check_above(0, lambda_min=limits[0])
        check_above(limits[0], lambda_max=limits[1])
        self.num_classes = num_classes
        self.constraint = constraint
        self.soft_targets = groups == "class" and not constraint.looks_around
        self.penalty_function = penalty
        self.limits = limits
        self.groups: Groups = groups
        self.statistics: Statistics = statistics
        self.window = Neighborhood("mean", kernel_size, 1.0, border, self.ignore_index)
        shape = (2 if groups == "region" else 1, 1)
        for name, value in {"multipliers": start, "weights": weight, "previous": 0.0}.items():
            self.register_buffer(name, torch.full(shape, value, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("bounded", torch.zeros(shape, dtype=torch.bool), persistent=False)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        if num_classes is not None:
            self._grow(num_classes)

    # What a subclass adds.

    @abstractmethod
    def statistic(self, h: Tensor, multiplier: Tensor, weight: Tensor) -> Tensor:
        """Return what the multipliers follow, voxel by voxel, shape of ``h``."""

    @property
    def ceiling(self) -> float:
        """Upper limit of a voxel's statistic; by default none."""
        return math.inf

    @abstractmethod
    def move(self, observed: Observed) -> None:
        """Change the buffers of the groups that are present, in place.

        A validation runs in inference mode, whose new tensors no training may touch.
        """

    # The contract of an adaptive loss.

    def bind(self, num_classes: int) -> None:
        """Give each class its multipliers.

        Raises:
            ValueError: Another number than the loss was made or bound for.
        """
        super().bind(num_classes)
        if self.num_classes is None:
            self._grow(num_classes)
        self.num_classes = self.num_classes or num_classes
        if self.num_classes != num_classes:
            raise ValueError(
                f"{type(self).__name__} has multipliers for num_classes={self.num_classes}, the "
                f"data have {num_classes} classes. Leave num_classes out, or give {num_classes}."
            )

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the constraint's term: the mean of its penalties over classes and regions."""
        self._check_classes(logits)
        goal, boundary = self._labels(logits, target)
        h = self.constraint.values(logits, goal)
        lam, rho = self._by_voxel(logits, boundary)
        values = penalized(h, lam, rho, self.penalty_function).mean(dim=1) / len(self.multipliers)
        return {self.constraint.name: self.voxel_mean(values, target)}

    def voxel_mean_terms(self) -> set[str]:
        """Return the base's and the constraint's."""
        return super().voxel_mean_terms() | {self.constraint.name}

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Add a case's sums of the statistic and of h, and numbers of voxels.

        Raises:
            ValueError: The number of classes is not known yet.
        """
        super().observe(logits, target)
        if self.num_classes is None:
            raise ValueError(
                f"{type(self).__name__} cannot observe before it knows the number of classes: call "
                f"bind({logits.shape[1]}), or give num_classes={logits.shape[1]}."
            )
        logits, target = self.prepare(logits, target)
        self._check_classes(logits)
        goal, boundary = self._labels(logits, target)
        keep = is_labeled(target, self.ignore_index)
        regions = [keep]
        if boundary is not None and self.groups == "region":
            regions = [keep & boundary, keep & ~boundary]
        sums = torch.zeros(self._shape, dtype=torch.float64, device=logits.device)
        n, c = logits.shape[:2]
        flat = (n, c, math.prod(logits.shape[2:]))
        logits, goal = logits.reshape(flat), None if goal is None else goal.view(flat)
        regions = [region.reshape(n, 1, flat[2]) for region in regions]
        for at in pieces(logits):
            h = self.constraint.values(logits[at], None if goal is None else goal[at])
            for row, region in enumerate(regions):
                sums[:, row] += self._group_sums(h, region[at], row)
        self.add_sums(sums)

    @torch.no_grad()
    def adapt(self) -> None:
        """Move the multipliers by what all ranks observed; what is not finite moves none."""
        super().adapt()
        sums = self.take_sums(self._shape, self.multipliers.device).to(self.multipliers.device)
        *behind_means, cut = sums
        observed = self._means(*behind_means)
        self.move(observed)
        self.seen += observed.present
        self.epochs += 1
        self._warn(~sums[:2].isfinite().all(0), "observed logits that are not finite, and stay")
        bounded = (cut > 0) | (self.multipliers >= self.limits[1])
        self._warn(bounded & ~self.bounded, f"are bounded by lambda_max={self.limits[1]:g}")
        self.bounded |= bounded

    def tracked(self, class_keys: Sequence[str]) -> dict[str, Tensor]:
        """Return ``lambda/<class>``, with regions ``lambda/<class>/<region>``."""
        return super().tracked(class_keys) | self.by_class("lambda", self.multipliers, class_keys)

    def by_class(self, name: str, rows: Tensor, class_keys: Sequence[str]) -> dict[str, Tensor]:
        """Name the entries of a buffer ``(R, C)``."""
        ends = [f"/{region}" for region in REGIONS] if len(rows) == 2 else [""]
        return {
            f"{name}/{key}{end}": rows[row, k]
            for k, key in enumerate(class_keys)
            for row, end in enumerate(ends)
        }

    # Private.

    @property
    def _shape(self) -> tuple[int, ...]:
        return 5, *self.multipliers.shape

    def _grow(self, num_classes: int) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be >= 2 (background included), got {num_classes}.")
        for name in ("multipliers", "weights", "previous", "seen", "bounded"):
            setattr(self, name, getattr(self, name).expand(-1, num_classes).contiguous())

    def _check_classes(self, logits: Tensor) -> None:
        if self.num_classes not in (None, logits.shape[1]):
            raise ValueError(
                f"logits must have {self.num_classes} classes, those of the multipliers, got "
                f"{tuple(logits.shape)}."
            )

    def _labels(self, logits: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the constraint's goal and the boundary, where they matter."""
        if self.groups == "class" and not self.constraint.looks_around:
            return None, None
        window = self.window
        boundary = mixed_windows(
            target, kernel_size=window.size, border=window.border, ignore_index=window.ignore_index
        )
        if not self.constraint.looks_around:
            return None, boundary
        shares = window.shares(target, logits.shape[1], logits.dtype)
        return self.constraint.goal(shares, boundary), boundary

    def _by_voxel(self, logits: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return lambda and rho, per voxel if needed, in shapes that broadcast to the logits."""
        shape = (-1, 1, self.multipliers.shape[1], *[1] * (logits.ndim - 2))
        lam, rho = (each.to(logits).view(shape) for each in (self.multipliers, self.weights))
        if boundary is None or self.groups == "class":
            return lam[0], rho[0]
        near = boundary.unsqueeze(1)
        return torch.where(near, lam[0], lam[1]), torch.where(near, rho[0], rho[1])

    def _group_sums(self, h: Tensor, members: Tensor, row: int) -> Tensor:
        """Sum up over one region's voxels of a piece: ``(5, C)``."""
        lam, rho = (rows[row].to(h).view(1, -1, 1) for rows in (self.multipliers, self.weights))
        counted = members.expand_as(h)
        if self.statistics == "active":
            counted = counted & (lam + rho * h > 0)
        statistic = self.statistic(h, lam, rho)
        means = (statistic.where(counted, 0), h.where(counted, 0))
        numbers = (counted, members.expand_as(h), counted & (statistic >= self.ceiling))
        return torch.stack([maps.sum(dim=(0, 2), dtype=torch.float64) for maps in means + numbers])

    def _means(self, statistic: Tensor, h: Tensor, counted: Tensor, voxels: Tensor) -> Observed:
        """Divide the reduced sums ``(R, C)``."""
        if self.statistics == "all":
            total = voxels.sum(dim=0, keepdim=True).expand_as(voxels)
            elsewhere = self.statistic(torch.zeros_like(h), self.multipliers, self.weights)
            statistic = statistic + (total - voxels) * elsewhere
            counted = voxels = total
        number = counted.clamp_min(1)
        present = (voxels > 0) & statistic.isfinite() & h.isfinite()
        return Observed(statistic / number, h / number, present)

    def _warn(self, which: Tensor, what: str) -> None:
        """Warn of groups; once an epoch, on the host."""
        if not bool(which.any()):
            return
        places = which.nonzero().tolist()
        names = [f"{k}" + (f" ({REGIONS[row]})" if len(which) == 2 else "") for row, k in places]
        self.warn(f"the multipliers of class {', '.join(names)} {what}")
