"""How often the report's tests and intervals are wrong, in simulated worlds whose truth is known.

Each function draws trials from a world and returns the share of them in which a method of the
report rejects, or covers the truth; ``statistics`` makes tables of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from mbls.metrics.bootstrap import interval, patient_weights
from mbls.metrics.calibration import expected_error
from mbls.report.analysis import Cell, cell_of, pseudo_table
from mbls.report.measures import Measure, patient_draws
from mbls.report.stats import difference, holm, loss_effect, patient_interval, sign_flip

LEVEL = 0.05
BINS = 15
CONFIDENCE = (np.arange(BINS) + 0.5) / BINS
ODDS = np.log(CONFIDENCE / (1 - CONFIDENCE))
MASS = np.array([1.0] * (BINS - 1) + [20.0]) / (BINS + 19)  # most voxels are confident ones
KINDS = np.array([(0.0, a, b) for a in range(-7, 8, 2) for b in range(-9, 8, 2)])
"""Predicted logits of a background, a common and a rare structure."""
KIND_MASS = np.exp(-np.hypot(KINDS[:, 1] + 7, KINDS[:, 2] + 9) / 4)  # most are sure background
KIND_MASS /= KIND_MASS.sum()
KIND_PROBS = np.exp(KINDS) / np.exp(KINDS).sum(1, keepdims=True)
KIND_BINS = np.eye(BINS)[np.ceil(KIND_PROBS * BINS).astype(int) - 1].swapaxes(0, 1)
POOLED_ECE = Measure("ece_corrected/all/pooled", "ECE, corrected", "ece", corrected=True)
DRAWS = 400
"""Of patients in a trial of pooled ECE, where the report draws 10,000."""


@dataclass(frozen=True)
class World:
    """Standard deviations of what makes a case's value differ from the mean of its loss.

    Attributes:
        seeds: Between trainings of a loss.
        own: Between patients, of each loss by itself.
        rest: Of a patient in one training.
        patients: Between patients, shared by the losses.
        cases: Between the two cases of a patient.
        shape: How patients differ; exponential values have skewness 2, lognormal ones 6.
    """

    seeds: float = 0.3
    own: float = 0.3
    rest: float = 0.3
    patients: float = 1.0
    cases: float = 0.2
    shape: Literal["normal", "exponential", "lognormal"] = "normal"

    def values(
        self, rng: np.random.Generator, losses: int, seeds: int, patients: int
    ) -> list[np.ndarray]:
        """Return for equal losses the mean of each patient's cases, ``(seeds, patients)``."""
        shared = self.patients * self._between(rng, patients)
        found = []
        for _ in range(losses):
            loss = shared + self.own * self._between(rng, patients)
            training = self.seeds * rng.normal(size=(seeds, 1))
            rest = self.rest * rng.normal(size=(seeds, patients))
            cases = self.cases * rng.normal(size=(seeds, patients, 2))
            found.append(loss + training + rest + cases.mean(-1))
        return found

    def _between(self, rng: np.random.Generator, patients: int) -> np.ndarray:
        """Return values of mean 0 and variance 1."""
        if self.shape == "exponential":
            return rng.exponential(size=patients) - 1
        normal = rng.normal(size=patients)
        if self.shape == "normal":
            return normal
        return (np.exp(normal) - np.exp(0.5)) / np.sqrt(np.exp(2) - np.exp(1))


