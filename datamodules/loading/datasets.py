"""What the loaders index: slices or patches to train on, whole volumes, files to predict."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.cache.foreground import pick
from datamodules.cache.preparation import Preparer
from datamodules.cache.preprocessing import prepare_case
from datamodules.cache.store import CachedCase
from datamodules.case import Case, DataError
from datamodules.loading.augmentation import Augmentation, augmented_patch, sample_generator
from datamodules.loading.patches import Pair, begin_around, cut_at, empty, patch_begin
from datamodules.loading.transform import Transform, apply
from datamodules.reading.checks import IGNORED, OUTSIDE
from datamodules.reading.posterior import to_probs
from datamodules.reading.truth import readers_truth
from datamodules.settings import Raters
from mbls.data import IGNORE_INDEX

_PIECE = 1 << 18  # voxels of a label at a time
_READER = 3  # purpose of the draw of a reader
Sample = dict[str, Any]
Key = tuple[int, int, bool]  # epoch, index, whether foreground is shown


class TrainingDataset(Dataset[Sample], ABC):
    """Samples of one size, each a function of (seed, epoch, index), written into a batch at once.

    Args:
        cases: The cases in the order of their indices.
        patch_size: Size of a sample.
        crop: ``"center"``, or ``"random"`` on the axes on which a case is larger than the sample.
        augmentation: Random changes.
        transform: What is called on each sample after them, see
            :mod:`datamodules.loading.transform`.
        seed: Seed of every draw, together with the epoch and the sample's index.
        raters: Whose label a sample has, see :class:`~datamodules.settings.Sampling`.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        *,
        patch_size: tuple[int, ...],
        crop: Literal["center", "random"],
        augmentation: Augmentation,
        transform: Transform | None = None,
        seed: int,
        raters: Raters = "majority",
    ) -> None:
        self.cases = list(cases)
        self.patch_size, self.crop, self.seed = tuple(patch_size), crop, seed
        self.augmentation, self.transform, self.raters = augmentation, transform, raters
        self.spacings = [tuple(case.facts["spacing"][: len(patch_size)]) for case in self.cases]

    @abstractmethod
    def __len__(self) -> int:
        """Samples in an epoch."""

    @abstractmethod
    def write(self, key: Key, out: Pair) -> int:
        """Write sample ``key[1]`` as it is in epoch ``key[0]``; return its case's number.

        It shows foreground if ``key[2]``.

        Args:
            key: Which sample.
            out: float32 ``(M, *patch_size)`` and uint8 ``(*patch_size,)``, or ``(R, *patch_size)``
                of several readers to average.
        """

    def __getitem__(self, key: Key) -> Sample:
        """Return a sample as it is in a batch."""
        return {name: value[0] for name, value in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Return the batch of these samples."""
        images = empty((len(keys), self.channels, *self.patch_size), np.float32)
        soft = self.raters == "mean"
        readers = (self.cases[0].num_readers,) if soft else ()
        labels = empty((len(keys), *readers, *self.patch_size), np.uint8)
        numbers = [
            self.write(key, (image, label))
            for key, image, label in zip(keys, images, labels, strict=True)
        ]
        targets = write_targets(labels, empty(labels.shape, np.int64))
        if self.transform is not None:
            for (epoch, index, _), image, target in zip(keys, images, targets, strict=True):
                apply(self.transform, image, target, seed=(self.seed, epoch, index))
        return {
            "image": images,
            "label": mean_labels(targets, self.num_classes) if soft else targets,
            "case": [self.cases[number].id for number in numbers],
            "index": torch.tensor(numbers),
            "spacing": torch.tensor([self.spacings[number] for number in numbers]),
            "scored": torch.ones(len(keys), dtype=torch.bool),
        }

    @property
    def channels(self) -> int:
        """Modalities of an image."""
        planar = self.cases[0].facts["planar"]
        return int(self.cases[0].arrays["image"].shape[1 if planar else 0])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.cases[0].arrays["slices"].shape[0])

    def _chosen(self, case: CachedCase, key: Key) -> tuple[str, int | slice]:
        """Return the array of a sample's label, and the readers in it: one, or all."""
        if case.num_readers == 1 or self.raters == "majority":
            return "label", slice(None)
        if self.raters == "mean":
            return "readers", slice(None)
        if self.raters == "first":
            return "readers", 0
        epoch, index, _ = key
        draw = sample_generator(self.seed, epoch, index, purpose=_READER).random()
        return "readers", pick(draw, case.num_readers)


class SliceDataset(TrainingDataset):
    """Every slice of the training cases, cropped or padded to ``patch_size`` ``(H, W)``.

    A sample that is forced to show foreground is from a slice of the same case with one of the
    case's classes, each class as likely as another; a random crop has a voxel of that class in its
    middle, as near as the border allows. A case without foreground keeps its slice.
    """

    def __init__(self, cases: Sequence[CachedCase], **settings: Any) -> None:
        super().__init__(cases, **settings)
        self._fixed = self.crop == "center" and self.augmentation.is_off
        self._ends = list(accumulate(case.shape[2] for case in self.cases))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def write(self, key: Key, out: Pair) -> int:
        """Write slice ``key[1]``, or another of its case that shows foreground."""
        epoch, index, forced = key
        number = bisect_right(self._ends, index)
        case = self.cases[number]
        z = index - (self._ends[number - 1] if number else 0)
        chosen = self._foreground(case, epoch, index) if forced else None
        if chosen is not None:
            z, wanted, third = chosen
        name, readers = self._chosen(case, key)
        pixels, classes = case.plane("image", z), case.plane(name, z)[readers]
        sizes = list(zip(case.shape, self.patch_size, strict=False))
        if self._fixed:
            cut_at(pixels, classes, [patch_begin(n, m, 0.5) for n, m in sizes], out)
            return number
        generator = sample_generator(self.seed, epoch, index)
        where = generator.random(2).tolist()
        shares = where if self.crop == "random" else (0.5, 0.5)
        begin = [patch_begin(n, m, share) for (n, m), share in zip(sizes, shares, strict=True)]
        if chosen is not None and self.crop == "random":
            majority = classes if name == "label" else case.plane("label", z)
            rows, columns = np.nonzero(majority == wanted)
            at = pick(third, len(rows))
            voxel = int(rows[at]), int(columns[at])
            begin = [begin_around(n, m, v) for (n, m), v in zip(sizes, voxel, strict=True)]
        augmented_patch(
            pixels,
            classes,
            begin,
            spacing=self.spacings[number],
            settings=self.augmentation,
            generator=generator,
            out=out,
        )
        return number

    def _foreground(
        self, case: CachedCase, epoch: int, index: int
    ) -> tuple[int, int, float] | None:
        """Return a slice, a class in it, and a draw that chooses a voxel; None without any."""
        slices = case.arrays["slices"].open()
        classes = 1 + np.flatnonzero(slices[1:].any(axis=1))
        if not len(classes):
            return None
        generator = sample_generator(self.seed, epoch, index, purpose=1)
        first, second, third = generator.random(3).tolist()
        wanted = int(classes[pick(first, len(classes))])
        found = np.flatnonzero(slices[wanted])
        return int(found[pick(second, len(found))]), wanted, third


class PatchDataset(TrainingDataset):
    """Patches ``patch_size`` ``(X, Y, Z)`` of the training volumes, several of each case an epoch.

    A patch that is forced to show foreground has one of the case's foreground voxels in its middle
    (as near as the border allows), each class as likely as another. A case without foreground gives
    a patch from anywhere.

    Args:
        cases: The cases in the order of their indices.
        samples_per_case: Patches of each case in an epoch.
        **settings: Those of :class:`TrainingDataset`.
    """

    def __init__(
        self, cases: Sequence[CachedCase], *, samples_per_case: int, **settings: Any
    ) -> None:
        super().__init__(cases, **settings)
        self.samples_per_case = samples_per_case

    def __len__(self) -> int:
        return len(self.cases) * self.samples_per_case

    def write(self, key: Key, out: Pair) -> int:
        """Write patch ``key[1]``, about a foreground voxel where it is forced."""
        epoch, index, forced = key
        number = index // self.samples_per_case
        case = self.cases[number]
        generator = sample_generator(self.seed, epoch, index)
        name, readers = self._chosen(case, key)
        augmented_patch(
            case.volume("image", private=True),
            case.volume(name, private=True)[readers],
            self._begin(case, generator, forced=forced),
            spacing=self.spacings[number],
            settings=self.augmentation,
            generator=generator,
            out=out,
        )
        return number

    def _begin(
        self, case: CachedCase, generator: np.random.Generator, *, forced: bool
    ) -> list[int]:
        *where, first, second = generator.random(5).tolist()
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
        readers: Whether to return the labels of several readers, and their mean as posterior.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        *,
        mask_background: bool = False,
        readers: bool = False,
    ) -> None:
        self.cases, self.mask_background, self.readers = list(cases), mask_background, readers

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, bool]) -> Sample:
        """Return case ``key[0]``; ``key[1]`` says whether it is to be scored."""
        index, scored = key
        case = self.cases[index]
        mapped = case.volume("image", private=True)
        image = empty(mapped.shape, np.float32).copy_(torch.from_numpy(mapped))
        label = np.array(case.volume("label"), order="C")
        sample = {
            "image": image,
            "label": torch.from_numpy(_inside(label, IGNORED if self.mask_background else 0)),
            "case": case.id,
            "index": index,
            "spacing": torch.tensor(case.facts["spacing"]),
            "scored": scored,
        }
        if "posterior" in case.arrays:
            shares = np.ascontiguousarray(case.volume("posterior"))
            sample["posterior"] = torch.from_numpy(to_probs(shares))
        if self.readers and case.num_readers > 1:
            labels = np.ascontiguousarray(case.volume("readers"))
            classes = case.arrays["slices"].shape[0]
            sample |= readers_truth(labels, classes, mask_background=self.mask_background)
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


