"""Datasets that describe themselves: nnU-Net, Decathlon, image folders, and tables of files.

Classes, channels and cases are read from the files, and a :class:`~datamodules.plan.Plan` chooses
voxel size, normalization and sample size where they are ``auto``. All of it ends up in a run's
config.yaml (:attr:`FilesDataModule.planned`), so a trained network does not change with its data.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from datamodules.base import DIVISION, SegmentationDataModule
from datamodules.cache.preprocessing import Preprocessing
from datamodules.case import Case, DataError, Problem, Survey
from datamodules.layouts.decathlon import read_decathlon
from datamodules.layouts.found import Found, group_patients
from datamodules.layouts.images import read_images
from datamodules.layouts.inputs import find_inputs, group_inputs
from datamodules.layouts.labels import Value, read_labels
from datamodules.layouts.nnunet import colors_in, read_nnunet
from datamodules.layouts.table import read_table
from datamodules.parallel import console
from datamodules.plan import describe, make_plan
from datamodules.reading.checks import IGNORED
from datamodules.reading.pictures import is_picture
from datamodules.settings import Sampling
from datamodules.splits import Division
from mbls.runtime.ranks import is_first

AUTO_PREPROCESSING = Preprocessing(spacing="auto", normalize="auto")
AUTO_SAMPLING = Sampling(patch_size="auto", crop="random", foreground=0.3333)


class FilesDataModule(SegmentationDataModule):
    """Base of the datasets that are described by their files.

    Args:
        root: The dataset's folder.
        name: Name of the dataset in the cache; None for that of the folder.
        labels: Label names with their value in the label files, a color ``"#ff0000"``, or several
            values for a region; None for those of the dataset.
        channels: Names of the channels, which choose the normalization; None for those of the
            dataset.
        patient: Regular expression that finds the patient in a case's name, its first group or
            the whole match; None for a patient a case.
        patch_voxels: Largest number of voxels of a sample whose size is ``auto``; None for 512 x
            512 pixels or 128 x 128 x 128 voxels.
        division: See :class:`~datamodules.splits.Division`; without a split file the dataset's
            own is used.
        preprocessing: See :class:`~datamodules.cache.preprocessing.Preprocessing`.
        spatial_dims: 2 to train on slices, 3 on patches of the volume.
        sampling: See :class:`~datamodules.settings.Sampling`.
        cache_dir: Folder of all caches.
        **settings: See :class:`~datamodules.base.SegmentationDataModule`.

    Raises:
        DataError: Something is to be read from the files, and they cannot be.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        name: str | None = None,
        labels: dict[str, int | str | list[int]] | None = None,
        channels: list[str] | None = None,
        patient: str | None = None,
        patch_voxels: int | None = None,
        division: Division = DIVISION,
        preprocessing: Preprocessing = AUTO_PREPROCESSING,
        spatial_dims: Literal[2, 3] = 2,
        sampling: Sampling = AUTO_SAMPLING,
        cache_dir: Path = Path("cache"),
        **settings: Any,
    ) -> None:
        self.patient, self.patch_voxels = patient, patch_voxels
        self.labels: Mapping[str, Value] | None = labels
        auto = (preprocessing.spacing, preprocessing.normalize, sampling.patch_size)
        if name is None or labels is None or channels is None or "auto" in auto:
            found = self._read(self._some_root(root))
            if not found.cases:
                raise DataError(found.problems)
            name, labels = name or found.name, labels or cast("Any", dict(found.labels))
            channels = channels or list(found.channels)
            if division.split is None and found.split is not None:
                division = replace(division, split=found.split, fold=division.fold or 0)
                _say(f"Split: fold {division.fold} of {found.split} (FOLD=k for another).")
        unnamed = self.labels is None
        classes = read_labels(labels, f"labels of {name}")
        if unnamed:
            _say(f"Classes: {', '.join(f'{key} ({value})' for key, value in labels.items())}.")
        if "auto" in auto:
            plan = make_plan(
                found.cases,
                channels=channels,
                background=[value for value, k in classes.label_map.items() if not 0 < k < 255],
                spatial_dims=spatial_dims,
                orientation=preprocessing.orientation,
                voxels=patch_voxels,
                cache_dir=cache_dir,
                progress=True,
            )
            _say(describe(plan))
            preprocessing, sampling = plan.fill(preprocessing, sampling, spatial_dims)
        self.labels, self.dataset = labels, name
        self.class_names, self.class_keys = classes.names, classes.keys
        self.num_classes, self.unions = len(classes.names), classes.unions
        self.label_map, self.in_channels = classes.label_map, len(channels)
        self.modalities = tuple(channels) if len(channels) > 1 else ()
        self.channels = tuple(channels)
        super().__init__(
            root,
            division=division,
            preprocessing=preprocessing,
            spatial_dims=spatial_dims,
            sampling=sampling,
            cache_dir=cache_dir,
            **settings,
        )

    @abstractmethod
    def read(self, root: Path) -> Found:
        """Return what the files in a folder describe.

        Raises:
            DataError: The folder is none of this layout.
        """

    @property
    def planned(self) -> dict[str, Any]:
        """The arguments that were chosen from the files, for a run's config.yaml."""
        return {
            "name": self.dataset,
            "labels": self.labels,
            "channels": list(self.channels),
            "division": asdict(self.division),
            "preprocessing": asdict(self.preprocessing),
            "sampling": asdict(self.sampling),
        }

    @property
    def origin(self) -> Literal["real", "phantom"]:
        """Real, unless the folder is a phantom's."""
        return "real" if self.root is None and self.predict_input is None else super().origin

    def discover(self, root: Path) -> Survey:
        """Find the cases, and compare labels and channels with those of the settings."""
        found = self._read(root)
        problems = list(found.problems)
        if len(found.channels) != len(self.channels):
            rule = f"the images must have the {len(self.channels)} channels of the settings"
            fix = "Use a run that was trained on data with these channels."
            shown = ", ".join(found.channels)
            problems.append(Problem("", str(root), rule, shown, fix))
        if self.division.external:
            problems += self._other_labels(found, root)
        notes = found.notes
        if self.patient is None and all(case.id == case.patient for case in found.cases):
            notes = (
                *notes,
                "Every case is taken for a patient of its own; PATIENT='regex' finds the patient "
                "in its name.",
            )
        return replace(found, problems=tuple(problems), notes=notes).survey

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder to predict."""
        return find_inputs(path, self.is_input)

    def _other_labels(self, found: Found, root: Path) -> list[Problem]:
        """Return the labels of an external test set that mean something else than the run's."""
        theirs = read_labels(found.labels, f"labels of {root}")
        names = {value: theirs.names[k] for value, k in theirs.label_map.items() if k < IGNORED}
        problems = []
        for value, k in self.label_map.items():
            name = names.pop(value, None)
            if k < IGNORED and name is not None and name.lower() != self.class_names[k].lower():
                rule = f"label {value} must be {self.class_names[k]}, as in the run"
                fix = "Correct the names in its dataset.json, or test a run with these labels."
                problems.append(Problem("", str(root), rule, name, fix))
        for value, name in names.items():
            rule = f"the labels must be those of the run, {', '.join(self.class_names)}"
            fix = "Test a run with these labels, or relabel the data."
            problems.append(Problem("", str(root), rule, f"{name} ({value})", fix))
        return problems

    def _read(self, root: Path) -> Found:
        return group_patients(self.read(root), self.patient)

    def _some_root(self, root: Path | None) -> Path:
        if root is None:
            rule = "the dataset needs a data root"
            fix = "Give its folder: DATA_ROOT=FOLDER (--data-root FOLDER)."
            raise DataError([Problem("", type(self).__name__, rule, "none", fix)])
        return root


