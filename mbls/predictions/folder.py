"""Open a folder of predictions and labels: cases are read and written one by one."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes
from torch import Tensor

from mbls.predictions.axes import ORDERS, common_order, from_stored, to_stored
from mbls.predictions.case import Prediction
from mbls.predictions.checks import checked
from mbls.predictions.classes import (
    Channels,
    channels_of_dataset,
    numbered,
    parse_regions,
    read_dataset_json,
)
from mbls.predictions.layouts import Format, Found, Layout, detect, find, labels_beside
from mbls.predictions.names import NIFTI, label_files, patients_of, stem
from mbls.predictions.stored import Stored, load_map, reading, save_map, save_nifti
from mbls.runtime.errors import PredictionError
from mbls.runtime.files import replace_file

__all__ = ["PredictionFolder", "open_predictions"]

LIKELY = {"nnunet": ("czyx",), "npz": ORDERS, "nifti": ("xyzc", "cxyz"),
          "nifti-per-class": ("cxyz",)}  # fmt: skip
SHIFT = 0.05  # voxels by which two grids may differ
_MM = {1: 1000.0, 3: 0.001}  # NIfTI's codes of meter and micron


@dataclass
class PredictionFolder:
    """A folder of probability maps and one of labels; a :class:`mbls.predictions.Source`.

    Made by :func:`open_predictions`. Maps of float16, uint8 and scaled integers are widened to
    float32, and renormalized where their sums are off by their own rounding.

    Attributes:
        root: The folder of the predictions.
        name: Name for tables.
        format: One of :data:`mbls.predictions.layouts.FORMATS`.
        channels: What the channels are.
        axes: Order of the axes of the stored arrays.
        notes: What a user should know: cases left out, quantized numbers.
        origin: ``"phantom"`` if the labels are those of a phantom of mbls, else ``"real"``.
        renormalized: Voxels that were renormalized, of each case read so far that has any.
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
    renormalized: dict[str, int] = field(default_factory=dict)

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

        The probabilities are a view of the array in the file's own order of memory.

        Raises:
            PredictionError: A file is damaged, the numbers are not probabilities, or the label has
                values of no class; the message names case and file.
        """
        one = self._one(case)
        array = from_stored(load_map(one.stored), self.axes)
        probs, changed = checked(_tensor(array), one.stored, case, regions=self.channels.regions)
        if changed:
            self.renormalized[case] = changed
        with reading(one.label):
            image: Any = nib.load(one.label)
            data = np.asanyarray(image.dataobj)
        label = self.channels.encode(data.reshape(_grid(image)), f"{case} ({one.label})")
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
            folder: The output folder, another than the one read.
            case: Name of the case.
            probs: Probabilities ``(C, X, Y, Z)`` on the label's grid.

        Returns:
            The paths written, the label map last; regions without order have none.

        Raises:
            OutputError: A file cannot be written.
            PredictionError: The folder is the one that was read.
        """
        if folder.resolve() == self.root.resolve():
            raise PredictionError(f"{folder} has the predictions that were read. Choose another.")
        one = self._one(case)
        paths = [folder / path.relative_to(self.root) for path in one.stored.paths]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        kept = probs.detach().cpu()
        save_map(one.stored, paths, to_stored(kept.numpy(), self.axes, len(one.stored.shape)))
        if self.dataset_json is not None:
            replace_file(folder / "dataset.json", self.dataset_json.read_bytes())
        if self.channels.regions and self.channels.order is None:
            return paths
        label: Any = nib.load(one.label)
        end = next(end for end in NIFTI if one.label.name.lower().endswith(end))
        path = paths[0].with_name(f"{case}{end}")
        if path in paths:
            path = paths[0].with_name(f"{case}_label{end}")
        save_nifti(path, self.channels.label_map(kept).reshape(label.shape), label)
        return [*paths, path]

    def _one(self, case: str) -> Found:
        if case not in self.found:
            raise PredictionError(
                f"{self.root} has no case {case!r}; the first is {self.cases[0]}."
            )
        return self.found[case]


def open_predictions(
    folder: Path,
    *,
    labels: Path | None = None,
    name: str | None = None,
    format: Format | None = None,
    class_names: Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    regions: str | None = None,
    axes: str | None = None,
    patient: str | None = None,
) -> PredictionFolder:
    """Open probability maps of any program and their labels; only headers are read.

    Args:
        folder: Results folder of nnU-Net v2 (a trainer's, a fold's, or the output of
            ``nnUNetv2_predict --save_probabilities``), or a folder of ``.npz``, of NIfTI with an
            axis of classes, or of one NIfTI a class, also within folders of the cases' names.
        labels: Folder of the label files, NIfTI; of nnU-Net's results, by default those beside.
        name: Name for tables; by default that of the dataset's folder.
        format: One of :data:`FORMATS`, if it must not be detected.
        class_names: Names of the classes, background first; default: those of a ``dataset.json``.
        label_values: Value of each class in the labels; default: of ``dataset.json``, or 0, 1, ...
        regions: ``"WT=1,2,3 TC=1,3"`` for overlapping regions: name and label values of each
            channel. nnU-Net's are known from its ``dataset.json``.
        axes: Order of the stored axes, one of :data:`ORDERS`; default: found by the shapes.
        patient: Regular expression that finds the patient in a case's name.

    Raises:
        PredictionError: Nothing to read, no case with a label, a damaged header, another grid,
            swapped axes or another number of classes; the message says what was found.
    """
    folder = Path(folder)
    layout = detect(folder, format)
    labels = labels_beside(layout, folder) if labels is None else Path(labels)
    if labels is None:
        raise PredictionError(
            f"The labels of {folder} are needed: LABELS=FOLDER (--labels); nnU-Net's are in "
            "nnUNet_raw/DatasetXXX/labelsTr."
        )
    files = label_files(labels)
    known = _known_channels(layout, labels, regions)
    found, notes = find(layout, files, class_names or (known.names if known else ()))
    grids = [_label_header(one) for one in found]
    orders = LIKELY[layout.format] if axes is None else (axes,)
    given = class_names or label_values
    count = len(given) if given and not regions else len(known) if known else None
    order = common_order(
        [(one.stored.shape, grid) for one, (grid, _) in zip(found, grids, strict=True)],
        orders, count, [one.stored.name for one in found],
    )  # fmt: skip
    for one, (_, affine) in zip(found, grids, strict=True):
        _check_geometry(one, affine)
    channels = _named(
        known, _channel_count(found[0].stored.shape, order), class_names, label_values
    )
    cases = [one.case for one in found]
    return PredictionFolder(
        folder,
        name or _dataset_name(layout, labels),
        layout.format,
        channels,
        order,
        {one.case: one for one in found},
        patients_of(cases, patient),
        [*notes, *_quantized(found)],
        _origin(labels),
        layout.dataset_json,
    )


