r"""The expected histogram under a known posterior of the labels, for phantoms.

A voxel with posterior :math:`\pi` has a foreground label with probability :math:`1 - \pi_0`: it
belongs to the region ``"label"`` with that weight, and hits class ``k > 0`` there with
:math:`\pi_k`. The region ``"union"`` contains voxels predicted as foreground with weight 1, and the
others with weight :math:`1 - \pi_0`. With the sums of weights, hits and confidences instead of
counts, the formula of a measured error returns the true one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbls.metrics._kernel.edges import GRID_CELLS, grid_cells
from mbls.metrics._kernel.fixed_point import to_fixed
from mbls.metrics._kernel.voxel_inputs import union_probs
from mbls.runtime.scratch import Scratch

TRUTH_REGIONS = ("all", "label", "union")
"""Regions whose expectation has a closed form; others stay zero."""


def expected_cells(
    probs: Tensor,
    posterior: Tensor,
    keep: Tensor,
    unions: Sequence[tuple[int, ...]],
    regions: Sequence[str],
) -> Tensor:
    """Return the expected sums of one piece.

    Args:
        probs: Probabilities ``(C, L)``.
        posterior: The labels' distribution ``(C, L)``.
        keep: Boolean ``(L,)``: voxels that are not ignored.
        unions: Sets of classes, one channel each after the classes.
        regions: Names of the regions to fill, in order.

    Returns:
        int64 ``(regions, 1 + C + unions, 61, 3)`` in units of 2**-30: weight, hits, confidence
        (not its offset from the edge); channel 0 is the top label.
    """
    if probs.dtype != torch.float64:
        probs = probs.float()
    probs, posterior = probs.clamp(0, 1), posterior.double().clamp(0, 1)
    top, predicted = probs.max(dim=0)
    channels = torch.cat([top[None], probs, union_probs(probs, unions)])
    chosen = posterior.gather(0, predicted[None])
    hits = torch.cat([chosen, posterior, union_probs(posterior, unions)])
    # hits with a foreground label: none for background, also as a member of a union
    labeled = posterior.clone()
    labeled[0] = 0
    inside = torch.cat([chosen * (predicted > 0), labeled, union_probs(labeled, unions)])
    weight = (1 - posterior[0])[None].expand_as(channels)
    guess = (predicted > 0)[None]
    cells = grid_cells(channels, Scratch(probs.device)).long()
    cells += torch.arange(channels.shape[0], device=probs.device)[:, None] * GRID_CELLS
    channels = channels.double()
    size = channels.shape[0] * GRID_CELLS
    result = torch.zeros(len(regions), size, 3, dtype=torch.int64, device=probs.device)
    for r, region in enumerate(regions):
        if region not in TRUTH_REGIONS:
            continue
        if region == "all":
            share, hit = torch.ones_like(channels), hits
        elif region == "label":
            share, hit = weight, inside
        else:
            share, hit = torch.where(guess, 1.0, weight), torch.where(guess, hits, inside)
        for q, values in enumerate((share, hit, share * channels)):
            fixed = to_fixed(values * keep)
            result[r, :, q].scatter_add_(0, cells.reshape(-1), fixed.reshape(-1))
    return result.view(len(regions), channels.shape[0], GRID_CELLS, 3)