class NNUNetDataModule(FilesDataModule):
    """A raw dataset of nnU-Net v2, ``nnUNet_raw/DatasetXXX_Name`` (Isensee et al. 2021).

    Label values that only occur in regions are classes of their own, the regions are unions. The
    names of the channels choose the normalization as in nnU-Net. ``labelsTs`` is the test set.
    nnU-Net's splits_final.json is used if it is in the folder or where nnU-Net preprocessed it:
    the validation cases of its fold, which nnU-Net reports on, are the test part (with
    ``labelsTs`` the validation part), and a part of the others validates.

    Args:
        root: The folder with dataset.json, imagesTr and labelsTr.
        **settings: See :class:`FilesDataModule`.
    """

    def __init__(self, root: Path | None = None, **settings: Any) -> None:
        super().__init__(root, **settings)

    def read(self, root: Path) -> Found:
        """Read dataset.json and the names of the files."""
        return read_nnunet(root)

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder; ``_0000`` is not part of a case's name.

        Color pictures have all channels in one file, as for training.
        """
        if path.is_dir() and self.in_channels > 1 and not self._are_colors(path):
            return group_inputs(path, [(f"_{k:04d}",) for k in range(self.in_channels)])
        cases = find_inputs(path, self.is_input)
        return [
            replace(case, id=name, patient=name)
            for case in cases
            for name in (case.id.removesuffix("_0000"),)
        ]

    def _are_colors(self, folder: Path) -> bool:
        pictures = sorted(filter(is_picture, folder.iterdir()))
        return bool(pictures) and colors_in(pictures[0]) == self.in_channels


class DecathlonDataModule(FilesDataModule):
    """A task of the Medical Segmentation Decathlon (Antonelli et al. 2022, arXiv:1902.09063).

    Args:
        root: The folder with dataset.json, imagesTr and labelsTr; images of several modalities
            have them on their fourth axis.
        **settings: See :class:`FilesDataModule`.
    """

    def __init__(self, root: Path | None = None, **settings: Any) -> None:
        super().__init__(root, **settings)

    def read(self, root: Path) -> Found:
        """Read dataset.json."""
        return read_decathlon(root)

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder to predict."""
        stacked = self.in_channels > 1
        return [replace(case, stacked=stacked) for case in find_inputs(path, self.is_input)]


