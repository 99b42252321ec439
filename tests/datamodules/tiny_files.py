"""Tiny datasets in the layouts that describe themselves: an ellipsoid with a core in noise."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (20, 24, 6)
AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


def volume(seed: int, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and a label with the values 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    center = np.array(shape) / 2 + rng.uniform(-1, 1, len(shape))
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    radius = np.sqrt((((grid - center) / (np.array(shape) / 3)) ** 2).sum(-1))
    label = ((radius < 1).astype(np.uint8) + (radius < 0.5)).astype(np.uint8)
    return (50 * label + rng.normal(100, 10, shape)).astype(np.float32), label


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Write a NIfTI file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def write_nnunet(
    root: Path, *, cases: int = 10, test: int = 0, channels: Sequence[str] = ("MRI",)
) -> Path:
    """Write a raw dataset of nnU-Net v2."""
    for number in range(cases + test):
        part, name = ("Tr" if number < cases else "Ts"), f"case_{number:03d}"
        image, label = volume(number)
        for channel in range(len(channels)):
            save(root / f"images{part}" / f"{name}_{channel:04d}.nii.gz", image + 5 * channel)
        save(root / f"labels{part}" / f"{name}.nii.gz", label)
    write_json(
        root,
        {
            "channel_names": {str(k): name for k, name in enumerate(channels)},
            "labels": {"background": 0, "shell": 1, "core": 2},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        },
    )
    return root


def write_decathlon(root: Path, *, cases: int = 10, modalities: Sequence[str] = ("MRI",)) -> Path:
    """Write a task of the Decathlon; several modalities are the fourth axis."""
    training = []
    for number in range(cases):
        image, label = volume(number)
        name = f"case_{number:03d}.nii.gz"
        stacked = np.stack([image + 5 * k for k in range(len(modalities))], axis=-1)
        save(root / "imagesTr" / name, stacked if len(modalities) > 1 else image)
        save(root / "labelsTr" / name, label)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_json(
        root,
        {
            "modality": {str(k): name for k, name in enumerate(modalities)},
            "labels": {"0": "background", "1": "shell", "2": "core"},
            "numTraining": cases,
            "training": training,
        },
    )
    return root


def write_images(root: Path, *, cases: int = 10, color: bool = False, suffix: str = ".png") -> Path:
    """Write image folders with masks of 0 and 255, or of colors."""
    for number in range(cases):
        image, label = volume(number, (40, 32))
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        pixels = image.clip(0, 255).astype(np.uint8)
        mask = np.where(label > 0, 255, 0).astype(np.uint8)
        if color:
            pixels = np.dstack([pixels, 255 - pixels, pixels // 2])
            mask = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)[label]
        name = f"p{number // 2}_{number}"
        if suffix == ".npy":
            np.save(root / "images" / f"{name}.npy", pixels)
        else:
            Image.fromarray(pixels).save(root / "images" / f"{name}{suffix}")
        Image.fromarray(mask).save(root / "masks" / f"{name}_mask.png")
    return root


def write_table(root: Path, *, cases: int = 10, readers: int = 1) -> Path:
    """Write a CSV file with two cases a patient."""
    rows = []
    for number in range(cases):
        image, label = volume(number)
        save(root / "data" / f"i{number}.nii.gz", image)
        files = []
        for reader in range(readers):
            files.append(f"data/l{number}-{reader}.nii.gz")
            save(root / files[-1], np.roll(label, reader, axis=0))
        rows.append([f"c{number}", f"p{number // 2}", f"data/i{number}.nii.gz", *files])
    columns = ["label"] if readers == 1 else [f"reader_{k}" for k in range(readers)]
    lines = [",".join(["case", "patient", "image", *columns]), *map(",".join, rows)]
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root


def write_json(root: Path, content: object) -> None:
    """Write dataset.json."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
