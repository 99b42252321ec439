"""Label, readers and posterior of a case on its native grid."""

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import DTypeLike
from torch import Tensor

from datamodules.reading.checks import IGNORED, OUTSIDE, RawCase
from datamodules.reading.posterior import to_probs
from datamodules.reading.readers import reader_probs
from mbls.data import IGNORE_INDEX


def native_truth(raw: RawCase, *, mask_background: bool, num_classes: int) -> dict[str, Tensor]:
    """Return label, spacing and (if known) posterior of a case on its native grid, as a batch.

    Several readers' labels are ``readers`` int16 ``(1, R, X, Y, Z)``, and their mean the posterior.

    Args:
        raw: The case as the dataset amends it; it must have a label.
        mask_background: If True, ignore background outside the patient.
        num_classes: Number of classes.
    """
    if raw.label is None:
        raise ValueError("A case without a label has nothing to be scored against.")
    outside = IGNORE_INDEX if mask_background else 0
    truth = {
        "label": _marked(raw.label, np.int64, outside=outside)[None],
        "spacing": torch.tensor(voxel_sizes(raw.affine), dtype=torch.float32)[None],
    }
    if raw.posterior is not None:
        truth["posterior"] = torch.from_numpy(to_probs(raw.posterior))[None]
    if raw.readers is not None:
        found = readers_truth(raw.readers, num_classes, mask_background=mask_background)
        truth |= {name: value[None] for name, value in found.items()}
    return truth


def readers_truth(
    readers: np.ndarray, num_classes: int, *, mask_background: bool
) -> dict[str, Tensor]:
    """Return the labels of several readers, and their mean as posterior, of a case of a batch.

    Args:
        readers: uint8 ``(R, *S)``.
        num_classes: Number of classes C.
        mask_background: If True, ignore background outside the patient.

    Returns:
        ``readers`` int16 ``(R, *S)``, ``posterior`` float32 ``(C, *S)``.
    """
    outside = IGNORE_INDEX if mask_background else 0
    return {
        "readers": _marked(readers, np.int16, outside=outside),
        "posterior": torch.from_numpy(reader_probs(readers, num_classes)),
    }


def _marked(label: np.ndarray, dtype: DTypeLike, *, outside: int) -> Tensor:
    """Return a label with -100 in place of 255, and ``outside`` in place of 254."""
    marked = label.astype(dtype)
    marked[label == OUTSIDE] = outside
    marked[label == IGNORED] = IGNORE_INDEX
    return torch.from_numpy(marked)
