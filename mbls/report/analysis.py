"""Analysis of runs: means over seeds, intervals over patients, comparisons of losses."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mbls.metrics.bootstrap import DRAWS, corrected
from mbls.report.groups import Group
from mbls.report.measures import Measure, Section, patient_draws, sample, shared_sections
from mbls.report.stats import (
    ENOUGH_PATIENTS,
    LEVEL,
    SHORT,
    Effect,
    cautions,
    difference,
    holm,
    lacking,
    loss_effect,
    patient_interval,
    pseudo_values,
    sign_flip,
)
from mbls.runtime.errors import ReportError

__all__ = [
    "Analysis",
    "Cell",
    "Comparison",
    "Reruns",
    "analyze",
    "reference_arm",
    "reference_error",
]

ALPHA = 1 - LEVEL
MOST_NAMED = 5


@dataclass(frozen=True)
class Cell:
    """One measure of one loss.

    Attributes:
        value: Mean over seeds.
        sd: Standard deviation over seeds; NaN for one.
        low: Lower limit over patients, for the networks that were trained.
        high: Upper limit.
        over_all: The mean over patients and seeds, with the interval over both.
        by_seed: The value of each run.
        best: True if it is the best of its column.
        tied: True if it is not significantly different from the best.
    """

    value: float
    sd: float
    low: float
    high: float
    over_all: Effect
    by_seed: tuple[float, ...]
    best: bool = False
    tied: bool = False


@dataclass(frozen=True)
class Comparison:
    """Comparison of two losses in one measure.

    Attributes:
        first: Name of an arm.
        second: Name of the other; the difference is first minus second.
        effect: Difference over patients and seeds.
        adjusted: Its p-value, adjusted by Holm over the comparisons of the measure; NaN for a
            single seed, which allows no claim about a loss.
        p_networks: p-value of the sign-flip test over patients, conditional on the trained
            networks, adjusted by Holm.
    """

    first: str
    second: str
    effect: Effect
    adjusted: float
    p_networks: float

    def reversed(self) -> "Comparison":
        """Return the second minus the first."""
        e = self.effect
        effect = replace(e, value=-e.value, low=-e.high, high=-e.low)
        return replace(self, first=self.second, second=self.first, effect=effect)


@dataclass(frozen=True)
class Reruns:
    """Comparisons of runs that differ only in their seed, as if they had two losses.

    Attributes:
        pairs: Number of pairs of runs.
        different: Number of pairs with p < 0.05 over patients.
    """

    pairs: int
    different: int


@dataclass(frozen=True)
class Analysis:
    """All results of one group of comparable runs.

    Attributes:
        group: The runs.
        sections: The tables.
        cells: Cells by measure and arm.
        comparisons: Comparisons of all pairs of arms, by measure.
        reference: Name of the arm that others are compared with, or None.
        against_reference: Comparisons with the reference by measure, adjusted over these.
        reruns: Comparisons of seeds, by measure.
        cautions: Limitations due to the numbers of seeds and patients.
    """

    group: Group
    sections: list[Section]
    cells: dict[str, dict[str, Cell]]
    comparisons: dict[str, list[Comparison]]
    reference: str | None
    against_reference: dict[str, list[Comparison]]
    reruns: dict[str, Reruns]
    cautions: list[str]

    @property
    def measures(self) -> list[Measure]:
        """Measures of all sections."""
        return [m for section in self.sections for m in section.measures]


def analyze(group: Group, *, reference: str | None = None, draws: int = DRAWS) -> Analysis:
    """Analyze a group of comparable runs.

    Args:
        group: Comparable runs, tested on at least two patients.
        reference: Loss that the others are compared with, if the group has it.
        draws: Bootstrap draws of patients for the intervals; by default as in a test.

    Raises:
        ReportError: The reference is ambiguous.
    """
    patients = len(set(group.first.patients))
    chosen = None if reference is None else reference_arm(group, reference)
    sections, missing = shared_sections([run for arm in group.arms for run in arm.trainings])
    weights = patient_draws(group.first.patients, draws=draws)
    sampled = {arm.name: [sample(r, sections, weights) for r in arm.runs] for arm in group.arms}
    cells: dict[str, dict[str, Cell]] = {}
    pairs: dict[str, list[Comparison]] = {}
    against: dict[str, list[Comparison]] = {}
    reruns = {}
    valued: dict[str, int] = {}
    lacks: dict[str, float] = {}
    for measure in (m for section in sections for m in section.measures):
        tables = {name: np.stack([s[measure.key] for s in runs]) for name, runs in sampled.items()}
        alone = np.concatenate([t[:, 1 + patients : 1 + 2 * patients] for t in tables.values()])
        known = ~np.isnan(alone).all(0)
        valued[measure.key] = int(known.sum())
        pseudo = {n: pseudo_table(t, known) for n, t in tables.items()}
        lacks[measure.key] = max(lacking(table.mean(0)) for table in pseudo.values())
        row = {n: cell_of(measure, t, known) for n, t in tables.items()}
        names = list(row)
        values = {n: cell.value for n, cell in row.items()}
        pairs[measure.key] = compare(list(itertools.combinations(names, 2)), pseudo, values)
        if chosen is not None:
            wanted = [(n, chosen) for n in names if n != chosen]
            against[measure.key] = compare(wanted, pseudo, values)
        cells[measure.key] = _marked(measure, row, pairs[measure.key])
        reruns[measure.key] = rerun_differences(pseudo)
    seeds = [len(arm.runs) for arm in group.arms]
    measures = [m for section in sections for m in section.measures]
    notes = [
        *missing,
        *cautions(seeds, patients),
        *_few(measures, valued, patients),
        *(_skewed(lacks) if patients >= ENOUGH_PATIENTS else []),
    ]
    return Analysis(group, sections, cells, pairs, chosen, against, reruns, notes)


def _few(measures: Sequence[Measure], valued: Mapping[str, int], patients: int) -> list[str]:
    """Return a caution about measures that few patients have a value of."""
    few = {m.label: valued[m.key] for m in measures
           if valued[m.key] < min(patients, ENOUGH_PATIENTS)}  # fmt: skip
    if not few:
        return []
    named = ", ".join(f"{label} ({number})" for label, number in few.items())
    return [
        f"Not all of the {patients} patients have a value of: {named}. Its intervals and tests "
        "use only those, too few if values are skewed."
    ]


def _skewed(lacks: Mapping[str, float]) -> list[str]:
    """Return a caution about measures whose values are skewed over patients."""
    by_lack = sorted((key for key in lacks if lacks[key] > SHORT), key=lambda key: -lacks[key])
    if not by_lack:
        return []
    named = ", ".join(by_lack[:MOST_NAMED])
    more = f" and {len(by_lack) - MOST_NAMED} more" if len(by_lack) > MOST_NAMED else ""
    return [
        f"Patients' values are skewed in {named}{more}: the coverage of a loss's intervals is too "
        f"low, by {100 * lacks[by_lack[0]]:.0f} points or more in the first."
    ]


def compare(
    pairs: Sequence[tuple[str, str]], pseudo: dict[str, np.ndarray], values: dict[str, float]
) -> list[Comparison]:
    """Return the comparisons of pairs of arms, adjusted for their number.

    Args:
        pairs: Pairs of arms' names.
        pseudo: Pseudo-values of each arm, ``(seeds, patients)``.
        values: Value of each arm in the tables.
    """
    effects = [difference(pseudo[a], pseudo[b], value=values[a] - values[b]) for a, b in pairs]
    if not pairs:
        return []
    signs = sign_flip(np.stack([pseudo[a].mean(0) - pseudo[b].mean(0) for a, b in pairs], axis=1))
    adjusted = holm([effect.p for effect in effects]), holm(signs.tolist())
    return [
        Comparison(a, b, effect, p, networks)
        for (a, b), effect, p, networks in zip(pairs, effects, *adjusted, strict=True)
    ]


def rerun_differences(pseudo: dict[str, np.ndarray]) -> Reruns:
    """Return how often two runs of one loss differ significantly over patients."""
    differences = [
        table[i] - table[j]
        for table in pseudo.values()
        for i, j in itertools.combinations(range(len(table)), 2)
    ]
    if not differences:
        return Reruns(0, 0)
    return Reruns(len(differences), int((sign_flip(np.stack(differences, 1)) < ALPHA).sum()))


def reference_arm(group: Group, name: str) -> str | None:
    """Return the arm that a reference names, or None if the group does not have it.

    Args:
        group: Comparable runs.
        name: The arm's name, the label of its runs, or the name of its loss's file.

    Raises:
        ReportError: Several arms match.
    """
    by_label = [a.name for a in group.arms if any(r.card["loss"] == name for r in a.runs)]
    by_loss = [a.name for a in group.arms if a.loss == name]
    for found in ([a.name for a in group.arms if a.name == name], by_label, by_loss):
        if len(found) > 1:
            raise reference_error(found, name)
        if found:
            return found[0]
    return None


def reference_error(names: Sequence[str], name: str) -> ReportError:
    """Return the error for a reference that matches none or several of the losses."""
    there = ", ".join(map(repr, names))
    return ReportError(f"--reference must name one loss of the runs, {there}, got {name!r}.")


def pseudo_table(table: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the pseudo-values of one arm, ``(seeds, patients)``, for patients with a value.

    NaN if fewer than two patients have one.

    Args:
        table: A measure for each draw of :func:`mbls.report.measures.patient_draws`,
            ``(seeds, draws)``.
        known: Mask of the patients with a value, ``(patients,)``.
    """
    if known.sum() < 2:
        return np.full((len(table), 2), np.nan)
    return pseudo_values(table[:, 0], table[:, 1 : 1 + len(known)].T[known]).T


