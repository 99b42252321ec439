"""A fake ACDC download: tiny NIfTI files of random blobs, in the real layout."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from datamodules import ACDCDataModule
from tests.grouped import grouped

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def blobs(seed: int, shape: tuple[int, int, int] = (20, 24, 4)) -> tuple[np.ndarray, np.ndarray]:
    """An int16 image and a uint8 label with all four classes."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape[:2]).transpose(1, 2, 0) - np.array(shape[:2]) / 2 + 0.5
    radius = np.hypot(grid[..., 0], grid[..., 1])[..., None] + rng.uniform(-1, 1, shape[2])
    label = np.select([radius < 3, radius < 5, radius < 7], [3, 2, 1], 0).astype(np.uint8)
    image = (100 * label + rng.integers(0, 50, shape)).astype(np.int16)
    return image, label


def write_patient(folder: Path, *, frames: tuple[int, int] = (1, 9), **options: Any) -> Path:
    """Write one patient's folder; ``frames`` are ED and ES."""
    folder.mkdir(parents=True)
    seed = int(folder.name.removeprefix("patient"))
    suffix = options.get("suffix", ".nii.gz")
    for frame in frames:
        image, label = blobs(1000 * seed + frame, options.get("shape", (20, 24, 4)))
        name = f"{folder.name}_frame{frame:02d}"
        save(folder / f"{name}{suffix}", image)
        if options.get("labeled", True):
            save(folder / f"{name}_gt{suffix}", label)
    (folder / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nNbFrame: 30\n")
    return folder


@pytest.fixture(scope="session")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``database/`` with patients 1 to 8 in training and 101 to 102 in testing; not to change."""
    root = tmp_path_factory.mktemp("download") / "database"
    for number in range(1, 9):
        write_patient(root / "training" / f"patient{number:03d}")
    for number in (101, 102):
        write_patient(root / "testing" / f"patient{number:03d}")
    return root


@pytest.fixture
def acdc(download: Path, tmp_path: Path) -> Path:
    """A copy of the download for one test to damage."""
    return Path(shutil.copytree(download, tmp_path / "ACDC" / "database"))


@pytest.fixture
def module(acdc: Path, tmp_path: Path) -> Callable[..., ACDCDataModule]:
    """Build a datamodule on the fake download; see :func:`grouped` for the settings' names.

    Patches are small, and no part of the split is empty.
    """

    def build(root: Path | None = acdc, **settings: Any) -> ACDCDataModule:
        defaults: dict[str, Any] = {
            "cache_dir": tmp_path / "cache",
            "patch_size": (16, 16),
            "val_fraction": 0.3,
            "prepare_workers": 2,
        }
        return ACDCDataModule(root, **grouped(**defaults | settings))

    return build
