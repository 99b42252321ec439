"""A folder of predictions and labels, read and written case by case."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor

from mbls.data import IGNORE_INDEX
from mbls.predictions.alignment import Agreement, agreement, better_turn, inside
from mbls.predictions.axes import from_ras, from_stored, to_ras, to_stored
from mbls.predictions.case import Prediction
from mbls.predictions.checks import checked
from mbls.predictions.classes import (
    Channels,
)
from mbls.predictions.grids import same_place
from mbls.predictions.layouts import Format, Found
from mbls.predictions.names import NIFTI, stem
from mbls.predictions.stored import Stored, load_map, reading, save_map, save_nifti
from mbls.runtime.errors import PredictionError
from mbls.runtime.files import replace_file

__all__ = ["PredictionFolder", "grid_of", "require_new_folder"]

_MM = {1: 1000.0, 3: 0.001}  # NIfTI's codes of meter and micron


@dataclass
class PredictionFolder:
    """A folder of probability maps and one of labels.

    Made by :func:`mbls.predictions.open_predictions`. Maps of float16, uint8 and scaled integers
    are widened to float32, and renormalized where their sums are off by their own rounding.

    Attributes:
        root: The folder of the predictions.
        name: Name for tables.
        format: One of :data:`mbls.predictions.layouts.FORMATS`.
        channels: What the channels are.
        axes: Order of the axes of the stored arrays.
        notes: What a user should know: cases left out, quantized numbers.
        origin: ``"phantom"`` if the labels are those of a phantom of mbls, else ``"real"``.
        labeled: False if there are no labels: each voxel is ignored.
        turned: True if the stored arrays are in RAS orientation, not in that of the files: nnU-Net
            with its reader ``NibabelIOWithReorient``.
        renormalized: Voxels that were renormalized, of each case read so far that has any.
        aligned: True once the foreground of a case showed that the axes are those of the label.
    """

    root: Path
    name: str
    format: Format
    channels: Channels
    axes: str
    found: dict[str, Found]
    patients: tuple[str, ...]
    notes: list[str]
    origin: Literal["real", "phantom"] = "real"
    dataset_json: Path | None = None
    labeled: bool = True
    turned: bool = False
    renormalized: dict[str, int] = field(default_factory=dict)
    aligned: bool = False

    @property
    def kind(self) -> Literal["classes", "regions"]:
        """``"classes"``, of which each voxel has one, or ``"regions"``, which may overlap."""
        return "regions" if self.channels.regions else "classes"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first, or of the regions."""
        return self.channels.names

    @property
    def unions(self) -> dict[str, tuple[int, ...]]:
        """Named sets of classes that are scored together, of ``dataset.json``."""
        return dict(self.channels.unions)

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(self.found)

    @property
    def folds(self) -> tuple[int, ...] | None:
        """Fold of each case whose network was not trained on it, or None."""
        folds = tuple(one.fold for one in self.found.values() if one.fold is not None)
        return folds if len(folds) == len(self.found) else None

    def read(self, case: str) -> Prediction:
        """Return a case's probabilities and label, on the label's grid.

        The probabilities are a view of the array in the file's own order of memory. In the first
        case with foreground it is seen whether they lie as the label map next to them, or else the
        label; :attr:`notes` get what is odd.

        Raises:
            PredictionError: A file is damaged, the numbers are not probabilities, the label has
                values of no class, or the label map next to the probabilities is not theirs; the
                message names case and file.
        """
        one = self._one(case)
        array = from_stored(load_map(one.stored), self.axes)
        if self.turned:
            array = from_ras(array, nib.load(one.label).affine)
        probs, changed = checked(_tensor(array), one.stored, case, regions=self.channels.regions)
        if changed:
            self.renormalized[case] = changed
        with reading(one.label):
            image: Any = nib.load(one.label)
            data = np.asanyarray(image.dataobj) if self.labeled else None
        if data is None:
            shape = probs.shape if self.channels.regions else probs.shape[1:]
            label = torch.full(shape, IGNORE_INDEX, dtype=torch.int64)
        else:
            label = self.channels.encode(data.reshape(grid_of(image)), f"{case} ({one.label})")
        if not self.aligned:
            self._align(one, probs, label, image)
        return Prediction(
            case, probs, label, _spacing(image), _zero(one.stored), self.channels.regions
        )  # fmt: skip

    def write(self, folder: Path, case: str, probs: Tensor) -> list[Path]:
        """Write a case's probabilities and label map as they came: format, axes, key, geometry.

        The files have the names of those read, within the same folders (``fold_0/validation``).
        Numbers are float32 (float64 stays), also where those read were float16 or uint8. The label
        map is the likeliest class in the values of the labels, or nnU-Net's map of regions, in
        ``case.nii.gz`` (``case_label.nii.gz`` where that is the map of probabilities). nnU-Net's
        ``dataset.json`` is copied, so that the folder can be opened like the one read.

        Args:
            folder: The output folder, apart from those of the predictions and the labels.
            case: Name of the case.
            probs: Probabilities ``(C, X, Y, Z)`` on the label's grid.

        Returns:
            The paths written, the label map last; regions without order have none.

        Raises:
            OutputError: A file cannot be written.
            PredictionError: The folder is, has or lies in one that was read.
        """
        self.require_apart(folder)
        one = self._one(case)
        paths = [folder / path.relative_to(self.root) for path in one.stored.paths]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        kept = probs.detach().cpu()
        array = to_ras(kept.numpy(), nib.load(one.label).affine) if self.turned else kept.numpy()
        save_map(one.stored, paths, to_stored(array, self.axes, len(one.stored.shape)))
        if self.dataset_json is not None:
            replace_file(folder / "dataset.json", self.dataset_json.read_bytes())
        if self.channels.regions and self.channels.order is None:
            return paths
        end = next(end for end in NIFTI if one.label.name.lower().endswith(end))
        path = paths[0].with_name(f"{case}{end}")
        if one.stored.kind != "npz" and stem(path) in map(stem, paths):
            path = paths[0].with_name(f"{case}_label{end}")
        self._save_label(path, one, self.channels.label_map(kept))
        return [*paths, path]

    def write_label(self, folder: Path, case: str, chosen: Tensor) -> Path:
        """Write a case's label map alone, ``case.nii.gz``, in the values and on the grid of labels.

        Args:
            folder: The output folder, apart from those of the predictions and the labels.
            case: Name of the case.
            chosen: The class of each voxel, integers ``(X, Y, Z)`` on the label's grid, or whether
                it is in each region, bool ``(R, X, Y, Z)``.

        Raises:
            OutputError: The file cannot be written.
            PredictionError: The folder is, has or lies in one that was read, or the regions have
                no order.
        """
        self.require_apart(folder)
        one = self._one(case)
        place = folder / one.stored.paths[0].relative_to(self.root).parent
        place.mkdir(parents=True, exist_ok=True)
        end = next(end for end in NIFTI if one.label.name.lower().endswith(end))
        self._save_label(place / f"{case}{end}", one, self.channels.in_values(chosen.cpu()))
        return place / f"{case}{end}"

    def write_masks(self, folder: Path, case: str, masks: Mapping[str, np.ndarray]) -> None:
        """Write masks of a case, ``case_<name>.nii.gz`` of 0 and 1, on the grid of its label.

        Args:
            folder: As of :meth:`write_label`.
            case: Name of the case.
            masks: Boolean ``(X, Y, Z)`` by name.

        Raises:
            OutputError: A file cannot be written.
            PredictionError: The folder is, has or lies in one that was read.
        """
        self.require_apart(folder)
        one = self._one(case)
        place = folder / one.stored.paths[0].relative_to(self.root).parent
        place.mkdir(parents=True, exist_ok=True)
        for name, mask in masks.items():
            self._save_label(place / f"{case}_{name}.nii.gz", one, mask.astype(np.uint8))

    def _save_label(self, path: Path, one: Found, values: np.ndarray) -> None:
        label: Any = nib.load(one.label)
        save_nifti(path, values.reshape(label.shape[:3]), label)

    def _align(self, one: Found, probs: Tensor, label: Tensor, image: Any) -> None:
        """Compare probabilities with the label map next to them, or else with the label."""
        regions = self.channels.regions
        given = None if regions and self.channels.order is None else self._label_map(one, image)
        if given is not None:
            path, values, classes = given
            places = inside(classes, regions=regions)
            found = agreement(probs, values, self.channels)
            turn = better_turn(probs, places)
            if turn or min(found.all + 0.1, found.foreground + 0.5) < 1:
                raise PredictionError(_other_map(one, path, found, turn))
            if found.all < 0.99:
                self.notes.append(
                    f"{path} agrees with the likeliest classes of {one.stored.name} in "
                    f"{found.all:.1%} of the voxels: chosen by thresholds, postprocessed, or of "
                    "another export?"
                )
        else:
            places = inside(label, regions=regions)
            if turn := better_turn(probs, places):
                how, as_is, best = turn
                self.notes.append(
                    f"{one.case}: the label fits {one.stored.name} better with {how} (mean "
                    f"probability of the labeled foreground {best:.2f}, as it is {as_is:.2f}). "
                    "Are the axes of the export others (AXES, --axes), or is it flipped?"
                )
        self.aligned = len(places) > 0

    def _label_map(self, one: Found, label: Any) -> tuple[Path, np.ndarray, Tensor] | None:
        """Return path, values and classes of the label map next to a map, on the label's grid."""
        first = one.stored.paths[0]
        names = [f"{name}{end}" for name in (one.case, f"{one.case}_label") for end in NIFTI]
        read = {*one.stored.paths, *([one.label] if self.labeled else [])}
        for path in (first.with_name(name) for name in names):
            if not path.is_file() or any(path.samefile(other) for other in read):
                continue
            with reading(path):
                image: Any = nib.load(path)
                whole = image.get_data_dtype().kind in "iu" and image.dataobj.slope == 1
                shape = (*image.shape, 1)[:3]
                if not whole or math.prod(image.shape) != math.prod(shape):
                    continue
                # of one label the first three axes have the grid
                if shape != (*label.shape, 1)[:3] or not same_place(
                    shape, image.affine, label.affine
                ):
                    continue
                values = np.asanyarray(image.dataobj).reshape(shape)
            with suppress(PredictionError):  # of other values, as those of an image
                return path, values, self.channels.encode(values, one.case)
        return None

    def require_apart(self, folder: Path) -> None:
        """Require that nothing that was read can be replaced by what is written to a folder.

        Raises:
            PredictionError: The folder is that of the predictions or the labels, has it, or lies
                in it.
        """
        here = folder.resolve()
        for place, what in self._places:
            if here == place or here in place.parents or place in here.parents:
                raise PredictionError(
                    f"{folder} is no place for the output: {place} has the {what} that were read. "
                    "Choose a folder apart from it."
                )

    @cached_property
    def _places(self) -> tuple[tuple[Path, str], ...]:
        """The folders that were read, and what each has."""
        labels = os.path.commonpath([one.label.parent.absolute() for one in self.found.values()])
        return ((self.root.resolve(), "predictions"), (Path(labels).resolve(), "labels"))

    def _one(self, case: str) -> Found:
        if case not in self.found:
            raise PredictionError(
                f"{self.root} has no labeled case {case!r}; one is {self.cases[0]!r}."
            )
        return self.found[case]


