"""What the loaders index: slices to train on, whole volumes to evaluate, files to predict."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.augmentation import Augmentation, augment, sample_generator
from datamodules.cache import CachedCase
from datamodules.case import Case, DataError
from datamodules.checks import IGNORED, read_case
from datamodules.preprocessing import Preprocessing, prepare_case

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
        draws = sample_generator(self.seed, epoch, index) if self._is_random else None
        if draws is not None and not self.augmentation.is_off:
            image, label = augment(
                torch.from_numpy(pixels.astype(np.float32)),
                torch.from_numpy(classes.astype(np.int64)).masked_fill_(
                    torch.from_numpy(classes == IGNORED), IGNORE_INDEX
                ),
                self.augmentation,
                draws,
            )
            pixels, classes = image.numpy(), label.numpy()
        where = torch.rand(2, generator=draws).tolist() if self.crop == "random" else (0.5, 0.5)
        image, label = cut_patch(pixels, classes, self.patch_size, (where[0], where[1]))
        return {
            "image": image,
            "label": label,
            "case": case.id,
            "index": number,
            "spacing": torch.tensor(case.facts["spacing"][:2]),
            "scored": True,
        }

    @property
    def _is_random(self) -> bool:
        return self.crop == "random" or not self.augmentation.is_off


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
            "label": _ignored_to_index(np.array(classes, dtype=np.int64, order="C")),
            "case": case.id,
            "index": index,
            "spacing": torch.tensor(case.facts["spacing"]),
            "scored": scored,
        }
        if "posterior" in case.arrays:
            posterior = np.moveaxis(case.arrays["posterior"].open(), 0, -1)
            sample["posterior"] = torch.from_numpy(np.array(posterior, np.float32, order="C"))
        return sample


class InputDataset(Dataset[Sample]):
    """Volumes read from files that are in no split, to predict: every voxel's label is ignored.

    Args:
        cases: The cases in the order of their indices.
        preprocessing: The settings that the network was trained with.
        label_map: Class index of each label value, for the checks.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        preprocessing: Preprocessing,
        label_map: Mapping[int, int],
        num_classes: int,
    ) -> None:
        self.cases = list(cases)
        self.preprocessing = preprocessing
        self.label_map, self.num_classes = dict(label_map), num_classes

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, bool]) -> Sample:
        """Read case ``key[0]``; raises DataError if its file breaks a rule."""
        index, scored = key
        case = self.cases[index]
        raw, problems = read_case(case, label_map=self.label_map, num_classes=self.num_classes)
        if raw is None:
            raise DataError(problems)
        prepared = prepare_case(raw, self.preprocessing)
        return {
            "image": torch.from_numpy(prepared.image.astype(np.float32)),
            "label": torch.full(prepared.image.shape[1:], IGNORE_INDEX, dtype=torch.int64),
            "case": case.id,
            "index": index,
            "spacing": torch.tensor(prepared.spacing),
            "scored": scored,
        }


def cut_patch(
    pixels: np.ndarray, classes: np.ndarray, size: tuple[int, int], where: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Crop or pad a slice to ``size``; padding is 0 in the image and ignored in the label.

    Args:
        pixels: ``(M, H, W)``.
        classes: ``(H, W)``, ignored pixels 255 or -100.
        size: Height and width of the patch.
        where: Position of the crop on each axis, from 0 (first pixels) to 1 (last pixels); 0.5 is
            the centre, rounded down. Padding is the same on both sides, whatever the position.

    Returns:
        float32 ``(M, *size)`` and int64 ``(*size,)``.
    """
    source, target = [], []
    for length, wanted, share in zip(classes.shape, size, where, strict=True):
        spare = length - wanted
        begin = min(int(share * (spare + 1)), spare) if share != 0.5 else spare // 2
        source.append(slice(max(begin, 0), max(begin, 0) + min(length, wanted)))
        inset = max(-spare, 0) // 2
        target.append(slice(inset, inset + min(length, wanted)))
    image = np.zeros((pixels.shape[0], *size), dtype=np.float32)
    label = np.full(size, IGNORE_INDEX, dtype=np.int64)
    image[:, target[0], target[1]] = pixels[:, source[0], source[1]]
    label[target[0], target[1]] = classes[source[0], source[1]]
    return torch.from_numpy(image), _ignored_to_index(label)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples to a batch."""
    batch: dict[str, Any] = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "label": torch.stack([sample["label"] for sample in samples]),
        "case": [sample["case"] for sample in samples],
        "index": torch.tensor([sample["index"] for sample in samples]),
        "spacing": torch.stack([sample["spacing"] for sample in samples]),
        "scored": torch.tensor([sample["scored"] for sample in samples]),
    }
    if all("posterior" in sample for sample in samples):
        batch["posterior"] = torch.stack([sample["posterior"] for sample in samples])
    return batch


def _ignored_to_index(label: np.ndarray) -> Tensor:
    label[label == IGNORED] = IGNORE_INDEX
    return torch.from_numpy(label)
