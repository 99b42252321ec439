"""Probabilities of validated cases, kept on disk while a calibrator is fitted to them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mbls.predictions import Prediction

__all__ = ["KeptPredictions"]


class KeptPredictions:
    """The cases that :class:`mbls.callbacks.PostHoc` has kept, read one at a time in each pass.

    Args:
        folder: Folder with ``<number>.npz``.
        cases: Name of each case, in order of its number.
    """

    def __init__(self, folder: Path, cases: Sequence[str]) -> None:
        self.folder, self.cases = folder, list(cases)

    def __iter__(self) -> Iterator[Prediction]:
        for number, case in enumerate(self.cases):
            with np.load(self.folder / f"{number}.npz", allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in file.files}
            spacing = tuple(map(float, arrays["spacing"]))
            image = arrays.get("image")
            yield Prediction(case, arrays["probs"], arrays["label"], spacing, image=image)
