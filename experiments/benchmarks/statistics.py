"""Tables of how often the report's tests and intervals are wrong, in worlds of known truth.

``make error-rates`` prints them; ``make error-rates ARGS=--write`` puts them into
``docs/statistics.md``. The tests check each rate against its level where a table claims it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks.trials import (
    LEVEL,
    ClasswiseWorld,
    PooledWorld,
    World,
    crossed_coverage,
    crossed_rejections,
    family_rejections,
    network_coverage,
    percentile_coverage,
    pooled_coverage,
    pooled_network_coverage,
    pooled_rejections,
    signs_rejections,
)
from experiments.readme import with_section
from mbls.report.stats import ENOUGH_PATIENTS, ENOUGH_PATIENTS_SKEWED

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
TRIALS = 1000
"""Repetitions of a cell."""

WORLDS = {
    "seeds as patients": World(),
    "seeds differ most": World(seeds=1.0, own=0.2, rest=0.2),
    "patients differ most": World(seeds=0.02, own=1.0, rest=0.3),
    "seeds differ by chance alone": World(seeds=0.0, own=0.3, rest=0.5),
    "patients alike": World(patients=0.0, rest=0.5),
    "seeds differ by 0.1 of the rest": World(seeds=0.1, own=0.0, rest=1.0, cases=0.0),
    "seeds differ by 0.2 of the rest": World(seeds=0.2, own=0.0, rest=1.0, cases=0.0),
    "seeds differ by 0.3 of the rest": World(seeds=0.3, own=0.0, rest=1.0, cases=0.0),
    "skewed patients": World(shape="exponential"),
    "strongly skewed patients": World(shape="lognormal"),
}
PATIENT_WORLDS = {
    name: world for name, world in WORLDS.items() if not name.startswith("seeds differ by 0.")
}
"""Without those that are one where patients alone are drawn."""
POOLED_WORLDS = {
    "overconfident, trainings alike": PooledWorld(seeds=0.0),
    "overconfident, trainings differ": PooledWorld(),
    "overconfident, patients differ much": PooledWorld(patients=0.8),
    "calibrated but for single patients": PooledWorld(slope=1.0, patients=0.5),
}
CLASSWISE_WORLDS = {
    "three classes, trainings differ": ClasswiseWorld(),
    "three classes, patients differ much": ClasswiseWorld(patients=0.8),
    "three classes, calibrated but for single patients": ClasswiseWorld(slope=1.0, patients=0.5),
}
SIZES = [(2, 30), (2, 100), (3, 6), (3, 10), (3, 30), (3, 100), (5, 10), (5, 30), (5, 100)]
"""Numbers of seeds and patients."""
PATIENTS = [(3, 6), (3, 10), (3, 30), (3, 50), (3, 100), (3, 200)]
CLASSWISE_SIZES = [(3, 6), (3, 10), (3, 30), (3, 100), (5, 100)]
POOLED_SIZES = [(2, 30), (3, 6), (3, 10), (3, 30), (3, 100), (5, 30), (5, 100)]

Claim = Callable[[str, int, int], bool]


@dataclass(frozen=True)
class ErrorRates:
    """One table: a row a world, a column a number of seeds and patients.

    Attributes:
        name: Of its place in the page.
        rate: Gives a cell, for a world, numbers of seeds, patients and trials.
        nominal: What would be right.
        worlds: The rows.
        sizes: The columns.
        claimed: Where the method claims to be right, by the name of a world, seeds and patients;
            elsewhere the report warns, or does not use the method for such a claim.
    """

    name: str
    rate: Callable[..., float]
    nominal: float
    worlds: Mapping[str, World] | Mapping[str, PooledWorld]
    sizes: Sequence[tuple[int, int]]
    claimed: Claim

    def cells(self) -> list[tuple[str, int, int]]:
        """Return all worlds and sizes for which it claims to be right."""
        return [(w, *size) for w in self.worlds for size in self.sizes if self.claimed(w, *size)]

    def cell(self, world: str, seeds: int, patients: int, trials: int = TRIALS) -> float:
        """Return the share of trials in which it rejects, or covers the truth."""
        return self.rate(self.worlds[world], seeds, patients, trials)

    def wrong(self, rate: float, trials: int = TRIALS) -> bool:
        """Return True if a rate is off by more than two Monte-Carlo standard errors.

        Only too many rejections or too few intervals that cover the truth are wrong.
        """
        off = rate - self.nominal if self.nominal < 0.5 else self.nominal - rate
        return off > two_errors(trials)


def two_errors(trials: int) -> float:
    """Return two Monte-Carlo standard errors of a rate of 5 or 95 % over some trials."""
    return 2 * float(LEVEL * (1 - LEVEL) / trials) ** 0.5


def _always(world: str, seeds: int, patients: int) -> bool:
    return True


def _never(world: str, seeds: int, patients: int) -> bool:
    return False


def _enough_patients(world: str, seeds: int, patients: int) -> bool:
    if "strongly" in world:
        return False
    hard = "skewed" in world or world in (
        *POOLED_WORLDS,
        *CLASSWISE_WORLDS,
    )  # pooled errors are skewed too
    return patients >= (ENOUGH_PATIENTS_SKEWED if hard else ENOUGH_PATIENTS)


TABLES = [
    ErrorRates("crossed", crossed_rejections, LEVEL, WORLDS, SIZES, _always),
    ErrorRates("signs", signs_rejections, LEVEL, WORLDS, SIZES, _never),
    ErrorRates("family", family_rejections, LEVEL, WORLDS, SIZES, _always),
    ErrorRates("crossed-interval", crossed_coverage, 1 - LEVEL, WORLDS, SIZES, _enough_patients),
    ErrorRates(
        "patient-interval", network_coverage, 1 - LEVEL, PATIENT_WORLDS, PATIENTS, _enough_patients
    ),
    ErrorRates("percentiles", percentile_coverage, 1 - LEVEL, PATIENT_WORLDS, PATIENTS, _never),
    ErrorRates("pooled", pooled_rejections, LEVEL, POOLED_WORLDS, POOLED_SIZES, _always),
    ErrorRates(
        "pooled-interval", pooled_coverage, 1 - LEVEL, POOLED_WORLDS, POOLED_SIZES, _enough_patients
    ),
    ErrorRates(
        "pooled-patient-interval",
        pooled_network_coverage,
        1 - LEVEL,
        POOLED_WORLDS,
        POOLED_SIZES,
        _never,
    ),
    ErrorRates(
        "classwise-interval",
        pooled_coverage,
        1 - LEVEL,
        CLASSWISE_WORLDS,
        CLASSWISE_SIZES,
        _enough_patients,
    ),
    ErrorRates(
        "classwise-patient-interval",
        pooled_network_coverage,
        1 - LEVEL,
        CLASSWISE_WORLDS,
        CLASSWISE_SIZES,
        _never,
    ),
]


def markdown(table: ErrorRates, trials: int) -> str:
    """Return a table in Markdown, in percent; bold is wrong beyond chance."""
    heads = [f"{seeds} seeds, {patients} patients" for seeds, patients in table.sizes]
    lines = [f"| world | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for world in table.worlds:
        rates = [table.cell(world, *size, trials) for size in table.sizes]
        cells = [
            f"**{100 * r:.1f}**" if table.wrong(r, trials) else f"{100 * r:.1f}" for r in rates
        ]
        lines.append(f"| {world} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into the page."""
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("--trials", type=int, default=TRIALS, help=f"of a cell (default: {TRIALS})")
    p.add_argument("--table", action="append", choices=[t.name for t in TABLES], metavar="NAME",
                   help="one alone, or several (default: all)")  # fmt: skip
    p.add_argument("--write", action="store_true", help=f"write them into {PAGE.name}")
    p.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="another page")
    options = p.parse_args(args)
    for table in TABLES:
        if options.table is None or table.name in options.table:
            found = markdown(table, options.trials)
            sys.stdout.write(f"\n{table.name}\n\n{found}\n")
            sys.stdout.flush()
            if options.write:
                page = options.page.read_text()
                options.page.write_text(with_section(page, table.name, found))


if __name__ == "__main__":
    main()