def _known_channels(layout: Layout, labels: Path, regions: str | None) -> Channels | None:
    """Return the channels that are stated, or those of a ``dataset.json``.

    That of the predictions is of a network that nnU-Net trained; that of the labels also describes
    predictions of exclusive classes.
    """
    if regions is not None:
        return parse_regions(regions)
    if layout.dataset_json is not None:
        return channels_of_dataset(read_dataset_json(layout.dataset_json), regions=True)
    beside = labels.resolve().parent / "dataset.json"
    if beside.is_file():
        return channels_of_dataset(read_dataset_json(beside), regions=False)
    return None


def _channel_count(shape: tuple[int, ...], order: str) -> int:
    return shape[(order if len(shape) == 4 else order.replace("z", "")).index("c")]


def _named(
    known: Channels | None,
    count: int,
    names: Sequence[str] | None,
    values: Sequence[int] | None,
) -> Channels:
    """Return the channels with stated names and values in place of those that are known."""
    if known is None or len(known) != count:
        return numbered(count, names, values)
    stated = numbered(count, names, values)
    if names is not None:
        known = replace(known, names=stated.names)
    return known if values is None else replace(known, values=stated.values)


def _label_header(one: Found) -> tuple[tuple[int, ...], np.ndarray]:
    with reading(one.label):
        image: Any = nib.load(one.label)
        return _grid(image), image.affine


def _grid(image: Any) -> tuple[int, ...]:
    """Return the shape ``(X, Y, Z)`` of a label; further axes must have one entry."""
    shape = tuple(image.shape)
    if len(shape) < 2 or any(size != 1 for size in shape[3:]):
        raise PredictionError(
            f"The label {image.get_filename()} has the shape {shape}, and must have three axes, "
            "with the class of each voxel. Is it an image, or a map of probabilities?"
        )
    return (*shape, 1)[:3]


def _check_geometry(one: Found, affine: np.ndarray) -> None:
    """Require that a map is where its label is, in mm.

    An ``.npz`` has no geometry; nnU-Net writes a label map of the same name next to it.
    """
    theirs, path = one.stored.affine, one.stored.paths[0]
    if one.stored.kind == "npz":
        beside = [path.with_name(f"{stem(path)}{end}") for end in NIFTI]
        path = next((file for file in beside if file.is_file()), path)
        if path.suffix == ".npz":
            return
        with reading(path):
            theirs = nib.load(path).affine
    grid, _ = _label_header(one)
    corners = np.stack(np.meshgrid(*[[0, size - 1] for size in grid]), -1).reshape(-1, 3)
    assert theirs is not None
    shift = [apply_affine(matrix, corners) for matrix in (theirs, affine)]
    distance = float(np.linalg.norm(shift[0] - shift[1], axis=-1).max())
    if not distance <= SHIFT * float(voxel_sizes(affine).min()):
        raise PredictionError(
            f"{path} is not on the grid of its label {one.label}: the affines put a corner of the "
            f"volume {distance:.4g} mm apart. Resample it to the label, or correct the header."
        )


def _quantized(found: Sequence[Found]) -> list[str]:
    kinds: dict[str, int] = {}
    for one in found:
        if one.stored.step or one.stored.dtype.itemsize == 2:
            step = f" with steps of {one.stored.step:.3g}" if one.stored.step else ""
            kind = f"{one.stored.dtype}{step}"
            kinds[kind] = kinds.get(kind, 0) + 1
    return [
        f"{number} of {len(found)} maps are {kind}, widened to float32: small probabilities are "
        "rounded, which NLL and the fine histogram see."
        for kind, number in kinds.items()
    ]


def _dataset_name(layout: Layout, labels: Path) -> str:
    if layout.dataset_json is not None and layout.dataset_json.parent.parent.name.startswith(
        "Dataset"
    ):
        return layout.dataset_json.parent.parent.name
    here = labels.resolve()
    usual = here.name.lower().startswith(("labels", "gt_seg", "masks"))
    return here.parent.name if usual else here.name


def _origin(labels: Path) -> Literal["real", "phantom"]:
    """Return ``"phantom"`` for labels in the folder of a phantom of mbls."""
    here = labels.resolve()
    for place in (here, *here.parents[:3]):
        card = place / "phantom.json"
        if card.is_file():
            with reading(card):
                json.loads(card.read_text())
            return "phantom"
    return "real"


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
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a decompressed file: nothing writes to it
        return torch.from_numpy(native)
