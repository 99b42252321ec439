"""Pictures of the worst, or the least confident, cases of a test: one slice per case."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mbls.metrics.archives import load_arrays

__all__ = ["IGNORED", "Picture", "WorstPictures", "load_pictures", "save_pictures"]

IGNORED = 255
By = Literal["dice", "soft_dice"]
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
        soft_dice: Mean soft Dice confidence of the foreground classes; NaN if unknown.
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
    soft_dice: float = float("nan")


class WorstPictures:
    """Keep pictures of the cases with the lowest Dice or confidence; ties are broken by index.

    Each process keeps its own; :func:`worst_of` the pictures of all processes are the worst of all.

    Args:
        number: Number of pictures to keep.
        by: What orders the cases.
        ignore_index: Label of ignored voxels.
    """

    def __init__(self, number: int, *, by: By = "dice", ignore_index: int = -100) -> None:
        self.number, self.ignore_index = number, ignore_index
        self.by: By = by
        self.kept: list[Picture] = []

    def update(
        self,
        batch: Mapping[str, Any],
        probs: Tensor,
        dice: float,
        classes: Tensor | None = None,
        soft_dice: float = float("nan"),
    ) -> None:
        """Keep a picture of a case if it is among the worst so far.

        Args:
            batch: One case: ``case``, ``index``, ``label`` ``(1, *S)``, ``spacing``, and ``image``
                ``(1, M, *S)`` if there is one.
            probs: ``(1, C, *S)``.
            dice: Score of the case; cases without foreground (NaN) are skipped.
            classes: Predicted classes ``(1, *S)``; None for those of the highest probability.
            soft_dice: Confidence of the case.
        """
        own = ({"dice": dice, "soft_dice": soft_dice}[self.by], int(batch["index"][0]))
        worse = [p for p in self.kept if (getattr(p, self.by), p.index) < own]
        if own[0] == own[0] and len(worse) < self.number:
            picture = self._picture(batch, probs, dice, classes)
            picture = replace(picture, soft_dice=soft_dice)
            self.kept = worst_of([*self.kept, picture], self.number, by=self.by)

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


def worst_of(pictures: Iterable[Picture], number: int, *, by: By = "dice") -> list[Picture]:
    """Return the pictures with the lowest Dice or confidence in ascending order."""
    return sorted(pictures, key=lambda p: (getattr(p, by), p.index))[:number]


def save_pictures(path: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures to one ``.npz`` without pickle."""
    arrays: dict[str, np.ndarray] = {
        "index": np.array([p.index for p in pictures], dtype=np.int64),
        "case": np.array([p.case for p in pictures], dtype=np.str_),
        "dice": np.array([p.dice for p in pictures], dtype=np.float64),
        "soft_dice": np.array([p.soft_dice for p in pictures], dtype=np.float64),
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
    soft_dice = arrays.get("soft_dice", np.full(len(arrays["case"]), np.nan))  # earlier versions
    return [
        Picture(
            int(arrays["index"][n]), str(arrays["case"][n]), float(arrays["dice"][n]),
            int(arrays["slice"][n]), (float(along[0]), float(along[1])),
            **{name: arrays[f"{name}_{n}"] for name in _ARRAYS}, soft_dice=float(soft_dice[n]),
        )
        for n, along in enumerate(arrays["spacing"])
    ]  # fmt: skip
