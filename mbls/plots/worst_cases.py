"""Pictures of the worst cases of a test: one slice per case."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbls.metrics.archives import load_arrays

__all__ = ["IGNORED", "Picture", "WorstPictures", "load_pictures", "save_pictures"]

IGNORED = 255
_ARRAYS = ("image", "label", "prediction", "confidence")


@dataclass(frozen=True)
class Picture:
    """The slice of a case with the most wrong voxels.

    Attributes:
        index: Index of the case in its split.
        case: Name of the case.
        dice: Mean Dice over the foreground classes in the case's label.
        slice: Position of the slice along the last axis.
        spacing: Voxel size in mm along the two axes.
        image: float16 ``(X, Y)``, the first channel; empty if the grid has no image.
        label: uint8 ``(X, Y)``, :data:`IGNORED` where ignored.
        prediction: uint8 ``(X, Y)``.
        confidence: float16 ``(X, Y)``, the probability of the prediction.
    """

    index: int
    case: str
    dice: float
    slice: int
    spacing: tuple[float, float]
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray


class WorstPictures:
    """Keep pictures of the cases with the lowest Dice; ties are broken by index.

    Each process keeps its own; :func:`worst_of` the pictures of all processes are the worst of all.

    Args:
        number: Number of pictures to keep.
        ignore_index: Label of ignored voxels.
    """

    def __init__(self, number: int, *, ignore_index: int = -100) -> None:
        self.number, self.ignore_index = number, ignore_index
        self.kept: list[Picture] = []

    def update(
        self,
        batch: Mapping[str, Any],
        probs: Tensor,
        dice: float,
        classes: Tensor | None = None,
    ) -> None:
        """Keep a picture of a case if it is among the worst so far.

        Args:
            batch: One case: ``case``, ``index``, ``label`` ``(1, *S)``, ``spacing``, and ``image``
                ``(1, M, *S)`` if there is one.
            probs: ``(1, C, *S)``.
            dice: Score of the case; cases without foreground (NaN) are skipped.
            classes: Predicted classes ``(1, *S)``; None for those of the highest probability.
        """
        index = int(batch["index"][0])
        worse = [p for p in self.kept if (p.dice, p.index) < (dice, index)]
        if dice == dice and len(worse) < self.number:
            picture = self._picture(batch, probs, dice, classes)
            self.kept = worst_of([*self.kept, picture], self.number)

    def _picture(
        self, batch: Mapping[str, Any], probs: Tensor, dice: float, classes: Tensor | None
    ) -> Picture:
        label = batch["label"][0]
        confidence, predicted = probs[0].max(dim=0)
        if classes is not None:
            predicted = classes[0]
            confidence = probs[0].gather(0, predicted[None])[0]
        wrong = (predicted != label) & (label != self.ignore_index)
        place = int(wrong.flatten(0, 1).sum(0).argmax()) if label.ndim == 3 else 0

        def cut(volume: Tensor) -> Tensor:
            return volume[..., place] if label.ndim == 3 else volume

        shown = cut(label)
        shown = torch.where(shown == self.ignore_index, IGNORED, shown)
        image = cut(batch["image"][0, 0]) if "image" in batch else torch.empty(0, 0)
        along = batch["spacing"][0, :2].tolist()
        return Picture(
            int(batch["index"][0]), batch["case"][0], dice, place, (along[0], along[1]),
            image.float().cpu().numpy().astype(np.float16), shown.cpu().numpy().astype(np.uint8),
            cut(predicted).cpu().numpy().astype(np.uint8),
            cut(confidence).float().cpu().numpy().astype(np.float16),
        )  # fmt: skip


def worst_of(pictures: Iterable[Picture], number: int) -> list[Picture]:
    """Return the pictures with the lowest Dice in ascending order."""
    return sorted(pictures, key=lambda p: (p.dice, p.index))[:number]


def save_pictures(path: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures to one ``.npz`` without pickle."""
    arrays: dict[str, np.ndarray] = {
        "index": np.array([p.index for p in pictures], dtype=np.int64),
        "case": np.array([p.case for p in pictures], dtype=np.str_),
        "dice": np.array([p.dice for p in pictures], dtype=np.float64),
        "slice": np.array([p.slice for p in pictures], dtype=np.int64),
        "spacing": np.array([p.spacing for p in pictures], dtype=np.float64),
    }
    for number, picture in enumerate(pictures):
        arrays |= {f"{name}_{number}": getattr(picture, name) for name in _ARRAYS}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load_pictures(path: Path) -> list[Picture]:
    """Read a file of :func:`save_pictures`.

    Raises:
        ValueError: The file is too large when unpacked.
    """
    arrays = load_arrays(path)
    return [
        Picture(
            int(arrays["index"][n]), str(arrays["case"][n]), float(arrays["dice"][n]),
            int(arrays["slice"][n]), (float(along[0]), float(along[1])),
            *(arrays[f"{name}_{n}"] for name in _ARRAYS),
        )
        for n, along in enumerate(arrays["spacing"])
    ]  # fmt: skip
