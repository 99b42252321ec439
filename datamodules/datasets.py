"""What the loaders index: slices or patches to train on, whole volumes, files to predict."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.augmentation import (
    Augmentation,
    augmented_patch,
    augmented_volume_patch,
    sample_generator,
)
from datamodules.cache import CachedCase
from datamodules.case import Case, DataError
from datamodules.checks import IGNORED, OUTSIDE
from datamodules.foreground import pick
from datamodules.patches import begin_around, cut_patch, patch_begin
from datamodules.posterior import to_probs
from datamodules.preparation import Preparer
from datamodules.preprocessing import prepare_case

IGNORE_INDEX = -100
Sample = dict[str, Any]


class SliceDataset(Dataset[Sample]):
    """Every slice of the training cases, cropped or padded to one size.

    A slice that must show foreground, and is forced to, is replaced by one of the same case with
    one of the case's classes, each class as likely as another; a case without any keeps its slice.

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
        self._ends = list(accumulate(case.shape[2] for case in self.cases))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, key: tuple[int, int, bool]) -> Sample:
        """Return the slice ``key[1]`` as it is in epoch ``key[0]``, foreground if ``key[2]``."""
        epoch, index, forced = key
        number = int(np.searchsorted(self._ends, index, side="right"))
        case = self.cases[number]
        z = index - (self._ends[number] - case.shape[2])
        if forced:
            z = self._foreground(case, epoch, index, z)
        pixels = case.volume("image")[..., z]
        classes = _inside(case.volume("label")[..., z])
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

    def _foreground(self, case: CachedCase, epoch: int, index: int, z: int) -> int:
        slices = case.arrays["slices"].open()
        classes = 1 + np.flatnonzero(slices[1:].any(axis=1))
        if not len(classes):
            return z
        generator = sample_generator(self.seed, epoch, index)
        generator.manual_seed(generator.initial_seed() ^ 1)  # draws apart from the changes' own
        first, second = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        found = np.flatnonzero(slices[classes[pick(first, len(classes))]])
        return int(found[pick(second, len(found))])


class PatchDataset(Dataset[Sample]):
    """Patches of the training volumes, several of each case an epoch.

    A patch lies anywhere in the volume; one that is forced to show foreground has one of the
    case's foreground voxels in its middle (as near as the border allows), each class as likely as
    another. A case without foreground gives a patch from anywhere.

    Args:
        cases: The cases in the order of their indices.
        patch_size: ``(X, Y, Z)`` of a sample.
        samples_per_case: Patches of each case in an epoch.
        crop: ``"random"``, or ``"center"`` for the middle of the volume.
        augmentation: Random changes.
        seed: Seed of every draw, together with the epoch and the patch's index.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        *,
        patch_size: tuple[int, ...],
        samples_per_case: int,
        crop: Literal["center", "random"],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.cases = list(cases)
        self.patch_size, self.crop, self.seed = patch_size, crop, seed
        self.samples_per_case, self.augmentation = samples_per_case, augmentation

    def __len__(self) -> int:
        return len(self.cases) * self.samples_per_case

    def __getitem__(self, key: tuple[int, int, bool]) -> Sample:
        """Return the patch ``key[1]`` as it is in epoch ``key[0]``, foreground if ``key[2]``."""
        epoch, index, forced = key
        number = index // self.samples_per_case
        case = self.cases[number]
        generator = sample_generator(self.seed, epoch, index)
        begin = self._begin(case, generator, forced=forced)
        image, label = augmented_volume_patch(
            case.volume("image"),
            case.volume("label"),
            self.patch_size,
            begin,
            spacing=case.facts["spacing"],
            settings=self.augmentation,
            generator=generator,
        )
        return {
            "image": image,
            "label": label.masked_fill_(label == OUTSIDE, 0),
            "case": case.id,
            "index": number,
            "spacing": torch.tensor(case.facts["spacing"]),
            "scored": True,
        }

    def _begin(self, case: CachedCase, generator: torch.Generator, *, forced: bool) -> list[int]:
        *where, first, second = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        counts = np.array(case.facts["places"])
        sizes = list(zip(case.shape, self.patch_size, strict=True))
        if forced and counts.any():
            classes = np.flatnonzero(counts)
            chosen = int(classes[pick(first, len(classes))])
            row = int(counts[:chosen].sum()) + pick(second, int(counts[chosen]))
            voxel = case.arrays["places"].open()[row].tolist()
            return [begin_around(n, m, v) for (n, m), v in zip(sizes, voxel, strict=True)]
        shares = where if self.crop == "random" else (0.5, 0.5, 0.5)
        return [patch_begin(n, m, share) for (n, m), share in zip(sizes, shares, strict=True)]


class VolumeDataset(Dataset[Sample]):
    """Whole volumes from the cache, for validation and test.

    Args:
        cases: The cases in the order of their indices.
        mask_background: Whether background outside the patient is ignored.
    """

    def __init__(self, cases: Sequence[CachedCase], *, mask_background: bool = False) -> None:
        self.cases, self.mask_background = list(cases), mask_background

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, bool]) -> Sample:
        """Return case ``key[0]``; ``key[1]`` says whether it is to be scored."""
        index, scored = key
        case = self.cases[index]
        image = np.array(case.volume("image"), dtype=np.float32, order="C")
        label = np.array(case.volume("label"), order="C")
        sample = {
            "image": torch.from_numpy(image),
            "label": torch.from_numpy(_inside(label, IGNORED if self.mask_background else 0)),
            "case": case.id,
            "index": index,
            "spacing": torch.tensor(case.facts["spacing"]),
            "scored": scored,
        }
        if "posterior" in case.arrays:
            shares = np.ascontiguousarray(case.volume("posterior"))
            sample["posterior"] = torch.from_numpy(to_probs(shares))
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


def _inside(label: np.ndarray, outside: int = 0) -> np.ndarray:
    """Return the label with ``outside`` in place of the mark for background outside the patient."""
    marked = label == OUTSIDE
    return np.where(marked, np.uint8(outside), label) if marked.any() else label


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
