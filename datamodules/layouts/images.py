"""Layout of image folders: images in one, label pictures of the same names in another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.case import Case, DataError, Problem
from datamodules.layouts.found import Found, file_name, repeated
from datamodules.layouts.inputs import listing
from datamodules.layouts.labels import Value, labels_of_values, listed, values_in
from datamodules.reading.checks import has_color_labels
from datamodules.reading.pictures import has_colors, is_picture
from datamodules.reading.volumes import (
    SUFFIXES,
    NiftiError,
    count_channels,
    is_image,
    read_label,
    stem,
)

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagesTr")
LABEL_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "labelsTr")
_ENDINGS = ("_mask", "_label", "_labels", "_seg", "_segmentation", "_gt", "-mask", "-label")
_SEARCHED = 60  # label files that are read for their values
_WHITE = 255  # foreground of one class, ignored in other masks, or the end of a smoothed edge
_NAME = (
    "Or name the labels: --data.init_args.labels "
    """'{"background": 0, "class": 1, "ignore": 255}'."""
)


def read_images(
    root: Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    readers: Sequence[str] = (),
    pixel_size: tuple[float, float] = (1.0, 1.0),
    labels: Mapping[str, Value] | None = None,
) -> Found:
    """Return the dataset in a folder with a folder of images and one of label pictures.

    Files belong together by their names without suffix; a label's name may end in ``_mask`` or the
    like. Folders inside are searched, and are part of a case's name.

    Args:
        root: The folder.
        images: Name of the folder of images; None for one of the usual names.
        masks: Name of the folder of labels; None for one of the usual names.
        readers: Folders of the labels of several readers, in place of ``masks``.
        pixel_size: Size of a pixel in mm along X and Y, for pictures.
        labels: Label names and their values; None for those in the label files.

    Raises:
        DataError: A folder is missing, or there is nothing to read.
    """
    if not root.is_dir():
        fix = "Correct the path (DATA_ROOT)."
        raise DataError([Problem("", str(root), "the data root must be a folder", "none", fix)])
    folder = _folder(root, images, IMAGE_FOLDERS, "images")
    places = [root / name for name in readers] or [_folder(root, masks, LABEL_FOLDERS, "masks")]
    for place in places:
        if not place.is_dir():
            rule, fix = "every reader must have a folder", "Correct the names of the readers."
            raise DataError([Problem("", str(place), rule, listing(root), fix)])
    files, problems = _by_name(folder, ())
    found = [_by_name(place, _ENDINGS) for place in places]
    problems += [problem for _, wrong in found for problem in wrong]
    cases = []
    for name, path in files.items():
        own = [label for labels_of, _ in found if (label := labels_of.get(name))]
        if len(own) < len(places):
            rule = "an image must have a label of every reader" if readers else _RULE
            where = next(p for p, (have, _) in zip(places, found, strict=True) if name not in have)
            fix = f"Add the file to {where.name}/, or move the image away."
            problems.append(Problem(name, str(path), rule, "no file", fix))
            continue
        cases.append(
            Case(name, name, (path,), own[0], readers=tuple(own[1:]), pixel_size=pixel_size)
        )
    for have, _ in found:
        for name in sorted(set(have) - set(files)):
            fix = f"Add the image to {folder.name}/, or move the label away."
            rule = "a label must have an image of its name"
            problems.append(Problem(name, str(have[name]), rule, "no file", fix))
    if not cases and not problems:
        rule = f"the folder must contain images ({', '.join(SUFFIXES)})"
        fix = "Correct the path (DATA_ROOT)."
        raise DataError([Problem("", str(folder), rule, listing(folder), fix)])
    if labels is None:
        labels = find_labels(cases)
    return Found(
        file_name(root.absolute().name),
        tuple(sorted(cases, key=lambda case: case.id)),
        labels,
        find_channels(cases),
        problems=tuple(problems),
    )


_RULE = "an image must have a label of its name"


def find_labels(cases: Sequence[Case]) -> dict[str, Value]:
    """Return a table of the values in the label files of some of the cases.

    Raises:
        DataError: The values are those of compressed or smoothed masks, or mean something else.
    """
    files = [path for case in listed_cases(cases, _SEARCHED) for path in case.label_files]
    for path in files:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            rule = "masks whose classes are to be found must not be JPEG, which changes values"
            raise DataError([Problem("", str(path), rule, path.name, f"Save it as PNG. {_NAME}")])
    values = _values_of(files, colors=False)
    if has_color_labels(values):
        values = _values_of(files, colors=True)
    others = sorted(values - {0, _WHITE})
    if _WHITE in values and others and not has_color_labels(values) and others[0] < _WHITE:
        rule = "masks with 255 must have no values but 0 and 255, unless labels are named"
        found = ", ".join(map(str, others[:5])) + ", ..." * (len(others) > 5)
        fix = f"Save masks of one class as 0 and 255, without smoothing. {_NAME}"
        raise DataError([Problem("", str(files[0].parent), rule, f"{found} and 255", fix)])
    return labels_of_values(values)


def _values_of(files: Sequence[Path], *, colors: bool) -> set[int]:
    values: set[int] = set()
    for path in files:
        try:
            values |= values_in(read_label(path, colors=colors).data)
        except NiftiError:
            continue  # listed when the case is checked
    return values


def find_channels(cases: Sequence[Case]) -> tuple[str, ...]:
    """Return names for the channels that most of some cases have."""
    counts: Counter[int] = Counter()
    for case in listed_cases(cases, _SEARCHED):
        try:
            counts[sum(count_channels(path, stacked=case.stacked) for path in case.images)] += 1
        except NiftiError:
            continue  # listed when the case is checked
    count = counts.most_common(1)[0][0] if counts else 1
    first = cases[0].images if cases else ()
    if count == 3 and len(first) == 1 and is_picture(first[0]) and has_colors(first[0]):
        return ("red", "green", "blue")
    return tuple(f"channel {number}" for number in range(count)) if count > 1 else ("image",)


def listed_cases(cases: Sequence[Case], limit: int) -> list[Case]:
    """Return at most ``limit`` of the cases, evenly from the first to the last."""
    chosen = set(listed([case.images[0] for case in cases], limit))
    return [case for case in cases if case.images[0] in chosen]


def _folder(root: Path, name: str | None, usual: Sequence[str], what: str) -> Path:
    for candidate in [name] if name else usual:
        if (root / candidate).is_dir():
            return root / candidate
    rule = f"the data root must contain a folder of {what} ({name or ', '.join(usual)})"
    fix = f"Rename it, or give its name: --data.init_args.{what} NAME."
    raise DataError([Problem("", str(root), rule, listing(root), fix)])


def _by_name(folder: Path, endings: Sequence[str]) -> tuple[dict[str, Path], list[Problem]]:
    """Return the images below a folder by the names of their cases, and what is wrong."""
    paths = [path for path in sorted(folder.rglob("*")) if is_image(path) and path.is_file()]
    names = [_case_name(path, folder, endings) for path in paths]
    problems = [
        Problem(name, str(folder), "a name must be that of one file", "several", "Rename them.")
        for name in repeated(names)
    ]
    return dict(zip(names, paths, strict=True)), problems


def _case_name(path: Path, folder: Path, endings: Sequence[str]) -> str:
    name = stem(path)
    ending = next((end for end in endings if name.lower().endswith(end)), "")
    parts = (*path.relative_to(folder).parent.parts, name[: len(name) - len(ending)])
    return "_".join(parts)
