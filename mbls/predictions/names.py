"""Names of cases: of label files, and of the predictions that belong to them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mbls.runtime.errors import PredictionError

__all__ = ["NIFTI", "label_files", "match", "patients_of", "some", "stem"]

NIFTI = (".nii.gz", ".nii")
_LABEL = re.compile(r"(.+?)[_-](gt|seg|label|labels|labelmap|mask|segmentation|groundtruth)", re.I)


def stem(path: Path) -> str:
    """Return a file's name without its ending.

    Example:
        >>> stem(Path("a/case.1.nii.gz"))
        'case.1'
    """
    ends = [end for end in (*NIFTI, ".npz") if path.name.lower().endswith(end)]
    return path.name[: -len(ends[0])] if ends else path.stem


def some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first of some names.

    Example:
        >>> some("abcde")
        'a, b, c, ...'
    """
    listed = list(names)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def label_files(folder: Path) -> dict[str, Path]:
    """Return the label file of each case in a folder, or in folders within it if it has none.

    ``case.nii.gz`` is the label of ``case``, and so are ``case_gt``, ``case-seg`` and the like; if
    there are any of these, files without such an ending are images and left out.

    Raises:
        PredictionError: There is no such folder or no NIfTI in it, or a case has several labels.
    """
    if not folder.is_dir():
        raise PredictionError(
            f"The labels' folder {folder} does not exist. Name the folder of the label files, "
            "LABELS=FOLDER (--labels); nnU-Net's are in labelsTr."
        )
    files = [path for path in sorted(folder.iterdir()) if _is_nifti(path)]
    files = files or [path for path in sorted(folder.rglob("*")) if _is_nifti(path)]
    if not files:
        raise PredictionError(
            f"{folder} has no label files: there is no .nii.gz or .nii in it. Name the folder of "
            "the label files, LABELS=FOLDER (--labels)."
        )
    named = [(path, _LABEL.fullmatch(stem(path))) for path in files]
    if any(match for _, match in named):
        named = [(path, match) for path, match in named if match]
    found: dict[str, Path] = {}
    for path, match in named:
        case = match[1] if match else stem(path)
        if case in found:
            raise PredictionError(
                f"{case} has two labels, {found[case]} and {path}. Move one of them away."
            )
        found[case] = path
    return found


def match(
    files: Sequence[Path], labels: Mapping[str, Path]
) -> tuple[dict[str, dict[str, Path]], list[Path]]:
    """Return the files of each case by what follows its name, and the files of no case.

    A file ``case.npz``, ``case_prob.nii.gz`` or ``case_0.nii.gz`` is of ``case``; of several cases
    that its name starts with, it is of the longest.

    Raises:
        PredictionError: Two files have the same name.
    """
    found: dict[str, dict[str, Path]] = {}
    others = []
    for path in files:
        name = stem(path)
        ends = [len(name), *(m.start() for m in reversed(list(re.finditer(r"[_-]", name))))]
        case = next((name[:end] for end in ends if name[:end] in labels), None)
        if case is None:
            others.append(path)
            continue
        rest = name[len(case) :].lstrip("_-")
        if (twin := found.setdefault(case, {}).get(rest)) is not None:
            raise PredictionError(
                f"{case} has two predictions, {twin} and {path}. Name the folder of one of them."
            )
        found[case][rest] = path
    return found, others


def patients_of(cases: Sequence[str], pattern: str | None) -> tuple[str, ...]:
    """Return the patient of each case: the first group of a regular expression, or its match.

    Without a pattern every case is a patient.

    Raises:
        PredictionError: The pattern is invalid, or a case does not match.
    """
    if pattern is None:
        return tuple(cases)
    try:
        found = [re.search(pattern, case) for case in cases]
    except re.error as error:
        raise PredictionError(f"PATIENT {pattern!r} is no regular expression: {error}.") from error
    if without := [case for case, one in zip(cases, found, strict=True) if one is None]:
        raise PredictionError(
            f"PATIENT {pattern!r} must match each case's name, but not {some(without)}. Correct "
            "it, such as PATIENT='^[^_]+' (--patient)."
        )
    return tuple(one[1] if one.re.groups else one[0] for one in found if one is not None)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI) and not path.name.startswith(".")
