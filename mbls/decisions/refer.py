"""Which cases to look at again: the confidence of a case against its Dice.

The risk of a case is one minus its Dice, the mean over the classes in its label. Curves and areas
are those of :mod:`mbls.decisions.risk_coverage`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mbls.decisions.risk_coverage import augrc, aurc, selective_risk
from mbls.evaluation.run import TestRun
from mbls.metrics.bootstrap import interval, patient_weights
from mbls.metrics.confidence_sums import case_mean
from mbls.runtime.errors import DecisionError

__all__ = [
    "CONFIDENCES",
    "Referral",
    "Referred",
    "case_confidences",
    "case_risk",
    "refer",
    "referrals",
    "structure_referrals",
]

DRAWS = 2000
_ROUNDING = 1e-9  # 0.29 of 100 cases are 29, but not in binary
EARLIER = (
    "The test was made by an earlier version, which did not count the confidence of a case: test "
    "again (make evaluate, make audit)."
)
CONFIDENCES = {
    "soft_dice": "soft Dice confidence",
    "expected_dice": "expected Dice",
    "entropy_near": "entropy near the prediction",
    "entropy_all": "entropy of all voxels",
    "agreement": "agreement of the ensemble",
}
"""Measures of confidence, by the names of options and files; entropies with a minus."""


def case_risk(run: TestRun) -> np.ndarray:
    """Return one minus the mean Dice of the labeled classes ``(cases,)``; NaN without any."""
    return 1 - case_mean(run.overlaps["dice"], run.bins.num_classes)


def case_confidences(run: TestRun) -> dict[str, np.ndarray]:
    """Return each measure of confidence ``(cases,)``, larger if surer.

    Those of structures are averaged over the foreground classes, labeled or not, since a label is
    unknown where confidence is needed. Without a predicted voxel there is no entropy near it: that
    of all voxels is taken; and networks that all predict nothing agree.

    Raises:
        DecisionError: The test is of an earlier version, which counted none.
    """
    if (sums := run.confidence) is None:
        raise DecisionError(EARLIER)
    classes, everywhere = run.bins.num_classes, sums.mean_entropy(near=False)
    near = sums.mean_entropy(near=True)
    found = {
        "soft_dice": case_mean(sums.soft_dice(), classes),
        "expected_dice": case_mean(sums.expected_dice(), classes),
        "entropy_near": -np.where(np.isnan(near), everywhere, near),
        "entropy_all": -everywhere,
    }
    if sums.agreement is not None:
        agreement = case_mean(sums.agreement, classes)
        found["agreement"] = np.where(np.isnan(agreement), 1.0, agreement)
    return found


@dataclass(frozen=True)
class Referral:
    """How well a measure of confidence finds the cases with a low Dice.

    Attributes:
        measure: Its name in :data:`CONFIDENCES`.
        structure: Name of the structure; None for the mean of the classes.
        coverage: Share of accepted cases ``(n,)``.
        risk: Selective risk ``(n,)``.
        low: Lower limit of its 95 % interval over patients ``(n,)``; NaN for a single patient.
        high: Upper limit ``(n,)``.
        random: Mean risk, the selective risk of any order on average.
        ideal: Selective risk in the order of the risks ``(n,)``.
        areas: ``aurc`` and ``augrc``, each as value, low, high.
        bounds: The same areas of a random order and of the ideal one.
    """

    measure: str
    coverage: np.ndarray
    risk: np.ndarray
    low: np.ndarray
    high: np.ndarray
    random: float
    ideal: np.ndarray
    areas: Mapping[str, tuple[float, float, float]]
    bounds: Mapping[str, tuple[float, float]]
    structure: str | None = None

    def row(self) -> dict[str, object]:
        """Return the areas as a row of a CSV file."""
        found: dict[str, object] = {} if self.structure is None else {"structure": self.structure}
        found["confidence"] = self.measure
        found["n_cases"] = len(self.risk)
        for name, (value, low, high) in self.areas.items():
            random, ideal = self.bounds[name]
            found |= {name: value, f"{name}_low": low, f"{name}_high": high}
            found |= {f"{name}_random": random, f"{name}_ideal": ideal}
        return found


def referrals(run: TestRun, *, draws: int = DRAWS) -> list[Referral]:
    """Return how each measure of confidence orders the cases of a test.

    Cases without a labeled class have no Dice and are left out.

    Args:
        run: The counts of a test.
        draws: Draws of patients for the intervals.

    Raises:
        DecisionError: No case has a labeled class, or none has a confidence.
    """
    risk, known = case_risk(run), ~np.isnan(case_risk(run))
    if not known.any():
        raise DecisionError("No case of the test has a labeled class, so there is no Dice.")
    patients = [patient for patient, keep in zip(run.patients, known, strict=True) if keep]
    return [
        referral(measure, confidence[known], risk[known], patients, draws=draws)
        for measure, confidence in case_confidences(run).items()
    ]


def structure_referrals(run: TestRun, *, draws: int = DRAWS) -> list[Referral]:
    """Return how the confidence of each foreground class and union orders the cases that have it.

    These are of the measures that a structure has: soft and expected Dice, agreement.

    Args:
        run: The counts of a test.
        draws: Draws of patients for the intervals.
    """
    if (sums := run.confidence) is None:
        raise DecisionError(EARLIER)
    of = {"soft_dice": sums.soft_dice(), "expected_dice": sums.expected_dice()}
    if sums.agreement is not None:
        of["agreement"] = np.where(np.isnan(sums.agreement), 1.0, sums.agreement)
    risks, found = 1 - run.overlaps["dice"], []
    for place, name in enumerate(list(run.names.values())[2:], 1):
        known = ~np.isnan(risks[:, place])
        patients = [patient for patient, keep in zip(run.patients, known, strict=True) if keep]
        for measure, values in of.items() if known.any() else ():
            one = referral(
                measure, values[known, place], risks[known, place], patients, draws=draws
            )
            found.append(replace(one, structure=name))
    return found


def referral(
    measure: str,
    confidence: np.ndarray,
    risk: np.ndarray,
    patients: Sequence[str],
    *,
    draws: int = DRAWS,
) -> Referral:
    """Return how a confidence orders cases; see :func:`referrals`."""
    n = len(risk)
    coverage, areas = np.arange(1, n + 1) / n, {"aurc": aurc, "augrc": augrc}
    limits = dict.fromkeys(areas, (np.nan, np.nan))
    band = np.full((2, n), np.nan)
    if len(set(patients)) > 1:
        drawn, curves = _drawn(confidence, risk, patients, coverage, draws)
        limits = {name: interval(values) or (np.nan, np.nan) for name, values in drawn.items()}
        band = np.quantile(curves, [0.025, 0.975], axis=0)
    equal = np.zeros(n)
    return Referral(
        measure, coverage, selective_risk(confidence, risk), band[0], band[1],
        float(risk.mean()), selective_risk(-risk, risk),
        {name: (area(confidence, risk), *limits[name]) for name, area in areas.items()},
        {name: (area(equal, risk), area(-risk, risk)) for name, area in areas.items()},
    )  # fmt: skip


def _drawn(
    confidence: np.ndarray,
    risk: np.ndarray,
    patients: Sequence[str],
    coverage: np.ndarray,
    draws: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the areas ``(draws,)`` and the selective risks ``(draws, n)`` of drawn patients.

    Patients with several cases change the number of cases of a draw, so its curve is interpolated.
    """
    found: dict[str, list[float]] = {"aurc": [], "augrc": []}
    curves = np.empty((draws, len(coverage)))
    for number, weights in enumerate(patient_weights(patients, draws)):
        chosen = np.repeat(np.arange(len(risk)), weights.astype(int))
        own = confidence[chosen], risk[chosen]
        found["aurc"].append(aurc(*own))
        found["augrc"].append(augrc(*own))
        steps = np.arange(1, len(chosen) + 1) / len(chosen)
        curves[number] = np.interp(coverage, steps, selective_risk(*own))
    return {name: np.array(values) for name, values in found.items()}, curves