def write_targets(labels: Tensor, out: Tensor) -> Tensor:
    """Write labels as int64: ignored voxels -100, background outside the patient 0.

    Args:
        labels: uint8, contiguous; its marks are overwritten.
        out: int64 of the same shape, contiguous.

    Returns:
        ``out``.
    """
    for part, target in zip(labels.view(-1).split(_PIECE), out.view(-1).split(_PIECE), strict=True):
        values = part.numpy()
        largest = values.max()
        if largest >= OUTSIDE:
            ignored = values == IGNORED if largest == IGNORED else None
            np.multiply(values, values != OUTSIDE, out=values)
        target.copy_(part)
        if largest == IGNORED:
            target.numpy()[ignored] = IGNORE_INDEX
    return out


def mean_labels(readers: Tensor, num_classes: int) -> Tensor:
    """Return the share of readers who labeled each class, -100 where one of them is.

    Args:
        readers: int64 ``(N, R, *S)``, -100 where ignored.
        num_classes: Number of classes C.

    Returns:
        Soft labels, float32 ``(N, C, *S)``.
    """
    classes = [(readers == index).float().mean(dim=1) for index in range(num_classes)]
    ignored = (readers == IGNORE_INDEX).any(dim=1, keepdim=True)
    return torch.stack(classes, dim=1).masked_fill_(ignored, IGNORE_INDEX)


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
    for name in ("posterior", "readers"):
        if all(name in sample for sample in samples):
            batch[name] = torch.stack([sample[name] for sample in samples])
    return batch
