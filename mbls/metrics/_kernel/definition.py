"""Reference implementation of the exact histogram in plain code.

The fast counting (:mod:`mbls.metrics._kernel.counting`) returns the same integers; tests compare
the two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbls.metrics._kernel.counting import NLL_FLOOR
from mbls.metrics._kernel.edges import GRID_CELLS, grid_edges
from mbls.metrics._kernel.fixed_point import FIXED_ONE, LOG_BITS, negative_log, to_fixed
from mbls.metrics._kernel.voxel_inputs import union_probs


def count_cells(
    probs: Tensor, target: Tensor, region: Tensor | str, unions: Sequence[tuple[int, ...]] = ()
) -> tuple[Tensor, Tensor]:
    """Return the exact sums over the voxels of one region.

    Args:
        probs: Probabilities ``(C, L)``.
        target: Labels ``(L,)``, without ignored voxels.
        region: ``"all"``, ``"label"``, ``"union"``, or a mask ``(L,)``.
        unions: Sets of classes.

    Returns:
        int64 ``(1 + C + unions, 61, 3)``: voxels, hits and summed offsets of the confidences from
        the lower edge of the cell (2**-30), for the top label, each class and each union; and
        ``(4,)``: voxels, Brier score (2**-30), negative log-likelihood (2**-26), floored voxels.
    """
    probs = probs if probs.dtype == torch.float64 else probs.float()
    top, predicted = probs.max(0)  # the first of equal classes
    values = torch.cat([top[None], probs, union_probs(probs, unions)])
    is_class = target == torch.arange(len(probs))[:, None]
    in_union = [is_class[list(members)].any(0) for members in unions]
    hits = torch.stack([predicted == target, *is_class, *in_union])

    edges = torch.from_numpy(grid_edges()).float()  # k/60; bins are right-closed
    cells = torch.bucketize(values.float(), edges).clamp(1, GRID_CELLS - 1).where(values > 0, 0)
    offsets = to_fixed(values.double()) - to_fixed(edges.double())[(cells - 1).clamp_min(0)]
    own = probs.gather(0, target[None])[0]
    squares = sum(p.double() ** 2 for p in probs)  # (p - y)^2 over classes: squares - 2 own + 1
    brier = to_fixed(squares) - 2 * to_fixed(own.double()) + FIXED_ONE
    nll = to_fixed(negative_log(own.clamp_min(NLL_FLOOR)).double(), LOG_BITS)

    masks = {"all": target >= 0, "label": target > 0, "union": (target > 0) | (predicted > 0)}
    keep = masks[region] if isinstance(region, str) else region
    counted = torch.zeros(len(values), GRID_CELLS, 3, dtype=torch.int64)
    each = torch.stack([torch.ones_like(cells), hits, offsets], -1)[:, keep]
    counted.scatter_add_(1, cells[:, keep, None].expand(-1, -1, 3), each)
    scores = torch.stack([torch.ones_like(nll), brier, nll, own < NLL_FLOOR], -1)
    return counted, scores[keep].sum(0)