@dataclass(frozen=True)
class Referred:
    """The cases of a test whose confidence is below a level of other patients.

    Attributes:
        measure: Name of the confidence.
        share: Share of the other patients' cases that was to be below the level.
        level: The level; None if it differs between the groups of a cross-fit.
        below: How many of the other patients' cases are below it, and how many there are, of each
            group of a cross-fit; whole cases, and fewer where confidences are equal.
        cases: True for a case to look at again ``(cases,)``.
        dice: Dice of each case ``(cases,)``, NaN without a labeled class.
    """

    measure: str
    share: float
    level: float | None
    below: tuple[tuple[int, int], ...]
    cases: np.ndarray
    dice: np.ndarray

    def sentence(self) -> str:
        """Return what was referred, and the Dice of these cases and of the others."""
        number, total = int(self.cases.sum()), len(self.cases)
        means = [_mean(self.dice[self.cases]), _mean(self.dice[~self.cases])]
        below, of = (_range(each) for each in zip(*self.below, strict=True))
        return (
            f"The level below which {below} of {of} cases of other patients are refers "
            f"{number} of {total}: mean Dice {means[0]} of these, {means[1]} of the others."
        )

    def warning(self) -> str | None:
        """Return a line if no case of the other patients is below the level."""
        if all(below for below, _ in self.below):
            return None
        fewest = min(of for below, of in self.below if not below)
        return (
            f"SHARE {self.share:g} of {fewest} cases of other patients is less than a case, or "
            "their confidences are equal: none of them is below the level, the lowest of theirs. "
            "Take a larger SHARE (--share)."
        )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _mean(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.3f}" if len(known) else "unknown"