@dataclass(frozen=True)
class PooledWorld:
    """Voxels of which patients and trainings shift and stretch the log-odds.

    Attributes:
        slope: Mean slope of the true log-odds over the predicted ones; below 1 is overconfident.
        seeds: Standard deviation of the trainings' slopes.
        patients: Of the patients' shifts, shared by the losses.
        own: Of the patients' shifts, of each loss by itself.
        voxels: Of a patient.
    """

    slope: float = 0.85
    seeds: float = 0.05
    patients: float = 0.3
    own: float = 0.1
    voxels: int = 2000

    def tables(
        self, rng: np.random.Generator, losses: int, seeds: int, patients: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for equal losses the trainings' slopes ``(seeds,)`` and counts of their voxels.

        The counts are ``(3, 1, seeds, patients, bins)``: voxels, hits, sums of confidences.
        """
        shared = self.patients * rng.normal(size=(1, patients, 1))
        for _ in range(losses):
            slopes = self.slope + self.seeds * rng.normal(size=seeds)
            shift = shared + self.own * rng.normal(size=(1, patients, 1))
            count = rng.multinomial(self.voxels, MASS, size=(seeds, patients))
            hits = rng.binomial(count, _share(slopes[:, None, None], shift))
            yield slopes, np.stack([count, hits, count * CONFIDENCE])[:, None]

    def errors(self, slopes: np.ndarray) -> np.ndarray:
        """Return the pooled ECE over all patients there could be, for each slope."""
        points, weights = np.polynomial.hermite_e.hermegauss(61)
        shift = points * float(np.hypot(self.patients, self.own))
        share = weights / weights.sum() @ _share(slopes[:, None, None], shift[:, None])
        return expected_error(MASS, MASS * share, MASS * CONFIDENCE)

    def mean_error(self) -> float:
        """Return the mean of :meth:`errors` over all trainings there could be."""
        points, weights = np.polynomial.hermite_e.hermegauss(61)
        return float(weights / weights.sum() @ self.errors(self.slope + self.seeds * points))


@dataclass(frozen=True)
class ClasswiseWorld(PooledWorld):
    """Voxels of a background and two structures, one of them rare; patients shift each structure.

    The error is the mean of the three classes', each against the rest, as class-wise ECE is.
    """

    def tables(
        self, rng: np.random.Generator, losses: int, seeds: int, patients: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield as :meth:`PooledWorld.tables`, counts ``(3, classes, seeds, patients, bins)``."""
        shared = self.patients * rng.normal(size=(1, patients, 1, 2))
        for _ in range(losses):
            slopes = self.slope + self.seeds * rng.normal(size=seeds)
            shift = shared + self.own * rng.normal(size=(1, patients, 1, 2))
            count = rng.multinomial(self.voxels, KIND_MASS, size=(seeds, patients))
            labels = rng.multinomial(count, _classes(slopes[:, None, None], shift))
            yield slopes, _by_class(count[..., None], labels)

    def errors(self, slopes: np.ndarray) -> np.ndarray:
        """Return the pooled error over all patients there could be, for each slope."""
        points, weights = np.polynomial.hermite_e.hermegauss(31)
        shift = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 1, 2)
        chance = np.outer(weights, weights).ravel() / weights.sum() ** 2
        shift = shift * float(np.hypot(self.patients, self.own))
        shares = [np.tensordot(chance, _classes(slope, shift), axes=1) for slope in slopes]
        mass = KIND_MASS[:, None]
        return np.array([expected_error(*_by_class(mass, mass * s)).mean() for s in shares])


