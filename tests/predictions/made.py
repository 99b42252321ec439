"""Makes small folders of predictions in every layout."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

AFFINE = np.array(
    [[-1.5, 0, 0, 20], [0, 1.25, 0, -8], [0, 0, 4.0, 3], [0, 0, 0, 1]], dtype=np.float64
)
SHAPE = (9, 7, 5)
CASES = ("case_1", "case_10", "other")


def probabilities(case: str, classes: int = 3, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Random probabilities ``(C, X, Y, Z)``, float32."""
    rng = np.random.default_rng(list(case.encode()))
    logits = rng.normal(0, 2, (classes, *shape))
    exponents = np.exp(logits - logits.max(0))
    return (exponents / exponents.sum(0)).astype(np.float32)


def label(case: str, classes: int = 3, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Random classes ``(X, Y, Z)`` that agree with the probabilities in most voxels."""
    rng = np.random.default_rng([1, *case.encode()])
    likely = probabilities(case, classes, shape).argmax(0)
    return np.where(rng.random(shape) < 0.8, likely, rng.integers(0, classes, shape))


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write a NIfTI file in the array's own type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def write_labels(folder: Path, cases: Sequence[str] = CASES, **made: Any) -> Path:
    """Write ``case.nii.gz`` of each case, uint8, and return the folder."""
    for case in cases:
        save(folder / f"{case}.nii.gz", label(case, **made).astype(np.uint8))
    return folder


def write_npz(path: Path, probs: np.ndarray, *, key: str = "probabilities") -> Path:
    """Write an array as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: probs})  # type: ignore[arg-type]
    return path


def write_nnunet(
    root: Path,
    folds: Mapping[int, Sequence[str]],
    *,
    labels: Mapping[str, Any] | None = None,
    dtype: type = np.float32,
    classes: int = 3,
    **more: Any,
) -> Path:
    """Write what nnU-Net v2 leaves of a training with ``--npz``; return the results folder."""
    results = root / "Dataset007_Tiny" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    named = {"background": 0, "organ": 1, "tumor": 2} if labels is None else labels
    results.mkdir(parents=True, exist_ok=True)
    content = {"channel_names": {"0": "CT"}, "labels": named, "file_ending": ".nii.gz"} | more
    (results / "dataset.json").write_text(json.dumps(content))
    for fold, cases in folds.items():
        folder = results / f"fold_{fold}" / "validation"
        for case in cases:
            probs = probabilities(case, classes)
            write_npz(folder / f"{case}.npz", probs.transpose(0, 3, 2, 1).astype(dtype))
            likely = probs.argmax(0)
            if "regions_class_order" in more:
                likely = np.zeros(probs.shape[1:])
                for part, value in zip(probs, more["regions_class_order"], strict=True):
                    likely[part > 0.5] = value
            save(folder / f"{case}.nii.gz", likely.astype(np.uint8))
            (folder / f"{case}.pkl").write_bytes(b"never opened")
        (folder / "summary.json").write_text("{}")
    return results
