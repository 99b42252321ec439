"""Fit calibrators to a stream of predictions, several at once, in constant memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mbls.posthoc.base import Calibrator, Card
from mbls.posthoc.voxels import Piece, pieces, seed_of
from mbls.predictions import Prediction
from mbls.runtime.errors import CalibratorError

__all__ = ["Cases", "Fit", "cross_fit", "fit", "patient_groups"]

Cases = Iterable[Prediction] | Callable[[], Iterator[Prediction]]
"""What can be passed over several times: a list, a reader, or a function that starts again."""


class Fit(ABC):
    """One calibrator being fitted: it sees the pieces of its cases in each pass.

    Attributes:
        whole: True if it needs whole cases and images, with :meth:`add_case`.
        cases: Names of the cases that it saw, each with its patient.
    """

    whole = False

    def __init__(self) -> None:
        self.cases: dict[str, str] = {}

    @abstractmethod
    def add(self, piece: Piece, patient: str) -> None:
        """Add a piece of a case to the sums of this pass."""

    def add_case(self, prediction: Prediction, patient: str) -> None:
        """Add a whole case, if :attr:`whole`."""
        raise NotImplementedError

    @abstractmethod
    def end_pass(self) -> bool:
        """End a pass, and return True if no other is needed."""

    @abstractmethod
    def calibrator(self, card: Card) -> Calibrator:
        """Return the result, with a report."""


def fit(
    method: str,
    cases: Cases,
    *,
    patients: Mapping[str, str] | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
) -> Calibrator:
    """Fit a calibrator.

    Args:
        method: A name of :data:`mbls.posthoc.METHODS`.
        cases: Predictions with labels; passed over once or several times, one case at a time.
        patients: Patient of each case; None if each case is a patient.
        class_names: Names of the classes; their numbers by default.
        seed: Seed of random samples, where a method needs them.

    Raises:
        CalibratorError: Unknown method, no labeled voxels, or cases that do not match.
        MissingExtraError: The method needs a package that is not installed.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1, 0.1]])
        >>> case = Prediction("a", probs, torch.tensor([0, 0, 0, 0, 1]), spacing=(1.0,))
        >>> round(fit("temperature", [case]).temperature, 4)
        1.585
    """
    stream = _Stream(method, cases, patients, tuple(class_names), seed)
    return stream.fit([None], None)[None]


def cross_fit(
    method: str,
    cases: Cases,
    groups: Mapping[str, Hashable],
    *,
    patients: Mapping[str, str] | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
) -> dict[Hashable, Calibrator]:
    """Fit a calibrator for each group of patients, on all other groups.

    Each case is read once a pass, for all calibrators together.

    Args:
        method: A name of :data:`mbls.posthoc.METHODS`.
        cases: See :func:`fit`.
        groups: Group of each patient, such as from :func:`patient_groups`.
        patients: See :func:`fit`.
        class_names: See :func:`fit`.
        seed: See :func:`fit`.

    Returns:
        The calibrator of each group, which was fitted without any of the group's patients.

    Raises:
        CalibratorError: See :func:`fit`; fewer than two groups, or a patient without a group.
    """
    left_out = list(dict.fromkeys(groups.values()))
    if len(left_out) < 2:
        raise CalibratorError(
            f"A cross-fit needs at least two groups of patients, got {len(left_out)}: choose more "
            "groups, or fit on some patients and test on others."
        )
    return _Stream(method, cases, patients, tuple(class_names), seed).fit(left_out, groups)


def patient_groups(patients: Iterable[str], k: int, seed: int = 0) -> dict[str, int]:
    """Return a group 0..k-1 of each patient, of sizes that differ by one at most.

    Patients are sorted by a hash of their names, so their order does not matter.

    Raises:
        CalibratorError: There are fewer patients than groups, or fewer than two groups.
    """
    names = set(patients)
    if not 2 <= k <= len(names):
        raise CalibratorError(
            f"The number of groups must be from 2 to the number of patients, {len(names)}, got {k}."
        )
    order = sorted(names, key=lambda name: (seed_of(seed, name), name))
    return {name: position % k for position, name in enumerate(order)}


class _Stream:
    """The passes of several fits over the same cases."""

    def __init__(
        self,
        method: str,
        cases: Cases,
        patients: Mapping[str, str] | None,
        class_names: tuple[str, ...],
        seed: int,
    ) -> None:
        self.method, self.cases, self.patients = method, cases, patients
        self.names, self.seed = class_names, seed

    def fit(
        self, left_out: Sequence[Hashable], groups: Mapping[str, Hashable] | None
    ) -> dict[Hashable, Calibrator]:
        """Return the calibrator of each group that is left out; without groups of all cases."""
        fits: dict[Hashable, Fit] = {}
        waiting: dict[Hashable, Fit] = {}
        while waiting or not fits:
            for prediction in self.cases() if callable(self.cases) else self.cases:
                self._check(prediction)
                if not fits:
                    fits = {key: self._new_fit(prediction) for key in left_out}
                    waiting = dict(fits)
                patient = _of(self.patients, prediction.case, "patient", prediction.case)
                group = _of(groups, patient, "group", None)
                seeing = [f for key, f in waiting.items() if groups is None or key != group]
                self._show(prediction, patient, seeing)
            if not fits:
                raise CalibratorError(
                    "There are no cases to fit a calibrator to: see that the folder has "
                    "predictions with labels."
                )
            waiting = {key: each for key, each in waiting.items() if not each.end_pass()}
        return {key: each.calibrator(self._card(each)) for key, each in fits.items()}

    def _check(self, prediction: Prediction) -> None:
        C = prediction.probs.shape[0]
        self.names = self.names or tuple(map(str, range(C)))
        if len(self.names) != C:
            raise CalibratorError(
                f"Case {prediction.case} has {C} channels, but the class names are {self.names}: "
                "all cases must be of the same classes."
            )

    def _new_fit(self, prediction: Prediction) -> Fit:
        from mbls.posthoc.methods import calibrator_class, new_fit
        from mbls.posthoc.regions import RegionFits

        if prediction.regions:
            if calibrator_class(self.method).needs_image:
                raise CalibratorError(
                    f"{self.method} is for classes, and case {prediction.case} has regions that "
                    "may overlap: use temperature."
                )
            return RegionFits([new_fit(self.method, 2, self.seed) for _ in self.names])
        return new_fit(self.method, len(self.names), self.seed)

    def _show(self, prediction: Prediction, patient: str, fits: Sequence[Fit]) -> None:
        """Add a case to the sums of some fits."""
        for each in fits:
            each.cases[prediction.case] = patient
        for each in fits:
            if each.whole:
                each.add_case(prediction, patient)
        if seeing := [each for each in fits if not each.whole]:
            for piece in pieces(prediction, self.seed):
                for each in seeing:
                    each.add(piece, patient)

    def _card(self, each: Fit) -> Card:
        return Card(self.names, tuple(each.cases), tuple(sorted(set(each.cases.values()))))


def _of(table: Mapping[str, Any] | None, name: str, what: str, default: Any) -> Any:
    if table is None:
        return default
    if name not in table:
        raise CalibratorError(
            f"{name} has no {what}: {what}s must be stated for all, or for none of them."
        )
    return table[name]
