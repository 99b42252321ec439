"""What the loaders index: slices to train on, whole volumes to evaluate, files to predict."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.augmentation import Augmentation, augmented_patch, sample_generator
from datamodules.cache import CachedCase
from datamodules.case import Case, DataError
from datamodules.checks import IGNORED
from datamodules.patches import cut_patch
from datamodules.posterior import to_probs
from datamodules.preparation import Preparer
from datamodules.preprocessing import prepare_case

IGNORE_INDEX = -100
Sample = dict[str, Any]


class SliceDataset(Dataset[Sample]):
    """Every slice of the training cases, cropped or padded to one size.

    Args:
        cases: The cases in the order of their indices.
        patch_size: ``(H, W)`` of a sample.
        crop: ``"center"``, or ``"random"`` on the axes on which a slice is larger than the patch.
        augmentation: Random changes.
        seed: Seed of every draw, together with the epoch and the slice's index.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        *,
        patch_size: tuple[int, int],
        crop: Literal["center", "random"],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.cases = list(cases)
        self.patch_size, self.crop, self.seed = patch_size, crop, seed
        self.augmentation = augmentation
        self._ends = list(accumulate(case.arrays["image"].shape[0] for case in self.cases))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the slice ``key[1]`` as it is in epoch ``key[0]``."""
        epoch, index = key
        number = int(np.searchsorted(self._ends, index, side="right"))
        case = self.cases[number]
        z = index - (self._ends[number] - case.arrays["image"].shape[0])
        pixels = case.arrays["image"].open()[z]
        classes = case.arrays["label"].open()[z]
        if self.crop == "center" and self.augmentation.is_off:
            image, label = cut_patch(pixels, classes, self.patch_size)
        else:
            image, label = augmented_patch(
                pixels,
                classes,
                self.patch_size,
                crop=self.crop,
                settings=self.augmentation,
                generator=sample_generator(self.seed, epoch, index),
            )
        return {
            "image": image,
            "label": label,
            "case": case.id,
            "index": number,
            "spacing": torch.tensor(case.facts["spacing"][:2]),
            "scored": True,
        }


class VolumeDataset(Dataset[Sample]):
    """Whole volumes from the cache, for validation and test."""

    def __init__(self, cases: Sequence[CachedCase]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, bool]) -> Sample:
        """Return case ``key[0]``; ``key[1]`` says whether it is to be scored."""
        index, scored = key
        case = self.cases[index]
        image = np.moveaxis(case.arrays["image"].open(), 0, -1)
        classes = np.moveaxis(case.arrays["label"].open(), 0, -1)
        sample = {
            "image": torch.from_numpy(np.array(image, dtype=np.float32, order="C")),
            "label": torch.from_numpy(np.array(classes, order="C")),
            "case": case.id,
            "index": index,
            "spacing": torch.tensor(case.facts["spacing"]),
            "scored": scored,
        }
        if "posterior" in case.arrays:
            shares = np.moveaxis(case.arrays["posterior"].open(), 0, -1)
            sample["posterior"] = torch.from_numpy(to_probs(np.ascontiguousarray(shares)))
        return sample


class InputDataset(Dataset[Sample]):
    """Volumes read from files that are in no split, to predict: every voxel's label is ignored.

    Args:
        cases: The cases in the order of their indices.
        preparer: Reads them with the settings that the network was trained with.
    """

    def __init__(self, cases: Sequence[Case], preparer: Preparer) -> None:
        self.cases, self.preparer = list(cases), preparer

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, bool]) -> Sample:
        """Read case ``key[0]``; raises DataError if its file breaks a rule."""
        index, scored = key
        case = self.cases[index]
        raw, problems = self.preparer.read(case)
        if raw is None:
            raise DataError(problems)
        prepared = prepare_case(raw, self.preparer.preprocessing)
        return {
            "image": torch.from_numpy(prepared.image.astype(np.float32)),
            "label": torch.full(prepared.image.shape[1:], IGNORED, dtype=torch.uint8),
            "case": case.id,
            "index": index,
            "spacing": torch.tensor(prepared.spacing),
            "scored": scored,
        }


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples to a batch; labels become int64 and ignored voxels -100."""
    label = torch.stack([sample["label"] for sample in samples])
    ignored = label == IGNORED
    batch: dict[str, Any] = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "label": label.long().masked_fill_(ignored, IGNORE_INDEX),
        "case": [sample["case"] for sample in samples],
        "index": torch.tensor([sample["index"] for sample in samples]),
        "spacing": torch.stack([sample["spacing"] for sample in samples]),
        "scored": torch.tensor([sample["scored"] for sample in samples]),
    }
    if all("posterior" in sample for sample in samples):
        batch["posterior"] = torch.stack([sample["posterior"] for sample in samples])
    return batch
