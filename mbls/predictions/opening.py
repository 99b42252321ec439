"""Open a folder of predictions of any layout; only headers are read."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from mbls.predictions.axes import ORDERS, common_order, ras_shape
from mbls.predictions.classes import (
    Channels,
    channels_of_dataset,
    numbered,
    parse_regions,
    read_dataset_json,
)
from mbls.predictions.folder import PredictionFolder, grid_of
from mbls.predictions.grids import corners_apart, same_place
from mbls.predictions.layouts import Format, Found, Layout, detect, files_in, find, labels_beside
from mbls.predictions.names import NIFTI, label_files, patients_of, stem
from mbls.predictions.stored import reading
from mbls.runtime.errors import PredictionError

__all__ = ["grid_header", "open_predictions", "own_grids"]

LIKELY = {"nnunet": ("czyx",), "npz": ORDERS, "nifti": ("xyzc", "cxyz"),
          "nifti-per-class": ("cxyz",)}  # fmt: skip


def open_predictions(
    folder: Path,
    *,
    labels: Path | None = None,
    labeled: bool = True,
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
        labeled: If False, only the grids of the files in ``labels`` are read; by default they are
            the label maps next to the predictions, or the predictions themselves. All voxels are
            then ignored.
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
    if labels is None and labeled:
        labels = labels_beside(layout, folder)
    if labels is None and labeled:
        raise PredictionError(
            f"The labels of {folder} are needed: LABELS=FOLDER (--labels); nnU-Net's are in "
            "nnUNet_raw/DatasetXXX/labelsTr."
        )
    files = own_grids(layout) if labels is None else label_files(Path(labels))
    labels = folder if labels is None else Path(labels)
    known = _known_channels(layout, labels, regions)
    found, notes = find(layout, files, class_names or (known.names if known else ()))
    grids = [grid_header(one) for one in found]
    form = _format(layout.format, found)
    orders = LIKELY[form] if axes is None else (axes,)
    given = class_names or label_values
    count = len(given) if given and not regions else len(known) if known else None
    turned = _turns(layout)
    order = common_order(
        [
            (one.stored.shape, ras_shape(grid, affine) if turned else grid)
            for one, (grid, affine) in zip(found, grids, strict=True)
        ],
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
        form,
        channels,
        order,
        {one.case: one for one in found},
        patients_of(cases, patient),
        [*notes, *_quantized(found)],
        _origin(labels),
        layout.dataset_json,
        labeled,
        turned,
    )


def _turns(layout: Layout) -> bool:
    """Return True if nnU-Net turned the images, so that its ``.npz`` have other axes than files."""
    if layout.dataset_json is None or layout.format != "nnunet":
        return False
    plans = layout.dataset_json.with_name("plans.json")
    if not plans.is_file():
        return False
    with reading(plans):
        stated = json.loads(plans.read_text())
    return bool(stated.get("image_reader_writer") == "NibabelIOWithReorient")


def own_grids(layout: Layout) -> dict[str, Path]:
    """Return a file with the grid of each case: its predicted label map, or the map itself.

    Raises:
        PredictionError: An ``.npz`` has no label map next to it.
    """
    found: dict[str, Path] = {}
    maps: dict[str, Path] = {}
    for folder, _ in layout.folders:
        for path in files_in(folder, NIFTI):
            with reading(path):
                image: Any = nib.load(path)
            if any(size > 1 for size in image.shape[3:]):
                maps[stem(path)] = path
            elif image.get_data_dtype().kind in "iu":  # others are maps, as of the uncertainty
                found[stem(path)] = path
        for path in files_in(folder, (".npz",)):
            if stem(path) not in found:
                raise PredictionError(
                    f"{path} has no geometry, and there is no label map {stem(path)}.nii.gz next "
                    "to it. Name a folder with a NIfTI file of each case: LABELS=FOLDER (--labels)."
                )
    for name, path in maps.items():  # case_prob of case, if there is a label map
        case = re.sub(r"[_-](probs?|probabilities|softmax)$", "", name)
        if case not in found:
            found[case] = path
    return found


def _format(detected: Format, found: Sequence[Found]) -> Format:
    """Return the format of all maps; whether NIfTI files are of one class is only known by name."""
    if detected != "nifti":
        return detected
    kinds: dict[Format, Found] = {}
    for one in found:
        kinds.setdefault(one.stored.kind, one)
    if len(kinds) > 1:
        files = " and ".join(one.stored.name for one in kinds.values())
        raise PredictionError(
            f"Some maps have all classes in one file and others one file a class: {files}. Export "
            "all in one form, or move the others away."
        )
    return next(iter(kinds))


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


def grid_header(one: Found) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape ``(X, Y, Z)`` and affine of a case's label, or of the map in its place."""
    with reading(one.label):
        image: Any = nib.load(one.label)
        if one.label in one.stored.paths and len(image.shape) > 3:
            return image.shape[:3], image.affine
        return grid_of(image), image.affine


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
    grid, _ = grid_header(one)
    assert theirs is not None
    if not same_place(grid, theirs, affine):
        distance = corners_apart(grid, theirs, affine)
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
        if (place / "phantom.json").is_file():
            return "phantom"
    return "real"
