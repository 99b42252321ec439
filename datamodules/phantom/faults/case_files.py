"""The files of the cases of a phantom on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from datamodules.reading.nifti import stem

_FLARE_LABELS = ("TrainingMask", "labels", "labelsTr")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case of a phantom.

    Args:
        dataset: ``acdc``, ``brats`` or ``flare``.
        images: One file for each input channel.
        label: The label file.
        posterior: The posterior of the labels as they were drawn; few faults change it.
    """

    dataset: str
    images: tuple[Path, ...]
    label: Path
    posterior: Path

    @property
    def folder(self) -> Path:
        """Where the label is."""
        return self.label.parent


def phantom_cases(root: Path) -> dict[str, CaseFiles]:
    """Return the files of every case of the phantom in ``root``, by the case's name, sorted.

    Raises:
        ValueError: ``root`` is not the folder of a phantom.
    """
    card = root / "phantom.json"
    if not card.is_file():
        raise ValueError(f"{root} must be a phantom's folder, it has no phantom.json.")
    dataset = json.loads(card.read_text())["dataset"]
    cases: dict[str, CaseFiles] = {}
    for truth in sorted((root / "posterior").glob("*/*.npz")):
        name = truth.stem
        files = sorted(path for path in root.rglob(f"{name}*.nii*") if path.is_file())
        if dataset == "flare":
            label = next(path for path in files if path.parent.name in _FLARE_LABELS)
        else:
            ends = ("_gt", "_seg", "-seg")
            label = next(path for path in files if stem(path).endswith(ends))
        images = tuple(path for path in files if path != label)
        cases[name] = CaseFiles(dataset, images, label, truth)
    return cases