def cell_of(measure: Measure, table: np.ndarray, known: np.ndarray) -> Cell:
    """Return the cell of one arm, without marks; arguments as in :func:`pseudo_table`."""
    whole, drawn = table[:, 0], table[:, 1 + 2 * len(known) :]
    together, nan, patients = drawn.mean(0), float("nan"), int(known.sum())
    if patients < 2:
        each, low, high = whole.tolist(), nan, nan
    elif measure.corrected:
        nothing = (nan,) * 3
        each = [
            (corrected(w, d, patients) or nothing)[0] for w, d in zip(whole, drawn, strict=True)
        ]
        _, low, high = corrected(float(whole.mean()), together, patients) or nothing
    else:
        each = whole.tolist()
        low, high = patient_interval(float(whole.mean()), together, patients)
    values = np.array(each)
    sd = float(values.std(ddof=1)) if len(values) > 1 else nan
    over_all = loss_effect(pseudo_table(table, known), value=float(values.mean()))
    if measure.better == "less":  # such measures are never negative
        low, high = _cut(low), _cut(high)
        over_all = replace(over_all, low=_cut(over_all.low), high=_cut(over_all.high))
    return Cell(float(values.mean()), sd, low, high, over_all, tuple(map(float, each)))


def _cut(limit: float) -> float:
    """Return a limit clipped to at least 0; NaN stays NaN."""
    return 0.0 if limit < 0 else limit


def _marked(measure: Measure, row: dict[str, Cell], pairs: Sequence[Comparison]) -> dict[str, Cell]:
    """Mark the best of a column, and those that do not differ significantly from it."""
    known = {name: cell for name, cell in row.items() if cell.value == cell.value}
    if measure.better is None or len(known) < 2:
        return row
    sign = 1 if measure.better == "less" else -1
    best = min(known, key=lambda name: sign * known[name].value)
    close = {best} | {
        ({c.first, c.second} - {best}).pop()
        for c in pairs
        if best in (c.first, c.second) and not c.adjusted < ALPHA
    }
    return {
        name: replace(cell, best=name == best, tied=name in close) for name, cell in row.items()
    }
