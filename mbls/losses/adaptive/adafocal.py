"""AdaFocal: a focal exponent for each bin of confidence, which follows its calibration."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbls.losses._checks import check_above, check_at_least, check_count
from mbls.losses._masking import label_log_probs, labeled, masked_mean, power
from mbls.losses.adaptive.observation import ObservingLoss, pieces

__all__ = ["AdaFocalLoss", "equal_mass_edges", "next_gammas", "signed_focal_map"]

CELLS = 1 << 16  # of the validation's histogram
LOW, HIGH = -8.0, 38.0  # its log-odds; from 37 on a float64 confidence is 1


def signed_focal_map(logits: Tensor, safe: Tensor, gammas: Tensor, edges: Tensor) -> Tensor:
    r"""Return :math:`-(1 - s p_y)^{|g|} \log p_y`, g that of p_y's bin and s its sign.

    A positive exponent is the focal loss, a negative one the inverse focal loss.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.
        gammas: The exponents of the B bins.
        edges: Their B + 1 edges; bin b is ``[edge_b, edge_b+1)``, the outer ones include what is
            outside.

    Returns:
        ``(N, *S)``.
    """
    log_p = label_log_probs(logits, safe)
    gamma = gammas[torch.bucketize(log_p.detach().exp(), edges[1:-1], right=True)]
    rest = torch.where(gamma > 0, -log_p.expm1(), 1 + log_p.exp())
    return -power(rest, gamma.abs()) * log_p


def equal_mass_edges(values: Tensor, counts: Tensor, n_bins: int) -> Tensor:
    """Return the edges between which about equally many samples lie, float64 ``(n_bins + 1,)``.

    The k-th is the sorted samples interpolated at place k N / n_bins of 0 .. N - 1.

    Args:
        values: Ascending, each once.
        counts: How many samples have each value.
        n_bins: Number of bins.

    Example:
        >>> equal_mass_edges(torch.tensor([0.2, 0.6, 1.0]), torch.tensor([1, 1, 2]), 2)
        tensor([0.2000, 1.0000, 1.0000], dtype=torch.float64)
    """
    values, last = values.double(), counts.cumsum(0)
    total = float(last[-1])
    place = torch.arange(n_bins + 1, dtype=torch.float64, device=values.device)
    place = (place * (total / n_bins)).clamp_max(total - 1)
    below, above = (
        values[torch.searchsorted(last, index, right=True)]
        for index in (place.floor(), place.ceil())
    )
    return below + (place - place.floor()) * (above - below)


def next_gammas(
    gammas: Tensor, gaps: Tensor, *, rate: float, switch: float, limits: tuple[float, float]
) -> Tensor:
    """Return the exponents after a validation: over-confidence raises them, in both regimes.

    Args:
        gammas: The exponents of the bins.
        gaps: Mean confidence minus accuracy of each bin.
        rate: How fast they follow.
        switch: Size below which an exponent changes its sign and becomes ``switch`` in size.
        limits: The least and the largest exponent.
    """
    moved = gammas * (rate * gaps * gammas.sign()).exp()
    moved = torch.where(moved.abs() < switch, -switch * moved.sign(), moved)
    return moved.clamp(*limits)


class AdaFocalLoss(ObservingLoss):
    """Focal loss with an exponent for each bin of confidence, which follows its calibration.

    Formula: mean_v -(1 - s p_y)^|g_b| log p_y, b the bin of p_y, s = sign(g_b), g by validation
    Paper: Ghosh et al., NeurIPS 2022, arXiv:2211.11838

    After each validation the bins become those of equal mass of its top-label confidences, and each
    bin's exponent grows with its over-confidence, :func:`next_gammas`; exponents stay with the
    number of a bin, not its place. The confidences are counted in 65536 cells of log-odds, which
    moves an edge by less than a cell, 0.0002 in probability. Published results sum over samples,
    this averages; scale the learning rate where you compare.

    Args:
        n_bins: Number of bins.
        rate: How fast exponents follow.
        gamma: Every exponent at the start.
        switch: Size below which an exponent changes its sign.
        gamma_min: The least exponent.
        gamma_max: The largest exponent.
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Example:
        >>> loss = AdaFocalLoss(2)
        >>> logits = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
        >>> loss.observe(logits, torch.tensor([0, 1, 1]))
        >>> loss.adapt()
        >>> [round(gamma, 2) for gamma in loss.gammas.tolist()]
        [2.41, 2.59]
    """

    voxel_means = frozenset({"focal"})
    gammas: Tensor
    edges: Tensor

    def __init__(
        self,
        n_bins: int = 15,
        *,
        rate: float = 1.0,
        gamma: float = 1.0,
        switch: float = 0.2,
        gamma_min: float = -2.0,
        gamma_max: float = 20.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_count(1, n_bins=n_bins)
        check_at_least(0, rate=rate)
        check_above(0, switch=switch)
        if not (gamma_min <= -switch and switch <= gamma_max):
            raise ValueError(
                f"gamma_min must be <= -switch and gamma_max >= switch={switch:g}, got "
                f"{gamma_min:g} and {gamma_max:g}."
            )
        if not gamma_min <= gamma <= gamma_max or abs(gamma) < switch:
            raise ValueError(
                f"gamma must lie in [{gamma_min:g}, {gamma_max:g}] and be at least "
                f"switch={switch:g} in size, got {gamma:g}."
            )
        self.n_bins, self.rate, self.switch = n_bins, rate, switch
        self.limits = (gamma_min, gamma_max)
        self.register_buffer("gammas", torch.full((n_bins,), gamma, dtype=torch.float64))
        self.register_buffer("edges", torch.linspace(0, 1, n_bins + 1, dtype=torch.float64))

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labeled(target, self.ignore_index)
        values = signed_focal_map(logits, safe, self.gammas.to(logits), self.edges.to(logits))
        return {"focal": masked_mean(values, keep)}

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Count a case's top-label confidences into cells: number, hits, sum of confidences."""
        super().observe(logits, target)
        logits, target = self.prepare(logits, target)
        n, c = logits.shape[:2]
        voxels = math.prod(logits.shape[2:])
        logits, target = logits.reshape(n, c, voxels), target.reshape(n, 1, voxels)
        sums = torch.zeros(3, CELLS, dtype=torch.float64, device=logits.device)
        for at in pieces(logits):
            label = target[at]
            confidence, odds, hits = _top(logits[at], label)
            kept = torch.stack([torch.ones_like(hits), hits, confidence])
            kept = kept.where(label != self.ignore_index, 0)
            place = (odds - LOW) * ((CELLS - 1) / (HIGH - LOW))
            cells = place.nan_to_num(0.0).clamp_(0, CELLS - 1).to(torch.int64)
            sums.index_add_(1, cells.flatten(), kept.flatten(1))
        self.add_sums(sums)

    @torch.no_grad()
    def adapt(self) -> None:
        """Move bins and exponents by what all ranks observed; what is not finite moves none."""
        super().adapt()
        sums = self.take_sums((3, CELLS), self.gammas.device).to(self.gammas.device)
        if not bool(sums.isfinite().all()):
            self.warn("the exponents observed logits that are not finite, and stay")
            return
        counts, hits, confidences = sums[:, sums[0] > 0]
        if not len(counts):
            return
        values = confidences / counts
        edges = equal_mass_edges(values, counts, self.n_bins)
        bins = torch.bucketize(values, edges)  # edge_(b - 1) < value <= edge_b; the least has none
        number, excess = torch.zeros(2, self.n_bins + 1, dtype=torch.float64, device=edges.device)
        number.index_add_(0, bins, counts)
        excess.index_add_(0, bins, confidences - hits)
        gaps = (excess / number.clamp_min(1))[1:]
        moved = next_gammas(
            self.gammas, gaps, rate=self.rate, switch=self.switch, limits=self.limits
        )
        self.gammas.copy_(moved)
        self.edges.copy_(edges)

    def tracked(self, class_keys: Sequence[str]) -> dict[str, Tensor]:
        """Return ``gamma/<bin>``, bins counted from 1."""
        names = [f"gamma/{number:02d}" for number in range(1, self.n_bins + 1)]
        return super().tracked(class_keys) | dict(zip(names, self.gammas, strict=True))


def _top(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the top label's confidence, its log-odds, and 1 for hits (else 0), float64.

    Args:
        logits: ``(n, C, v)``.
        label: ``(n, 1, v)``.

    Returns:
        ``(n, 1, v)`` each. The other classes are summed separately, so that
        log-odds are right where the confidence rounds to 1.
    """
    top, guess = logits.max(dim=1, keepdim=True)
    behind = (logits - top).double()
    others = behind.exp().scatter_(1, guess, 0).sum(dim=1, keepdim=True)
    return 1 / (1 + others), -others.log(), (guess == label).double()
