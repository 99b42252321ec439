"""Published arithmetic that no histogram can give: a few lines each, on every voxel, in float64.

``confidence`` and ``hits`` are ``(voxels,)``; what the codes differ in is where they cut the sorted
confidences, so a cut gives each voxel's bin and the formulas are shared.
"""

from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_erosion


def table(bins, confidence, hits, n_bins):
    """Voxels, hits and summed confidences ``(3, n_bins)``; bin -1 counts nowhere."""
    inside = bins >= 0
    weights = np.stack([np.ones(len(bins)), hits, confidence])[:, inside]
    return np.stack([np.bincount(bins[inside], w, n_bins) for w in weights])


def l1_error(count, hits, confidence, total=None):
    return np.abs(hits - confidence).sum() / (total or count.sum())


def l2_square(count, hits, confidence, debiased=False):
    """Mean squared gap; debiased as by Kumar et al. 2019, bins of one voxel left out."""
    n = np.maximum(count, 1)
    square, spread = ((hits - confidence) / n) ** 2, hits / n * (1 - hits / n)
    if debiased:
        square = np.where(count > 1, square - spread / np.maximum(count - 1, 1), 0)
    return (count * square).sum() / count.sum()


def interpolated_cuts(confidence, n_bins):
    """Margin-based codes: edges between neighbors, ``(lo, hi]``; the smallest is in no bin."""
    n = len(confidence)
    edges = np.interp(np.linspace(0, n, n_bins + 1), np.arange(n), np.sort(confidence))
    bins = np.searchsorted(edges, confidence) - 1
    return np.where(bins < n_bins, bins, -1)


def halfway_cuts(confidence, n_bins):
    """verified_calibration: edges halfway between neighbors of ``array_split``, ``(lo, hi]``."""
    parts = np.array_split(np.sort(confidence), n_bins)
    edges = [(a[-1] + b[0]) / 2 for a, b in pairwise(parts)]
    return np.searchsorted(edges, confidence)


def rounded_cuts(confidence, n_bins):
    """robustness_metrics: edges at rounded ranks, ``[lo, hi)``."""
    ranks = np.round(np.linspace(0, len(confidence), n_bins, endpoint=False)).astype(int)
    return np.digitize(confidence, np.sort(confidence)[ranks][1:])


def stepped_cuts(confidence, n_bins):
    """MDCA: an edge each ``N // n_bins`` voxels, the last 1; the smallest is in no bin."""
    step = len(confidence) // n_bins
    edges = np.append(np.sort(confidence)[: n_bins * step : step], 1.0)
    return np.searchsorted(edges, confidence) - 1


def open_cuts(confidence, n_bins):
    """torchmetrics: equal width, ``[lo, hi)``, and one more bin for exactly 1."""
    edges = np.linspace(0, 1, n_bins + 1, dtype=np.float32)
    return np.searchsorted(edges, confidence.astype(np.float32), side="right") - 1


def closed_cuts(confidence, n_bins):
    """Margin-based codes: equal width, ``(lo, hi]``; a probability of 0 is in no bin."""
    return np.ceil(confidence * n_bins).astype(int) - 1


def sweep(confidence, hits, mass):
    """Most bins before accuracies stop rising, and their error (Roelofs et al., arXiv:2012.08668).

    ``mass`` cuts at equal counts, otherwise at equal widths.
    """
    order = np.argsort(confidence, kind="stable")
    confidence, hits, n = confidence[order], hits[order], len(order)
    best = (1, abs((hits - confidence).sum()) / n)
    for n_bins in range(2, n):
        place = np.arange(n) / n if mass else confidence
        bins = np.minimum((place * n_bins).astype(int), n_bins - 1)
        count, hit, summed = table(bins, confidence, hits, n_bins)
        if (np.diff(hit[count > 0] / count[count > 0]) < 0).any():
            break
        best = n_bins, l1_error(count, hit, summed)
    return best


def neighborhood_brier(probs, labels):
    """CRaC: squared distance to the classes' shares of a 3x3 window, outside counting as class 0.

    ``probs`` is ``(N, C, H, W)``, the mean is over labeled foreground.
    """
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    shares = np.stack([(windows == k).mean((-1, -2)) for k in range(probs.shape[1])], 1)
    return ((probs - shares) ** 2).sum(1)[labels != 0].mean()


def surface(mask):
    return np.argwhere(mask & ~binary_erosion(mask))


def hd95_in_voxels(predicted, labeled):
    """One percentile of both directions together, no spacing; 0 where one is missing."""
    if not predicted.any() or not labeled.any():
        return 0.0
    gaps = np.linalg.norm(surface(predicted)[:, None] - surface(labeled)[None], axis=-1)
    return np.percentile(np.concatenate([gaps.min(1), gaps.min(0)]), 95)
