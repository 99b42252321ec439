"""FLARE21, FLARE22 and AbdomenCT-1K: abdominal CT with four or thirteen organs.

Ma et al., "Fast and Low-GPU-memory abdomen CT organ segmentation: The FLARE challenge", Medical
Image Analysis 82:102616, 2022; Ma et al., "AbdomenCT-1K: Is Abdominal Organ Segmentation a Solved
Problem?", IEEE TPAMI 44(10):6695-6714, 2022.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.base import SegmentationDataModule
from datamodules.case import Case, DataError, Problem, Survey
from datamodules.layouts.flare_folders import survey_flare
from datamodules.layouts.flare_releases import RELEASES, ReleaseName
from datamodules.layouts.flare_tubes import TUBES, ignore_beyond
from datamodules.layouts.inputs import find_inputs
from datamodules.reading.checks import RawCase

_PHANTOM_RELEASES: dict[ReleaseName, Literal["2021", "2022", "1k"]] = {
    "flare21": "2021",
    "flare22": "2022",
    "abdomenct1k": "1k",
}


class FLAREDataModule(SegmentationDataModule):
    """Abdominal CT, one case per patient; ``release`` determines the organs.

    Without ``root``, the phantom in the release's layout is written to ``phantom_root`` and used.

    Args:
        root: The folder of the release, or one above it (up to three levels).
        release: ``flare21`` and ``abdomenct1k``: liver, kidneys, spleen, pancreas. ``flare22``:
            thirteen organs, the kidneys apart. The number of classes is known before any file is
            looked at, so that the files must be of this release.
        phantom_root: Folder of the phantom; None for ``data/<release>-phantom``.
        phantom_seed: Seed of the phantom.
        phantom_patients: Number of patients in its parts; None for 16 train, 4 val, 6 test.
        phantom_full_size: If True, slices have FLARE's 512 x 512 pixels instead of 128 x 128
            (``phantom_root`` gets ``-full``).
        **settings: See :class:`~datamodules.base.SegmentationDataModule`.

    Raises:
        ValueError: The release is unknown.
    """

    dataset = "flare"
    in_channels = 1

    def __init__(
        self,
        root: Path | None = None,
        *,
        release: ReleaseName = "flare21",
        phantom_root: Path | None = None,
        phantom_seed: int = 0,
        phantom_patients: dict[str, int] | None = None,
        phantom_full_size: bool = False,
        **settings: Any,
    ) -> None:
        if release not in RELEASES:
            raise ValueError(f"release must be {' or '.join(RELEASES)}, got {release!r}.")
        self.release = RELEASES[release]
        self.num_classes = len(self.release.organs) + 1
        self.class_names = ("background", *self.release.organs)
        self.class_keys = ("background", *self.release.keys)
        self.phantom_of = self.release.title
        self.label_map = {value: value for value in range(self.num_classes)}
        size = "-full" if phantom_full_size else ""
        folder = phantom_root or Path("data") / f"{release}-phantom{size}"
        super().__init__(root, phantom_root=folder, **settings)
        self.phantom_seed, self.phantom_full_size = phantom_seed, phantom_full_size
        self.phantom_patients = dict(phantom_patients or {"train": 16, "val": 4, "test": 6})

    def discover(self, root: Path) -> Survey:
        """Find the cases; see the README of this folder for what the downloads may look like."""
        return survey_flare(root, self.release)

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder; ``_0000`` is not part of a case's name."""
        cases = [
            replace(case, id=name, patient=name)
            for case in find_inputs(path, self.is_input)
            for name in (case.id.removesuffix("_0000"),)
        ]
        seen: dict[str, Path] = {}
        for case in cases:
            if case.id in seen:
                found = f"{seen[case.id].name} and {case.images[0].name}"
                rule = "each input must have a unique name, without _0000"
                fix = "Rename one of the two, or move it to another folder."
                raise DataError([Problem(case.id, str(path), rule, found, fix)])
            seen[case.id] = case.images[0]
        return cases

    @staticmethod
    def amend(case: Case, raw: RawCase) -> RawCase:
        """Ignore what may be aorta, vena cava or oesophagus beyond the slices they are labeled on.

        Only FLARE22 has these labels.
        """
        if raw.label is None or not np.isin(raw.label, TUBES).any():
            return raw
        return replace(raw, label=ignore_beyond(raw.label, raw.affine))

    def write_phantom(self, folder: Path, *, progress: bool) -> None:
        """Write the phantom unless it is there."""
        from datamodules.phantom import PhantomSettings, write_flare_phantom  # lazy: seldom needed

        release, full_size = _PHANTOM_RELEASES[self.release.name], self.phantom_full_size
        write_flare_phantom(
            folder,
            patients=self.phantom_patients,
            settings=PhantomSettings(release=release, full_size=full_size),
            seed=self.phantom_seed,
            workers=self.preparer.workers,
            progress=progress,
        )
