"""How wide an interval around an estimated volume must be to contain drawn ones."""

from collections.abc import Sequence

import numpy as np

from mbls.decisions.levels import Levels, calibrated_mass

__all__ = ["COVERED", "quantiles", "width_scores"]

COVERED = 0.9
"""Share of the patients whose interval contains the volume of a drawn label."""


def width_scores(
    posterior: Levels, own: Levels, patients: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the relative error of each volume against each drawn label, and the patients.

    Args:
        posterior: Levels of the true probabilities.
        own: Levels of the network's.
        patients: Patient of each case.

    Returns:
        ``(patients, labels, structures)`` by rule, the largest of a patient's cases; NaN for a
        structure whose true volume is less than a voxel in all of them.
    """
    true = posterior.truth.sum(axis=-1)
    centers = {
        "ceiling": true, "calibrated": calibrated_mass(own).sum(axis=-1),
        "own": own.probs.sum(axis=-1), "argmax": own.likeliest,
    }  # fmt: skip
    names, place = list(dict.fromkeys(patients)), np.array(list(patients))
    found = {}
    for rule, center in centers.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(posterior.labeled - center[:, None]) / true[:, None]
        error = np.where(true[:, None] >= 1, error, -np.inf)
        worst = np.stack([error[place == name].max(axis=0) for name in names])
        found[rule] = np.where(np.isfinite(worst), worst, np.nan)
    return found, names


def quantiles(scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the quantile of scores ``(patients, labels, structures)`` in each draw of patients.

    Returns:
        ``(draws, structures)``: the least score that is reached by a share :data:`COVERED` of the
        drawn patients and all their labels.
    """
    found = np.full((len(draws), scores.shape[2]), np.nan)
    for s in range(scores.shape[2]):
        known = ~np.isnan(scores[:, 0, s])
        values = scores[known][:, :, s]
        order = np.argsort(values, axis=None)
        owner = np.repeat(np.flatnonzero(known), values.shape[1])[order]
        for d, weights in enumerate(draws):
            reached = np.cumsum(weights[owner])
            if len(reached) and reached[-1] > 0:
                place = np.searchsorted(reached, COVERED * reached[-1])
                found[d, s] = values.reshape(-1)[order][place]
    return found
