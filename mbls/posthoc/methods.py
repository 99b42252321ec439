"""The table of calibration methods."""

from collections.abc import Callable
from dataclasses import dataclass

from mbls.posthoc.base import Calibrator
from mbls.posthoc.classwise import Beta, HistogramBinning, Isotonic
from mbls.posthoc.classwise_fit import ClasswiseFit
from mbls.posthoc.fit import Fit
from mbls.posthoc.local import LocalFit, LocalTemperature
from mbls.posthoc.matrix import (
    ClassConditional,
    Dirichlet,
    EnsembleTemperature,
    FiducioFit,
    Matrix,
)
from mbls.posthoc.newton_fit import TemperatureFit, VectorFit, VectorTIFit
from mbls.posthoc.regions import Regions
from mbls.posthoc.scaling import Temperature, Vector, VectorTI
from mbls.runtime.errors import CalibratorError

__all__ = ["METHODS", "Method", "calibrator_class", "new_fit"]


@dataclass(frozen=True)
class Method:
    """A calibration method.

    Attributes:
        kind: Class of the calibrator.
        fit: Makes a fit, of a number of classes and a seed.
        description: What it does, one line.
        paper: Its source.
        extra: The extra of the package that it needs, if any.
    """

    kind: type[Calibrator]
    fit: Callable[[int, int], Fit]
    description: str
    paper: str
    extra: str | None = None


GUO = "Guo et al. 2017, arXiv:1706.04599"
METHODS: dict[str, Method] = {
    "temperature": Method(
        Temperature, lambda n, seed: TemperatureFit(n), "p^(1/T): one number, labels stay", GUO
    ),
    "vector": Method(
        Vector, lambda n, seed: VectorFit(n), "a weight and a bias for each class's log p", GUO
    ),
    "vector_ti": Method(
        VectorTI, lambda n, seed: VectorTIFit(n),
        "vector scaling of centered log p, which needs no logits",
        "Guo et al. 2017, arXiv:1706.04599; Kirscher et al. 2026, arXiv:2607.01902",
    ),
    "isotonic": Method(
        Isotonic, lambda n, seed: ClasswiseFit(Isotonic, n),
        "a nondecreasing function of each class's p, then division by the sum",
        "Zadrozny and Elkan 2002, KDD",
    ),
    "beta": Method(
        Beta, lambda n, seed: ClasswiseFit(Beta, n),
        "a ln p - b ln(1 - p) + c for each class, then division by the sum",
        "Kull et al. 2017, AISTATS",
    ),
    "histogram": Method(
        HistogramBinning, lambda n, seed: ClasswiseFit(HistogramBinning, n),
        "the share of hits in 15 bins of each class's p, then division by the sum",
        "Zadrozny and Elkan 2001, ICML",
    ),
    "matrix": Method(
        Matrix, lambda n, seed: FiducioFit(Matrix),
        "an affine map of log p that needs no logits, fitted to a sample",
        "Kirscher et al. 2026, arXiv:2607.01902", extra="fiducio",
    ),
    "dirichlet": Method(
        Dirichlet, lambda n, seed: FiducioFit(Dirichlet),
        "an affine map of log p, fitted to a sample",
        "Kull et al. 2019, arXiv:1910.12656", extra="fiducio",
    ),
    "ensemble_temperature": Method(
        EnsembleTemperature, lambda n, seed: FiducioFit(EnsembleTemperature),
        "a mean of scaled, original and equal p, fitted to a sample; labels stay",
        "Zhang et al. 2020, arXiv:2003.07329", extra="fiducio",
    ),
    "class_conditional": Method(
        ClassConditional, lambda n, seed: FiducioFit(ClassConditional),
        "a matrix for each predicted class, fitted to a sample; the order of classes stays",
        "Kirscher et al. 2026, arXiv:2607.01902", extra="fiducio",
    ),
    "local_temperature": Method(
        LocalTemperature, LocalFit,
        "a temperature for each voxel, by a small network that sees the image; labels stay",
        "Ding et al. 2021, arXiv:2008.05105",
    ),
}  # fmt: skip
"""The methods by name."""


def new_fit(method: str, num_classes: int, seed: int) -> Fit:
    """Return a new fit.

    Raises:
        CalibratorError: There is no such method.
    """
    return _method(method).fit(num_classes, seed)


def calibrator_class(method: object) -> type[Calibrator]:
    """Return the class of a method's calibrators.

    Raises:
        CalibratorError: There is no such method.
    """
    return Regions if method == Regions.method else _method(method).kind


def _method(name: object) -> Method:
    if not isinstance(name, str) or name not in METHODS:
        raise CalibratorError(
            f"There is no calibration method {name!r}: choose one of {', '.join(METHODS)}."
        )
    return METHODS[name]
