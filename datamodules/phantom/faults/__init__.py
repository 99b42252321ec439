"""Faults of real downloads, to be injected into a phantom: what a reader has to bear or to refuse.

Each fault is a function of one case's files, and has an entry in :data:`FAULTS` that says whether
a reader must bear it (``harmless``) or must refuse the case, and to which datasets it applies::

    cases = phantom_cases(root)
    inject("shifted-label", cases["BraTS2021_00000"])

Faults change what is on disk for good, and for real data there is no way back: :func:`inject`
refuses files that are in no phantom's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datamodules.origin import phantom_home
from datamodules.phantom.faults import borne, refused
from datamodules.phantom.faults.case_files import CaseFiles, phantom_cases

__all__ = ["FAULTS", "CaseFiles", "Fault", "inject", "phantom_cases"]

ALL = ("acdc", "brats", "flare")


@dataclass(frozen=True)
class Fault:
    """A fault.

    Args:
        apply: Changes the files of a case.
        harmless: Whether a reader must bear it; otherwise it must name and refuse the case.
        datasets: Where it occurs.
    """

    apply: Callable[[CaseFiles], None]
    harmless: bool
    datasets: tuple[str, ...] = ALL


def inject(name: str, case: CaseFiles) -> None:
    """Inject the fault ``name`` into a case of a phantom.

    Raises:
        ValueError: There is no such fault, it is not one of the case's dataset, or the files are
            not a phantom's.
    """
    if name not in FAULTS:
        raise ValueError(f"fault must be one of {', '.join(FAULTS)}, got {name!r}.")
    if case.dataset not in FAULTS[name].datasets:
        raise ValueError(f"{name} is no fault of {case.dataset}.")
    if phantom_home(case.label) is None:
        raise ValueError(f"{case.label} is in no phantom's folder, and is left alone.")
    FAULTS[name].apply(case)


FAULTS: dict[str, Fault] = {
    "unit-sform": Fault(borne.unit_sform, True, ("acdc",)),
    "no-frame-one": Fault(borne.no_frame_one, True, ("acdc",)),
    "misnamed-segmentation": Fault(borne.misnamed_segmentation, True, ("brats",)),
    "other-suffix": Fault(borne.other_suffix, True),
    "absent-label": Fault(borne.absent_label, True),
    "empty-label": Fault(borne.empty_label, True),
    "empty-slices": Fault(borne.empty_slices, True),
    "tubes-on-part": Fault(borne.tubes_on_part, True, ("flare",)),
    "noisy-labels": Fault(borne.noisy_labels, True),
    "float-labels": Fault(borne.float_labels, True),
    "nudged-label": Fault(borne.nudged_label, True),
    "resource-forks": Fault(borne.resource_forks, True),
    "negative-spacing": Fault(borne.negative_spacing, True),
    "odd-name": Fault(borne.odd_name, True),
    "one-slice": Fault(borne.one_slice, True),
    "shifted-label": Fault(refused.shifted_label, False),
    "other-shape": Fault(refused.other_shape, False),
    "missing-image": Fault(refused.missing_image, False),
    "missing-label": Fault(refused.missing_label, False),
    "unknown-label": Fault(refused.unknown_label, False),
    "half-labels": Fault(refused.half_labels, False),
    "zero-spacing": Fault(refused.zero_spacing, False),
    "nan-spacing": Fault(refused.nan_spacing, False),
    "two-sizes": Fault(refused.two_sizes, False),
    "promises-more": Fault(refused.promises_more, False),
    "truncated": Fault(refused.truncated, False),
    "truncated-label": Fault(refused.truncated_label, False),
    "empty-file": Fault(refused.empty_file, False),
    "web-page": Fault(refused.web_page, False),
    "four-dimensions": Fault(refused.four_dimensions, False),
    "not-finite": Fault(refused.not_finite, False),
    "constant-image": Fault(refused.constant_image, False),
    "duplicated": Fault(refused.duplicated, False),
    "swapped-scheme": Fault(refused.swapped_scheme, False, ("brats",)),
}
