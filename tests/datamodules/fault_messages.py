"""The message for each injected fault that a reader refuses: rule, value found, way out."""

import re
from collections.abc import Sequence

from datamodules.case import Problem

_BROKEN = ("a complete NIfTI file", "Download or unpack it again")
_HEADER = "Repair the header"

REFUSED: dict[str, tuple[str, str, str]] = {  # of one dataset: dataset and fault
    "shifted-label": ("agree to 0.2 voxels", r"corners 1 voxels apart", "Resample this file"),
    "other-shape": ("must have the same shape", r"\(\d+, \d+, \d+\) and \(\d", "Resample this"),
    "brats missing-image": (
        "must have t1, t1ce, t2, flair and seg",
        "^t1, t1ce, t2, seg$",
        "Restore the file",
    ),
    "flare missing-image": ("a label must have an image", "no FLARE22_Tr_0001_0000", "Restore the"),
    "brats missing-label": (
        "must have t1, t1ce, t2, flair and seg",
        "^t1, t1ce, t2, flair$",
        "split file",
    ),
    "flare missing-label": ("image must have a label", "no FLARE22_Tr_0001.nii.gz", "imagesTs/"),
    "brats unknown-label": ("among 0, 1, 2, 4", r"77 \(1 voxels\)", "label_scheme et3"),
    "flare unknown-label": ("among 0, 1, 2, 3", r"77 \(1 voxels\)", "map them to these values"),
    "half-labels": ("must be integers", r"\d+ voxels that are not, such as 0.5", "nearest"),
    "zero-spacing": ("header's pixdim must be positive", "x 0 mm", _HEADER),
    "nan-spacing": ("header's pixdim must be positive", "^nan x", _HEADER),
    "two-sizes": ("have the same voxel size", r"mm and [\d.]+ x", "true voxel size is unknown"),
    "promises-more": (_BROKEN[0], r"Expected \d+ bytes, got \d+", _BROKEN[1]),
    "truncated": (_BROKEN[0], r"^\d+ bytes .*ended before the end", _BROKEN[1]),
    "truncated-label": (_BROKEN[0], r"^\d+ bytes .*ended before the end", _BROKEN[1]),
    "empty-file": (_BROKEN[0], "^0 bytes", _BROKEN[1]),
    "web-page": (_BROKEN[0], "^37 bytes .*is not a gzip file", _BROKEN[1]),
    "four-dimensions": ("must be 3D", r"4D, shape \(\d+, \d+, \d+, 2\)", "a separate file"),
    "not-finite": ("must be finite", r"NaN .* the first at \(0, 0, 0\)", "split file"),
    "constant-image": ("must not be constant", "an image of zeros", "Download the image again"),
    "duplicated": ("a case must be there once", r"\w+ and", "Remove "),
    "brats duplicated": (
        "a case must be there once",
        "BraTS2021_00000 here and in R",
        "Remove one",
    ),
    "swapped-scheme": ("among 0, 1, 2, 4", r"3 \(\d+ voxels\)", "label_scheme et3"),
}


def assert_told(name: str, dataset: str, problems: Sequence[Problem]) -> None:
    """One of the problems has the fault's facts and file, and the message has them all."""
    facts = REFUSED.get(f"{dataset} {name}", REFUSED.get(name))
    assert facts is not None, f"no message is listed for {name}"
    for fault in problems:
        parts = (fault.rule, fault.found, fault.fix)
        if all(re.search(fact, part) for fact, part in zip(facts, parts, strict=True)):
            assert all(part in str(fault) for part in (*parts, fault.path, fault.case))
            return
    raise AssertionError(f"no problem has {facts}: {[str(fault) for fault in problems]}")
