"""Further labels of a phantom's case, drawn from the distribution of the one in its file."""

import json

import nibabel as nib
import numpy as np

from datamodules.case import Case, DataError, Problem
from datamodules.origin import phantom_home
from datamodules.phantom.acdc import ACDC
from datamodules.phantom.brats import BRATS
from datamodules.phantom.flare import FLARE
from datamodules.phantom.posterior import draw_labels, stream
from datamodules.phantom.writer import rewritten

__all__ = ["redraw_labels"]

PHANTOMS = {phantom.dataset: phantom for phantom in (ACDC, BRATS, FLARE)}


def redraw_labels(case: Case, number: int, *, seed: int = 0) -> np.ndarray:
    """Draw labels of a case, each as another annotator would outline it.

    The model of the annotators is drawn again from the phantom's own settings and seed. Labels
    of one case are independent, and those of a case are the same wherever they are drawn.

    Args:
        case: A case of a phantom.
        number: How many.
        seed: Seed of the draws, >= 0; the label in the case's file is none of them.

    Returns:
        Class indices, uint8 ``(number, X, Y, Z)``, in the axes of the case's files.

    Raises:
        DataError: It is no case of a phantom, or of one that cannot be drawn again.
    """
    home = None if case.posterior is None else phantom_home(case.posterior)
    if case.posterior is None or home is None:
        raise DataError([
            Problem(case.id, str(case.images[0]), "labels are drawn from a known distribution",
                    "a case without one", "Use a phantom: leave out DATA_ROOT (--data-root).")
        ])  # fmt: skip
    try:
        card = json.loads((home / "phantom.json").read_text())
        patient = case.posterior.parent.name
        place, scans = rewritten(PHANTOMS[card["dataset"]], card, patient)
        scan = next(scan for scan in scans if scan.name == case.posterior.stem)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        rule = "the phantom must be as it was written by this version"
        fix = f"Remove {home}: it is written again (mbls data)."
        raise DataError([Problem(case.id, str(home), rule, str(error), fix)]) from error
    rng = stream(card["seed"], place, f"redraw {seed} {scan.name}")
    labels = (draw_labels(scan.annotation, rng) for _ in range(number))
    return np.stack([nib.orientations.apply_orientation(each, scan.turn) for each in labels])
