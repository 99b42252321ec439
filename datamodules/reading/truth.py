"""Label and posterior of a case on its native grid."""

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor

from datamodules.reading.checks import IGNORED, OUTSIDE, RawCase
from datamodules.reading.posterior import to_probs


def native_truth(raw: RawCase, *, mask_background: bool) -> dict[str, Tensor]:
    """Return label, spacing and (if known) posterior of a case on its native grid, as a batch.

    Args:
        raw: The case as the dataset amends it; it must have a label.
        mask_background: If True, ignore background outside the patient.
    """
    if raw.label is None:
        raise ValueError("A case without a label has nothing to be scored against.")
    label = raw.label.astype(np.int64)
    label[raw.label == OUTSIDE] = -100 if mask_background else 0
    label[raw.label == IGNORED] = -100
    truth = {
        "label": torch.from_numpy(label)[None],
        "spacing": torch.tensor(voxel_sizes(raw.affine), dtype=torch.float32)[None],
    }
    if raw.posterior is not None:
        truth["posterior"] = torch.from_numpy(to_probs(raw.posterior))[None]
    return truth