def _classes(slopes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the true probabilities of each kind of voxel, ``(.., kinds, classes)``."""
    logits = np.multiply.outer(slopes, KINDS)
    logits = logits.reshape(*np.shape(slopes)[:-1], *KINDS.shape)
    odds = np.exp(logits[..., 1:] + shift)
    whole = 1 + odds.sum(-1, keepdims=True)
    return np.concatenate([1 / whole, odds / whole], axis=-1)


def _by_class(count: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the counts of each class against the rest, ``(3, classes, .., bins)``.

    Args:
        count: Voxels of each kind ``(.., kinds, 1)``.
        labels: How many of them have each class ``(.., kinds, classes)``.
    """
    kinds = np.stack(np.broadcast_arrays(count, labels, count * KIND_PROBS))
    each = [kinds[..., k] @ bins for k, bins in enumerate(KIND_BINS)]
    return np.stack(each, axis=1)


def _share(slopes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the expected share of hits in each bin."""
    return 1 / (1 + np.exp(-(slopes * ODDS + shift)))


def crossed_rejections(world: World, seeds: int, patients: int, trials: int) -> float:
    """Return how often the crossed test finds two equal losses different."""
    rng = np.random.default_rng(0)
    pairs = (world.values(rng, 2, seeds, patients) for _ in range(trials))
    return float(np.mean([difference(a, b).p < LEVEL for a, b in pairs]))


def signs_rejections(world: World, seeds: int, patients: int, trials: int) -> float:
    """Return how often random signs over patients find two equal losses different."""
    rng = np.random.default_rng(0)
    pairs = (world.values(rng, 2, seeds, patients) for _ in range(trials))
    columns = np.stack([a.mean(0) - b.mean(0) for a, b in pairs], axis=1)
    return float((sign_flip(columns, flips=999) < LEVEL).mean())


def family_rejections(
    world: World, seeds: int, patients: int, trials: int, *, losses: int = 5
) -> float:
    """Return how often any pair of equal losses is found different after Holm."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(trials):
        found = world.values(rng, losses, seeds, patients)
        adjusted = holm([difference(a, b).p for a, b in combinations(found, 2)])
        wrong += min(adjusted) < LEVEL
    return wrong / trials


def crossed_coverage(world: World, seeds: int, patients: int, trials: int) -> float:
    """Return how often a loss's interval over seeds and patients covers its mean."""
    rng = np.random.default_rng(0)
    found = (loss_effect(world.values(rng, 1, seeds, patients)[0]) for _ in range(trials))
    return float(np.mean([effect.low <= 0 <= effect.high for effect in found]))


def network_coverage(world: World, seeds: int, patients: int, trials: int) -> float:
    """Return how often the interval over patients covers the mean of the trained networks."""
    return _over_patients(world, seeds, patients, trials, patient_interval)


def percentile_coverage(world: World, seeds: int, patients: int, trials: int) -> float:
    """Return the same for the plain percentile interval."""
    return _over_patients(
        world, seeds, patients, trials, lambda value, drawn, patients: interval(drawn) or (0, 0)
    )


def _over_patients(
    world: World,
    seeds: int,
    patients: int,
    trials: int,
    limits: Callable[[float, np.ndarray, int], tuple[float, float]],
) -> float:
    rng = np.random.default_rng(0)
    weights = patient_weights([str(n) for n in range(patients)], draws=1000) / patients
    covered = 0
    for _ in range(trials):  # what the trainings have in common with no patient is their own truth
        values = replace(world, seeds=0.0).values(rng, 1, seeds, patients)[0].mean(0)
        low, high = limits(float(values.mean()), weights @ values, patients)
        covered += low <= 0 <= high
    return covered / trials


def pooled_rejections(world: PooledWorld, seeds: int, patients: int, trials: int) -> float:
    """Return how often the report finds two equal losses different in a world's pooled error."""
    wrong = 0
    for (_, one, first), (_, two, second) in _pooled_trials(world, 2, seeds, patients, trials):
        wrong += difference(first, second, value=one.value - two.value).p < LEVEL
    return wrong / trials


def pooled_coverage(world: PooledWorld, seeds: int, patients: int, trials: int) -> float:
    """Return how often the interval over seeds and patients covers a loss's mean pooled error."""
    truth, covered = world.mean_error(), 0
    for ((_, cell, _),) in _pooled_trials(world, 1, seeds, patients, trials):
        covered += cell.over_all.low <= truth <= cell.over_all.high
    return covered / trials


def pooled_network_coverage(world: PooledWorld, seeds: int, patients: int, trials: int) -> float:
    """Return how often the interval over patients covers the networks' mean pooled error."""
    covered = 0
    for ((slopes, cell, _),) in _pooled_trials(world, 1, seeds, patients, trials):
        covered += cell.low <= world.errors(slopes).mean() <= cell.high
    return covered / trials


def _pooled_trials(
    world: PooledWorld, losses: int, seeds: int, patients: int, trials: int
) -> Iterator[list[tuple[np.ndarray, Cell, np.ndarray]]]:
    """Yield trials: of each loss the slopes, the report's cell and its pseudo-values."""
    rng = np.random.default_rng(0)
    weights = patient_draws([str(n) for n in range(patients)], draws=DRAWS)
    known = np.ones(patients, dtype=bool)
    for _ in range(trials):
        found = []
        for slopes, counts in world.tables(rng, losses, seeds, patients):
            sampled = expected_error(*(weights @ counts)).mean(0)  # over classes
            found.append(
                (slopes, cell_of(POOLED_ECE, sampled, known), pseudo_table(sampled, known))
            )
        yield found