def require_new_folder(folder: Path, sources: Sequence[PredictionFolder]) -> None:
    """Require that a folder is empty or new, and apart from all that is read.

    Raises:
        PredictionError: It has files, or is, has or lies in a folder that is read.
    """
    for source in sources:
        source.require_apart(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PredictionError(
            f"{folder} exists and is not empty; its files could be replaced. Remove it, or choose "
            "another."
        )


def grid_of(image: Any) -> tuple[int, ...]:
    """Return the shape ``(X, Y, Z)`` of a label; further axes must have one entry."""
    shape = tuple(image.shape)
    if len(shape) < 2 or any(size != 1 for size in shape[3:]):
        raise PredictionError(
            f"The label {image.get_filename()} has the shape {shape}, and must have three axes, "
            "with the class of each voxel. Is it an image, or a map of probabilities?"
        )
    return (*shape, 1)[:3]


def _other_map(
    one: Found, path: Path, found: Agreement, turn: tuple[str, float, float] | None
) -> str:
    why = f"it would fit with {turn[0]}" if turn else "swapped or flipped axes, or another export"
    return (
        f"{one.case}: {path} and the likeliest classes of {one.stored.name} agree in "
        f"{found.all:.1%} of the voxels ({found.foreground:.1%} of the foreground), and a label "
        f"map next to probabilities must be theirs: {why}? Export both together, state the axes "
        "(AXES, --axes), or move the label map away if it is not of these probabilities."
    )


def _spacing(image: Any) -> tuple[float, ...]:
    scale = _MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    sizes = [float(size) * scale for size in voxel_sizes(image.affine)]
    return tuple(sizes[:3])


def _zero(stored: Stored) -> float:
    """Return half the smallest step of the file's numbers."""
    if stored.step:
        return stored.step / 2
    return {2: 2.0**-25, 4: 2.0**-150}.get(stored.dtype.itemsize, 2.0**-1074)


def _tensor(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the memory of an array, which may be one that is only read."""
    native = array.astype(array.dtype.newbyteorder("="), copy=min(array.strides) < 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a decompressed file: nothing writes to it
        return torch.from_numpy(native)
