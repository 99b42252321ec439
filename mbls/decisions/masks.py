"""The outer and inner masks of a guarantee, for the probabilities of one case."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mbls.decisions.guarantee import Guarantee
from mbls.metrics.margins import margin_mask
from mbls.runtime.errors import DecisionError

__all__ = ["mask_names", "promised_masks"]


def mask_names(found: Guarantee) -> list[str]:
    """Return the name of each mask: ``outer_lv``, ``inner_lv``, ... of each structure."""
    short = [re.sub(r"[^\w.+-]+", "-", name) for name in found.structures]
    return [f"{which}_{name}" for name in short for which in ("outer", "inner")]


def promised_masks(
    found: Guarantee,
    probs: Tensor,
    *,
    unions: Mapping[str, Sequence[int]],
    spacing: Sequence[float],
) -> dict[str, np.ndarray]:
    """Return the masks of a case, by the names of :func:`mask_names`.

    Args:
        found: The guarantee.
        probs: Probabilities ``(C, *S)`` on the grid on which it was calibrated.
        unions: Classes of each union.
        spacing: Voxel size along each axis in mm.

    Returns:
        Boolean ``S`` each.

    Raises:
        DecisionError: Another number of classes, or unions of other names.
    """
    classes = len(found.class_keys)
    if len(probs) != classes or tuple(unions) != found.structures[classes - 1 :]:
        raise DecisionError(
            f"The guarantee is of the structures {', '.join(found.structures)}, got probabilities "
            f"of {len(probs)} classes and the unions {', '.join(unions) or 'none'}."
        )
    members = [*([k] for k in range(1, classes)), *map(list, unions.values())]
    predicted = probs.argmax(dim=0)
    masks = []
    for name, own in zip(found.structures, members, strict=True):
        if found.family == "threshold":
            share = probs[own].sum(dim=0).float().cpu().numpy()
            for value in (found.outer[name], found.inner[name]):
                masks.append(None if value is None else share > np.float32(value))
        else:
            chosen = torch.isin(predicted, torch.tensor(own, device=probs.device)).cpu().numpy()
            for value in (found.outer[name], found.inner[name]):
                masks.append(None if value is None else margin_mask(chosen, spacing, value))
    shape = tuple(probs.shape[1:])
    return {
        name: np.full(shape, name.startswith("outer_")) if mask is None else mask
        for name, mask in zip(mask_names(found), masks, strict=True)
    }