def refer(
    test: TestRun,
    others: TestRun | None,
    *,
    measure: str = "soft_dice",
    share: float = 0.1,
    groups: Mapping[str, int] | None = None,
) -> Referred | None:
    """Refer the cases of a test whose confidence is below a level.

    The level is the lowest confidence of the other cases but for the given share, rounded down to
    whole cases: it counts cases, not patients. How many test cases are below it varies,
    so it is no guarantee.

    Args:
        test: The counts of the test.
        others: Those of other patients, such as validation; None for a cross-fit of the test.
        measure: A name of :data:`CONFIDENCES`.
        share: Share of the other patients' cases to refer, above 0 and below 1.
        groups: Group of each patient in a cross-fit: a level follows from the other groups.

    Returns:
        The cases; None if the other patients' counts lack the measure: members of an ensemble are
        compared in tests alone.

    Raises:
        DecisionError: The share is out of range, or a test patient is among the others.
    """
    if not 0 < share < 1:
        raise DecisionError(f"SHARE (--share) must be above 0 and below 1, got {share:g}.")
    own, dice = case_confidences(test)[measure], 1 - case_risk(test)
    if others is None:
        assert groups is not None
        of = np.array([groups[patient] for patient in test.patients])
        rest = {group: own[of != group] for group in sorted(set(of.tolist()))}
        levels = {group: _level(confidence, share) for group, confidence in rest.items()}
        cases = own < np.array([levels[group] for group in of.tolist()])
        counts = tuple(_below(rest[group], level) for group, level in levels.items())
        return Referred(measure, share, None, counts, cases, dice)
    if seen := sorted(set(others.patients) & set(test.patients)):
        raise DecisionError(
            f"The level would be chosen on {len(seen)} of the test patients ({seen[0]}, ...): "
            "choose it on others."
        )
    known = case_confidences(others)
    if measure not in known:
        return None
    level = _level(known[measure], share)
    return Referred(
        measure, share, level, (_below(known[measure], level),), own < level, dice
    )  # fmt: skip


def _level(confidence: np.ndarray, share: float) -> float:
    if not len(confidence):
        raise DecisionError("There are no other patients to choose a level on.")
    whole = math.floor(share * len(confidence) + _ROUNDING)
    return float(np.sort(confidence)[whole])


def _below(confidence: np.ndarray, level: float) -> tuple[int, int]:
    return int((confidence < level).sum()), len(confidence)
