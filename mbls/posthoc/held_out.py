"""Is a fit set large enough to tell an improvement from noise?"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from mbls.posthoc.base import Calibrator

__all__ = ["held_out", "too_few"]

LEVEL = 0.95
"""One-sided confidence that held-out patients improve."""


def held_out(changes: Sequence[float], *, measure: str = "nll") -> dict[str, Any]:
    """Return the part of a report about patients that a fit did not see.

    Args:
        changes: Change of each patient's mean over voxels, by a fit without the patient.
        measure: What changes: ``"nll"``, or ``"nll_per_class"``, the sum over classes of the
            one-vs-rest negative log-likelihood.
    """
    return {
        "measure": measure,
        "units": len(changes),
        "change": statistics.mean(changes),
        "standard_error": statistics.stdev(changes) / math.sqrt(len(changes)),
        "improved": sum(change < 0 for change in changes),
    }


def too_few(calibrator: Calibrator) -> str | None:
    """Return a warning if the patients are too few to tell an improvement from noise.

    The change of the negative log-likelihood of patients left out of the fit must be below 0 by a
    one-sided t-test at 5 %. The test itself is rough for few patients: it guards against luck, and
    doesn't replace a test on patients of their own.

    Returns:
        A sentence, or None if the improvement stands out.
    """
    from scipy.stats import t

    from mbls.posthoc.regions import Regions

    if isinstance(calibrator, Regions):
        names = zip(calibrator.card.class_names, calibrator.calibrators, strict=True)
        warnings = [(name, too_few(part)) for name, part in names]
        return " ".join(f"{name}: {text}" for name, text in warnings if text) or None
    found = calibrator.report.get("held_out")
    if found is None:
        count = len(calibrator.card.patients)
        return (
            f"The fit to {count} patient{'s'[: count != 1]} can't tell an improvement from noise: "
            "it has no estimate of what happens to patients that it did not see."
        )
    units, change, error = found["units"], found["change"], found["standard_error"]
    highest = change + float(t.ppf(LEVEL, units - 1)) * error
    if highest < 0:
        return None
    measured = {"nll_per_class": "NLL of each class against the rest"}.get(found["measure"], "NLL")
    simpler = "" if calibrator.method == "temperature" else (
        ", or use a method of fewer parameters, such as temperature"
    )  # fmt: skip
    return (
        f"{units} patients are too few to tell an improvement by {calibrator.method} from noise: "
        f"the {measured} of patients left out of the fit changes by {change:+.2g} a voxel, and "
        f"could change by {highest:+.2g} (upper 95 % limit). Fit to more patients{simpler}."
    )