class ImagesDataModule(FilesDataModule):
    """A folder with a folder of images and one of label pictures of the same names.

    PNG, JPEG, TIFF, ``.npy`` and NIfTI are read; gray or RGB; labels of 0 and 255, of class
    numbers, or of colors.

    Args:
        root: The folder.
        images: Name of the folder of images; None for ``images`` or another usual name.
        masks: Name of the folder of labels; None for ``masks``, ``labels`` or another usual name.
        readers: Folders of the labels of several readers, in place of ``masks``.
        pixel_size: Size of a pixel in mm along X and Y, which pictures do not have; 1 gives
            distances in pixels.
        **settings: See :class:`FilesDataModule`.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        images: str | None = None,
        masks: str | None = None,
        readers: list[str] | None = None,
        pixel_size: tuple[float, float] = (1.0, 1.0),
        **settings: Any,
    ) -> None:
        self.images, self.masks, self.readers = images, masks, tuple(readers or ())
        self.pixel_size = pixel_size
        super().__init__(root, **settings)

    def read(self, root: Path) -> Found:
        """Read the names of the files, and some label files for their values."""
        return read_images(
            root,
            images=self.images,
            masks=self.masks,
            readers=self.readers,
            pixel_size=self.pixel_size,
            labels=self.labels,
        )

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder to predict."""
        cases = find_inputs(path, self.is_input)
        return [replace(case, pixel_size=self.pixel_size) for case in cases]


class TableDataModule(FilesDataModule):
    """A CSV table with a row for each case.

    Columns: ``case``; ``patient`` (else the case); ``image``, or ``image_<channel>`` for each
    channel; ``label``, or ``reader_<name>`` for each of several readers; ``test`` with 1 for the
    cases of the test set. Paths are relative to the file.

    Args:
        root: The CSV file, or a folder with one.
        stacked: Whether the last axis of an image file is that of its channels.
        pixel_size: Size of a pixel in mm along X and Y, for pictures.
        **settings: See :class:`FilesDataModule`.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        stacked: bool = False,
        pixel_size: tuple[float, float] = (1.0, 1.0),
        **settings: Any,
    ) -> None:
        self.stacked, self.pixel_size = stacked, pixel_size
        super().__init__(root, **settings)

    def read(self, root: Path) -> Found:
        """Read the table, and some label files for their values."""
        return read_table(
            root, pixel_size=self.pixel_size, stacked=self.stacked, labels=self.labels
        )

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder to predict, by ``_<channel>`` if there are several.

        As for nnU-Net, channels may also be numbered: ``case_0000.nii.gz``.
        """
        if self.in_channels > 1 and path.is_dir() and not self.stacked:
            endings = [(f"_{name}", f"_{k:04d}") for k, name in enumerate(self.channels)]
            cases = group_inputs(path, endings)
        else:
            cases = find_inputs(path, self.is_input)
        extra = {"stacked": self.stacked, "pixel_size": self.pixel_size}
        return [replace(case, **extra) for case in cases]  # type: ignore[arg-type]


@cache
def _say(text: str) -> None:
    """Print a text on rank 0, once in a process, which may make several datamodules."""
    if is_first():
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
