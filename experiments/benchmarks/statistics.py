"""How often the report's tests and intervals are wrong, in worlds whose truth is known.

``python -m experiments.benchmarks.statistics [--trials N]`` prints the tables of
``docs/statistics.md``.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mbls.metrics.bootstrap import interval
from mbls.metrics.calibration import expected_error
from mbls.report.stats import (
    difference,
    holm,
    loss_effect,
    patient_interval,
    pseudo_values,
    sign_flip,
)

LEVEL = 0.05
BINS = 15
CONFIDENCE = (np.arange(BINS) + 0.5) / BINS
MASS = np.array([1.0] * (BINS - 1) + [20.0]) / (BINS + 19)  # most voxels are confident ones


@dataclass(frozen=True)
class World:
    """Standard deviations of what makes a case's value differ from the mean of its loss.

    Attributes:
        seeds: Between trainings of a loss.
        own: Between patients, of each loss by itself.
        rest: Of a patient in one training.
        patients: Between patients, shared by the losses.
        cases: Between the two cases of a patient.
        skewed: Patients differ like exponential variables rather than normal ones.
    """

    seeds: float = 0.3
    own: float = 0.3
    rest: float = 0.3
    patients: float = 1.0
    cases: float = 0.2
    skewed: bool = False

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
        return rng.exponential(size=patients) - 1 if self.skewed else rng.normal(size=patients)


WORLDS = {
    "seeds as patients": World(),
    "seeds differ most": World(seeds=1.0, own=0.2, rest=0.2),
    "patients differ most": World(seeds=0.02, own=1.0, rest=0.3),
    "seeds differ by chance alone": World(seeds=0.0, own=0.3, rest=0.5),
    "patients alike": World(patients=0.0, rest=0.5),
    "skewed patients": World(skewed=True, own=0.5),
}
LITTLE_SEED_NOISE = World(seeds=0.2, own=0.0, rest=1.0, cases=0.0)
"""Seeds differ by a fifth of a patient's noise: with few seeds, often not seen and yet there."""
SIZES = [(2, 30), (3, 6), (3, 10), (3, 30), (5, 10), (5, 30)]
"""Numbers of seeds and patients."""


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
    """Return how often a loss's interval over seeds and patients holds its mean."""
    rng = np.random.default_rng(0)
    found = (loss_effect(world.values(rng, 1, seeds, patients)[0]) for _ in range(trials))
    return float(np.mean([effect.low <= 0 <= effect.high for effect in found]))


def network_coverage(world: World, seeds: int, patients: int, trials: int) -> float:
    """Return how often the interval over patients holds the mean of the trained networks."""
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
    weights = rng.multinomial(patients, np.full(patients, 1 / patients), 1000) / patients
    held = 0
    for _ in range(trials):  # what the trainings have in common with no patient is their own truth
        values = replace(world, seeds=0.0).values(rng, 1, seeds, patients)[0].mean(0)
        low, high = limits(float(values.mean()), weights @ values, patients)
        held += low <= 0 <= high
    return held / trials


def pooled_error_rejections(seeds: int, patients: int, trials: int, *, spread: float) -> float:
    """Return how often two equal losses differ in pooled ECE, by the pseudo-values' crossed test.

    Args:
        seeds: Trainings of each loss; their slope of the log-odds differs.
        patients: Each shifts the log-odds of all its voxels.
        trials: How many.
        spread: Standard deviation of the trainings' slopes.
    """
    rng = np.random.default_rng(0)
    odds = np.log(CONFIDENCE / (1 - CONFIDENCE))
    wrong = 0
    for _ in range(trials):
        shift = 0.3 * rng.normal(size=(1, patients, 1))
        tables = []
        for _ in range(2):
            slope = 0.85 + spread * rng.normal(size=(seeds, 1, 1))
            own = shift + 0.1 * rng.normal(size=(1, patients, 1))
            count = rng.multinomial(2000, MASS, size=(seeds, patients))
            hits = rng.binomial(count, 1 / (1 + np.exp(-(slope * odds + own))))
            tables.append(_pseudo_errors(count, hits))
        wrong += difference(*tables).p < LEVEL
    return wrong / trials


def _pseudo_errors(count: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return pseudo-values of the pooled ECE ``(seeds, patients)``."""
    parts = [count, hits, count * CONFIDENCE]
    whole = expected_error(*(part.sum(1) for part in parts))
    without = expected_error(*(part.sum(1, keepdims=True) - part for part in parts))
    return pseudo_values(whole, without.T).T


METHODS: dict[str, tuple[Callable[[World, int, int, int], float], float]] = {
    "equal losses found different: crossed test": (crossed_rejections, LEVEL),
    "the same by random signs over patients, seeds averaged": (signs_rejections, LEVEL),
    "any pair of five equal losses found different after Holm": (family_rejections, LEVEL),
    "mean of a loss in its interval over seeds and patients": (crossed_coverage, 1 - LEVEL),
    "mean of the networks in their interval over patients": (network_coverage, 1 - LEVEL),
    "the same by plain percentiles": (percentile_coverage, 1 - LEVEL),
}


def main() -> None:
    """Print a table a method: a row a world, a column a number of seeds and patients."""
    p = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    p.add_argument("--trials", type=int, default=1000, help="repetitions (default: 1000)")
    trials = p.parse_args().trials
    error = 200 * (LEVEL * (1 - LEVEL) / trials) ** 0.5
    write = sys.stdout.write
    write(f"{trials} trials; two Monte-Carlo standard errors are {error:.1f} points.\n")
    for title, (method, nominal) in METHODS.items():
        number = trials if method is not family_rejections else trials // 2
        write(f"\n{title} (nominal {100 * nominal:.0f} %)\n\n")
        names = [f"{seeds} seeds, {patients} patients" for seeds, patients in SIZES]
        write("| world | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names) + "\n")
        for name, world in WORLDS.items():
            rates = [100 * method(world, *size, number) for size in SIZES]
            write(f"| {name} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |\n")
            sys.stdout.flush()
    write("\nequal losses found different where seeds differ a little (nominal 5 %)\n\n")
    for seeds in (2, 3, 5):
        rates = [100 * crossed_rejections(LITTLE_SEED_NOISE, seeds, p, trials)
                 for p in (30, 50, 100)]  # fmt: skip
        write(f"| {seeds} seeds; 30, 50, 100 patients | ")
        write(" | ".join(f"{rate:.1f}" for rate in rates) + " |\n")
    write("\nequal losses found different in pooled ECE: crossed test (nominal 5 %)\n\n")
    for spread in (0.0, 0.05):
        rates = [100 * pooled_error_rejections(*s, trials, spread=spread) for s in SIZES]
        write(f"| slopes of trainings differ by {spread} | ")
        write(" | ".join(f"{rate:.1f}" for rate in rates) + " |\n")


if __name__ == "__main__":
    main()
