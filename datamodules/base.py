"""What every segmentation dataset shares: cache, split, samplers, loaders, checks, restoring."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning
import nibabel as nib
import numpy as np
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.cache.preparation import Preparer
from datamodules.cache.preprocessing import Preprocessing
from datamodules.cache.store import CachedCase
from datamodules.case import Case, DataError, Problem, Survey
from datamodules.layouts.inputs import find_inputs
from datamodules.loading.augmentation import Augmentation
from datamodules.loading.datasets import InputDataset, PatchDataset, SliceDataset, VolumeDataset
from datamodules.loading.loaders import evaluation_loader, training_loader
from datamodules.loading.samplers import rank_and_world
from datamodules.loading.transform import Transform
from datamodules.origin import (
    origin_of,
    phantom_errors,
    phantom_home,
    phantom_notice,
    refuse_hidden_phantom,
)
from datamodules.parallel import console
from datamodules.reading.checks import RawCase
from datamodules.reading.examination import CaseFacts, Examination, patch_notes
from datamodules.reading.grids import Box
from datamodules.reading.truth import native_truth
from datamodules.reading.volumes import NiftiError, case_grid, source_header
from datamodules.settings import (
    Sampling,
    check_batch,
    check_classes,
    check_counts,
    check_dims,
    check_masking,
    check_overfit,
    check_raters,
)
from datamodules.splits import (
    HOLDOUT,
    PARTS,
    Division,
    Split,
    divided,
    fewer,
    hold_out,
    resolve_split,
)
from mbls.data import DataModule

DIVISION, PREPROCESSING, SAMPLING, OFF = Division(), Preprocessing(), Sampling(), Augmentation()


class SegmentationDataModule(lightning.LightningDataModule, ABC):
    """Base of all datasets: a subclass adds the class facts and finds the files.

    Nothing touches the disk before :meth:`prepare`, :meth:`check` or ``setup``. The class facts
    are there at once.

    Args:
        root: The dataset's folder; None for the phantom.
        phantom_root: Folder of the phantom, written if it is not there; None for
            ``data/<dataset>-phantom``.
        division: How patients are divided into train, val and test.
        predict_input: A NIfTI file or a folder of them to predict; None for the test part.
        cache_dir: Folder of all caches.
        preprocessing: What is done to images before they are cached.
        spatial_dims: 2 to train on slices, 3 on patches of the volume.
        sampling: How training samples are taken from the volumes.
        mask_background: If True, validation and test ignore background outside the patient, for
            datasets that mark it (0 in every modality). Training sees it all the same, so that a
            prediction is right there too.
        augmentation: Random changes to training samples.
        transform: Further ones, of MONAI, TorchIO, batchgeneratorsv2 or your own: a callable that
            takes and returns a dict with ``image`` and ``label``, see
            :mod:`datamodules.loading.transform`.
        batch_size: Training samples in a step over all ranks together, so that a run does not
            depend on their number. Validation, test and predict take one volume at a time.
        num_workers: Processes that load data, for each rank; they live through the run. With 0 a
            thread of this process makes the next batch, or loads the next volume, meanwhile.
        prepare_workers: Threads that fill the cache; None for one per CPU.
        seed: Seed of the order of samples and of all random changes.
    """

    dataset: str
    num_classes: int
    class_names: tuple[str, ...]
    class_keys: tuple[str, ...]
    in_channels: int
    modalities: tuple[str, ...] = ()  # names of the channels, if there are several
    unions: Mapping[str, tuple[int, ...]] = {}
    quantities: Sequence[Mapping[str, Any]] = ()  # derived from volumes: mbls.decisions.quantities
    label_map: Mapping[int, int]
    phantom_of: str = ""  # name of the dataset in the phantom's notice
    zero_background: ClassVar[bool] = False  # voxels that are 0 in all modalities: outside
    reader_version: ClassVar[int] = 1  # raised where the reader gives other numbers than before

    def __init__(
        self,
        root: Path | None = None,
        *,
        phantom_root: Path | None = None,
        division: Division = DIVISION,
        predict_input: Path | None = None,
        cache_dir: Path = Path("cache"),
        preprocessing: Preprocessing = PREPROCESSING,
        spatial_dims: Literal[2, 3] = 2,
        sampling: Sampling = SAMPLING,
        mask_background: bool = False,
        augmentation: Augmentation = OFF,
        transform: Transform | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        prepare_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_classes(self.num_classes, dataset=self.dataset)
        check_dims(spatial_dims, patch_size=sampling.patch_size, spacing=preprocessing.spacing)
        check_masking(mask_background, dataset=self.dataset, marked=self.zero_background)
        check_counts(
            batch_size=batch_size,
            num_workers=num_workers,
            prepare_workers=prepare_workers,
            seed=seed,
        )
        self.spatial_dims: int = spatial_dims
        self.root = root
        self.phantom_root = phantom_root or Path("data") / f"{self.dataset}-phantom"
        self.division = division
        self.predict_input = predict_input
        self.preprocessing = preprocessing
        self.sampling = sampling
        self.augmentation, self.transform = augmentation, transform
        self.mask_background = mask_background
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed = seed
        self.start: tuple[int, int] = (0, 0)  # (epoch, batch) at which training resumes
        self.preparer = Preparer(
            self.dataset,
            cache_dir,
            preprocessing=self.preprocessing,
            label_map=self.label_map,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            planar=spatial_dims == 2,
            workers=prepare_workers,
            amend=self.amend,
            zero_background=self.zero_background,
            reader_version=self.reader_version,
        )
        self._cached: dict[str, list[CachedCase]] = {}
        self._noticed = False  # that the phantom is used
        self._printed: set[str] = set()  # notes about the data

    # What a dataset adds.

    @abstractmethod
    def discover(self, root: Path) -> Survey:
        """Find the cases under ``root``; raises DataError if it is not the dataset's folder."""

    def write_phantom(self, folder: Path, *, progress: bool) -> None:
        """Write the dataset's phantom into ``folder``, unless it is there; it may have none.

        Raises:
            DataError: The dataset has no phantom.
        """
        rule, fix = "a dataset without a phantom needs a root", "Give DATA_ROOT (--data-root)."
        raise DataError([Problem("", self.dataset, rule, "none", fix)])

    def provide(self, *, progress: bool) -> None:
        """Write the phantom if there is no root, and print a notice once."""
        if self.root is not None:
            return
        if self.phantom_of and not self._noticed:
            phantom_notice(self.phantom_root, self.phantom_of)
            self._noticed = True
        with phantom_errors(self.phantom_root):
            self.write_phantom(self.phantom_root, progress=progress)

    def is_input(self, name: str) -> bool:
        """Return True if a file of a folder to predict is an image; ``name`` is without suffix."""
        return True

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases of a file or folder to predict.

        A dataset of several modalities overrides this, with
        :func:`~datamodules.layouts.inputs.group_inputs`.

        Raises:
            DataError: There is nothing to predict.
        """
        return find_inputs(path, self.is_input)

    @staticmethod
    def amend(case: Case, raw: RawCase) -> RawCase:
        """Return a valid case with the dataset's corrections, on its native grid.

        A dataset may set voxels of the label to :data:`~datamodules.reading.checks.IGNORED`,
        which no loss and no metric sees. What it depends on is the case alone;
        :attr:`reader_version` is raised when it changes.
        """
        return raw

    # Interface to the rest of the package.

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Size of a training sample in voxels."""
        size = self.sampling.patch_size
        assert size != "auto"  # checked when it is constructed
        return size

    @property
    def crop(self) -> Literal["center", "random"]:
        """Where training samples are cropped from larger slices or volumes."""
        return self.sampling.crop

    @property
    def fold(self) -> int | None:
        """The fold that validates; None for the split as it is."""
        return self.division.fold

    @property
    def adapt(self) -> Literal["val", "holdout"]:
        """The cases that an adaptive loss observes."""
        return self.division.adapt

    @property
    def data_root(self) -> Path:
        """The folder the data come from."""
        return self.phantom_root if self.root is None else self.root

    @property
    def origin(self) -> Literal["real", "phantom"]:
        """``"phantom"`` if the data come from the phantom, wherever its folder is by now."""
        if self.predict_input is not None:
            return origin_of(self.predict_input)
        return "phantom" if self.root is None else origin_of(self.root)

    @property
    def fingerprint(self) -> str:
        """Hash of the case ids, their files' content, the preprocessing and the split.

        It does not depend on where the files are, nor on what only training uses (patches,
        augmentation, batches, seed).
        """
        self._load()
        content = {
            case.id: cached.facts["content"]
            for part, cases in self.parts.items()
            for case, cached in zip(cases, self._cached[part], strict=True)
        }
        ids = {part: self.cases(part) for part in self.parts}
        settings = asdict(self.preprocessing) | {
            "reader": self.reader_version,
            "labels": sorted(self.label_map.items()),
            "mask_background": self.mask_background,
        }
        text = json.dumps([content, settings, ids], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def cases(self, split: str) -> list[str]:
        """Return the ids of the cases of a part, by index.

        Args:
            split: ``train``, ``val``, ``test``, ``predict``, or ``holdout`` if there is one.
        """
        return [case.id for case in self._part(split)]

    def patients(self, split: str) -> list[str]:
        """Return the patient of each case of :meth:`cases`, in its order."""
        return [case.patient for case in self._part(split)]

    def phases(self, split: str) -> list[str]:
        """Return the phase of each case of :meth:`cases`, in its order; empty if not known."""
        return [case.phase for case in self._part(split)]

    def num_readers(self, split: str) -> int:
        """Return the largest number of readers who labeled a case of a part."""
        return max((len(case.label_files) for case in self._part(split)), default=0)

    def label_values(self, case_id: str) -> tuple[int, ...]:
        """Return the value that each class has in a case's label file, predicted ones included.

        Of several it is the smallest that is not negative, if there is one.
        """
        scheme = self._case(case_id).scheme
        pairs = tuple(self.label_map.items()) if scheme is None else scheme.classes
        return tuple(
            min((value for value, index in pairs if index == k), key=lambda v: (v < 0, v))
            for k in range(self.num_classes)
        )

    def source_header(self, case_id: str) -> nib.Nifti1Header:
        """Return the header of a predicted case's first file: its sform, qform and voxel size."""
        case = next(case for case in self._part("predict") if case.id == case_id)
        try:
            return source_header(case)
        except NiftiError as error:
            path = str(case.images[0])
            raise DataError([Problem(case_id, path, error.rule, error.found, error.fix)]) from error

    def fold_splits(self, folds: int) -> list[Split]:
        """Return ``folds`` splits by patient, each validating on another part; test is the same.

        They are those that ``fold`` and ``folds`` give without a file.

        Raises:
            DataError: The dataset has problems, a fold has no patients, or the split file has
                folds already.
        """
        base = replace(self._division(), fold=None, folds=folds)
        self.provide(progress=True)
        survey = self._survey()
        return [
            resolve_split(survey, replace(base, fold=fold), refold=True) for fold in range(folds)
        ]

    def check(self, *, progress: bool = True) -> list[Problem]:
        """Read every case, and return all problems of dataset, cases, split and cache folder."""
        return list(self.examine(pictures=0, progress=progress).problems)

    def examine(self, *, pictures: int = 24, progress: bool = True) -> Examination:
        """Read every case, and return all problems with the facts about the cases without any.

        Args:
            pictures: How many cases get a picture for the contact sheet.
            progress: If True, show a progress bar.
        """
        try:
            self.provide(progress=progress)
            survey = self._survey()
        except DataError as error:
            return Examination(error.problems, ())
        found = self.preparer.examine(survey.cases, pictures=pictures, progress=progress)
        problems = [*survey.problems, *found.problems]
        for step in (lambda: self._parts(survey), lambda: self.preparer.claim(survey.cases)):
            try:
                step()
            except DataError as error:
                problems += error.problems
        notes = patch_notes(found.facts, self.patch_size)
        return Examination(tuple(problems), found.facts, tuple(notes))

    def save_contact_sheet(self, path: Path, facts: Sequence[CaseFacts], *, title: str) -> None:
        """Write a PNG of the cases that :meth:`examine` took a picture of.

        Raises:
            OSError: The file cannot be written.
        """
        from datamodules.reading.contact_sheet import save_contact_sheet  # with matplotlib

        save_contact_sheet(
            path, facts, class_names=self.class_names, title=title, channel_names=self.modalities
        )

    def prepare(self, *, progress: bool = True) -> None:
        """Write the phantom if there is no root, and fill the cache with every case of the split.

        What is in the cache already is not read again, so an interrupted call resumes where it
        stopped.

        Raises:
            DataError: Lists every problem of every case, once all cases have been tried.
        """
        if self.predict_input is not None:
            return  # nothing but the input is read
        self.provide(progress=progress)
        vars(self).pop("parts", None)
        self._cached.clear()
        cases = [case for cases in self.parts.values() for case in cases]
        self.preparer.fill(cases, progress=progress)

    def restore(self, case_id: str, logits: Tensor) -> tuple[Tensor, np.ndarray]:
        """Bring logits from the cache's grid back to the case's own grid.

        Logits are resampled linearly and the softmax comes afterwards: the other order would
        average probabilities across boundaries.

        Args:
            case_id: A case of any part, or of the input to predict.
            logits: ``(C, X, Y, Z)`` on the grid of the batch.

        Returns:
            float32 logits ``(C, *native shape)`` in the file's axis order, and the affine of the
            file, as it is there.
        """
        case = self._case(case_id)
        shape, file_affine, affine = case_grid(case)
        grid = self.preprocessing.grid(shape, affine, self._box(case))
        return grid.back(logits), file_affine

    def truth(self, case_id: str) -> dict[str, Tensor]:
        """Return label and posterior on a case's native grid, as a batch without an image.

        ``label`` int64 ``(1, X, Y, Z)`` with -100 where ignored, ``spacing`` ``(1, 3)`` in mm and,
        if known, ``posterior`` ``(1, C, X, Y, Z)``; axes as in the case's file. Several readers'
        labels are ``readers`` int16 ``(1, R, X, Y, Z)``, and ``label`` their majority.

        Raises:
            DataError: The case's files no longer keep the rules.
        """
        raw, problems = self.preparer.read(self._case(case_id))
        if raw is None:
            raise DataError(problems)
        return native_truth(raw, mask_background=self.mask_background, num_classes=self.num_classes)

    def draw_labels(self, case_id: str, number: int, *, seed: int = 0) -> Tensor:
        """Draw labels of a phantom's case from its posterior, with voxels correlated as they are.

        Args:
            case_id: A case of any part.
            number: How many.
            seed: Seed of the draws; the labels depend on it, the case and the phantom alone.

        Returns:
            Class indices, uint8 ``(number, X, Y, Z)`` on the cache's grid.

        Raises:
            DataError: The case is not from a phantom, or from one of an earlier version.
        """
        from datamodules.phantom.redraw import redraw_labels  # lazy: seldom needed

        case = self._case(case_id)
        drawn = redraw_labels(case, number, seed=seed)
        shape, _, affine = case_grid(case)
        return self.preprocessing.grid(shape, affine, self._box(case)).forward(drawn, linear=False)

    # Lightning.

    def prepare_data(self) -> None:
        """Call :meth:`prepare`; it has nothing left to do if it was called before training."""
        self.prepare()

    def setup(self, stage: str) -> None:
        """Open the cache; never writes.

        Raises:
            DataError: A case is not in the cache, or a fit has fewer samples than a batch.
            TrainerError: The trainer's ``overfit_batches`` is set.
        """
        if self.trainer is not None:
            check_overfit(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        if self.predict_input is None:
            self._load()
            if stage == "fit":
                samples = len(self.train_dataset())
                check_batch(self.batch_size, samples=samples, root=self.data_root)
                counts = [len(case.label_files) for case in self._part("train")]
                check_raters(self.sampling.raters, readers=counts, root=self.data_root)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training samples, at the trainer's epoch and :attr:`start`."""
        self._load()
        return training_loader(
            self.train_dataset(),
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=self.trainer.current_epoch if self.trainer is not None else 0,
            start=self.start,
            num_workers=self.num_workers,
            foreground=self.sampling.foreground,
            pin_memory=self._pins_memory,
        )

    def train_dataset(self) -> SliceDataset | PatchDataset:
        """Return the training samples: slices, or patches of the volume."""
        settings: dict[str, Any] = {
            "patch_size": self.patch_size,
            "crop": self.crop,
            "augmentation": self.augmentation,
            "transform": self.transform,
            "seed": self.seed,
            "raters": self.sampling.raters,
        }
        if self.spatial_dims == 2:
            return SliceDataset(self._cached["train"], **settings)
        return PatchDataset(
            self._cached["train"], samples_per_case=self.sampling.samples_per_case, **settings
        )

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return the loader of the validation volumes; after it that of a holdout, if there is one.

        The first is scored, and a loss that adapts observes the last.
        """
        if self.adapt == "val":
            return self._volumes("val")
        return [self._volumes("val"), self._volumes(HOLDOUT)]

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test volumes, with the labels of several readers."""
        return self._volumes("test", readers=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the input to predict, or of the test volumes if none is given."""
        if self.predict_input is None:
            return self._volumes("test")
        return self._loader(InputDataset(self._part("predict"), self.preparer))

    # Inside.

    @cached_property
    def parts(self) -> dict[str, list[Case]]:
        """The cases of each part of the split, in the order of their indices."""
        survey = self._survey()
        return divided(survey, self._parts(survey))

    def _survey(self) -> Survey:
        survey = self.discover(self.data_root)
        refuse_hidden_phantom(self.data_root, survey.cases)
        new = [text for text in survey.notes if text not in self._printed]
        self._printed.update(new)
        for text in new if rank_and_world()[0] == 0 else ():
            console.print(text, style="yellow", markup=False, highlight=False)
        return survey

    def _division(self) -> Division:
        """Return the division; a phantom's own split is used unless another is given."""
        home = phantom_home(self.data_root)
        if self.division.split is not None or home is None:
            return self.division
        return replace(self.division, split=home / "split.json")

    def _parts(self, survey: Survey) -> Split:
        """Return the split, with a holdout part if ``adapt`` is ``holdout``."""
        split = resolve_split(survey, self._division())
        if self.division.train_patients is not None and not self.division.external:
            split = fewer(split, self.division.train_patients)
        if self.adapt == "val" or self.division.external:
            return split
        return hold_out(split, self.division.holdout_fraction)

    def _part(self, part: str) -> list[Case]:
        if part == "predict":
            if self.predict_input is not None:
                return self.input_cases(self.predict_input)
            part = "test"
        known = PARTS if self.adapt == "val" else (*PARTS, HOLDOUT)
        if part not in known:
            raise ValueError(f"split must be {', '.join(known)} or predict, got {part!r}.")
        return self.parts[part]

    def _case(self, case_id: str) -> Case:
        parts = tuple(self.parts) if self.predict_input is None else ("predict",)
        for case in (case for part in parts for case in self._part(part)):
            if case.id == case_id:
                return case
        raise ValueError(f"case_id must be a case of {self.dataset}'s split, got {case_id!r}.")

    def _box(self, case: Case) -> Box | None:
        """Return a case's crop box; a case that is not in the cache is read again."""
        if self.preprocessing.crop_above is None:
            return None
        cached = self.preparer.cache.find(case) if case.label is not None else None
        if cached is not None:
            return tuple((int(a), int(b)) for a, b in cached.facts["box"])
        raw, problems = self.preparer.read(case)
        if raw is None:
            raise DataError(problems)
        return self.preprocessing.box(raw.image)

    def _load(self) -> None:
        if not self._cached:
            self._cached = {part: self.preparer.open(cases) for part, cases in self.parts.items()}

    def _volumes(self, part: str, *, readers: bool = False) -> DataLoader[Any]:
        self._load()
        settings = {"mask_background": self.mask_background, "readers": readers}
        return self._loader(VolumeDataset(self._cached[part], **settings))

    def _loader(self, dataset: VolumeDataset | InputDataset) -> DataLoader[Any]:
        return evaluation_loader(
            dataset, num_workers=self.num_workers, pin_memory=self._pins_memory
        )

    @property
    def _pins_memory(self) -> bool:
        """Return True if batches go to CUDA: a GPU that the run leaves alone gets no context."""
        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)


if TYPE_CHECKING:  # mypy checks the contract

    def _keeps_contract(data: SegmentationDataModule) -> DataModule:
        return data
