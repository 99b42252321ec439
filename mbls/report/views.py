"""Tables of a report as plain text, the source of screen, Markdown, LaTeX and HTML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mbls.loggers.selection import KEYS, RULES, chosen_epoch
from mbls.metrics.catalog import find_metric
from mbls.plots.labels import POOLING_LABELS, region_label
from mbls.report.analysis import Analysis, Cell, Comparison
from mbls.report.groups import Arm
from mbls.report.measures import Measure, Section
from mbls.report.runs import Run

__all__ = [
    "View",
    "comparison_view",
    "reruns_sentence",
    "reruns_view",
    "runs_view",
    "scope",
    "section_view",
    "selection_view",
]

MARKS = (
    "Bold: best mean. †: not distinguishable from the best (crossed test over patients and seeds, "
    "Holm over all pairs of losses of a column, 5 %)."
)
_ARROWS = {"more": " ↑", "less": " ↓", None: ""}
POOLED_COVERAGE = "91 to 99 %"
"""Coverage of the interval over patients of a pooled or class-wise ECE in simulations."""
INTERVAL = (
    "± sd over seeds. Brackets: 95 % interval over patients, conditional on the trained networks."
)


@dataclass(frozen=True)
class View:
    """One table.

    Attributes:
        title: Title.
        caption: The data and computation.
        legend: Explanation of marks and intervals.
        frame: Cells as text; the first column names the rows. A second line is shown smaller.
        best: Row and column of the best cell of each column.
        lead: If True, it is printed on screen.
    """

    title: str
    caption: str
    legend: tuple[str, ...]
    frame: pd.DataFrame
    best: frozenset[tuple[int, int]] = frozenset()
    lead: bool = False


def section_view(analysis: Analysis, section: Section) -> View:
    """Return a section's table: a row per loss, a column per measure."""
    arms, measures = analysis.group.arms, section.measures
    cells = [[analysis.cells[m.key][arm.name] for m in measures] for arm in arms]
    rows = [
        [f"{arm.name}\n{_seeds(arm.seeds)}", *map(_cell, measures, row)]
        for arm, row in zip(arms, cells, strict=True)
    ]
    best = {(r, 1 + k) for r, row in enumerate(cells) for k, cell in enumerate(row) if cell.best}
    columns = ["loss", *(m.label + _ARROWS[m.better] for m in measures)]
    caption = f"{scope(analysis)} {_how(analysis, section)}"
    frame = pd.DataFrame(rows, columns=columns)
    return View(section.title, caption, _legend(section), frame, frozenset(best), section.lead)


def _legend(section: Section) -> tuple[str, ...]:
    texts = [INTERVAL, MARKS]
    if any(m.corrected for m in section.measures):
        texts.append(
            "Pooled ECE and class-wise ECE: bootstrap bias over patients subtracted, with "
            f"Student's interval, whose coverage was {POOLED_COVERAGE} in simulations."
        )
    if any(m.metric.startswith("readers_") for m in section.measures):
        texts.append(
            "Against the readers' mean: expectation over a reader drawn at random. Against each "
            "reader: the mean of the errors against each reader's labels."
        )
    elif any(m.metric.startswith("true_") for m in section.measures):
        texts.append("True: expectation over the phantom's known label distribution.")
    return tuple(texts)


def scope(analysis: Analysis) -> str:
    """Return a description of the tested data for captions."""
    facts, group = analysis.group.facts, analysis.group
    mirrored = "" if facts["mirrored axes"] == "none" else f", mirrored {facts['mirrored axes']}"
    fold = "" if facts["fold"] is None else f", {fold_label(facts['fold'])}"
    return (
        f"{group.data}, {facts['test cases']}{fold}; {facts['grid']} grid{mirrored}, "
        f"checkpoint {facts['test']}."
    )


def fold_label(fold: int | str) -> str:
    """Return the fold for a caption: its number, or how folds were merged."""
    return f"fold {fold}" if isinstance(fold, int) else fold


def _how(analysis: Analysis, section: Section) -> str:
    if section.kind == "overlap":
        return f"Mean over cases; structures absent from a label are skipped{_absent(analysis)}."
    way = f"{region_label(section.region)}, {POOLING_LABELS[section.pooling]}"
    if section.kind == "sound" and section.pooling == "per_case":
        way += _known(analysis, section.region)
    return f"Protocol {section.kind}, {way}, {bins_label(analysis)}."


def _absent(analysis: Analysis) -> str:
    """Return the number of cases in which structures are absent, if any."""
    tests = _first_tests(analysis)
    names = [
        n for n in tests[0].metrics["dice"] if n not in ("mean", tests[0].meta["class_names"][0])
    ]
    counts = {n: sum(test.metrics["dice"][n]["n_absent"] for test in tests) for n in names}
    cases = sum(test.meta["n_cases"] for test in tests)
    named = ", ".join(f"{name} in {count} of {cases}" for name, count in counts.items() if count)
    return named and f" ({named})"


def _known(analysis: Analysis, region: str) -> str:
    """Return the number of cases with voxels in a region, if not all have any."""
    tests = _first_tests(analysis)
    known = sum(t.metrics["sound"][region]["per_case"]["ece"]["n_cases"] for t in tests)
    cases = sum(test.meta["n_cases"] for test in tests)
    return f" ({known} of {cases} cases have any)" if known < cases else ""


def _first_tests(analysis: Analysis) -> tuple[Run, ...]:
    """Return the tests of the cases that all runs share: one, or one per fold."""
    run = analysis.group.first
    return run.folds if run.pooled else (run,)


def bins_label(analysis: Analysis) -> str:
    """Return a description of the bins."""
    return f"{analysis.group.facts['bins']} equal right-closed bins"


def comparison_view(analysis: Analysis, section: Section) -> View:
    """Return the differences of the losses from the reference, or from the best."""
    rows = [
        _comparison(measure, found)
        for measure in section.measures
        for found in chosen_comparisons(analysis, measure)
    ]
    if analysis.reference is not None:
        against, family = analysis.reference, "the losses compared with it"
    else:
        against, family = "the best of each measure", "all pairs of losses"
    legend = (
        "Brackets: 95 % interval over patients and seeds, both random, not adjusted. p: the same, "
        f"adjusted by Holm over {family}, per measure; n/a with a single seed.",
        "p of these networks: sign-flip test over patients, adjusted by Holm, conditional on the "
        "trained networks; it does not apply to another training.",
    )
    title = f"{section.title}: difference from {against}"
    columns = ["measure", "loss", "difference", "p", "p of these networks"]
    caption = f"{scope(analysis)} {_how(analysis, section)}"
    return View(title, caption, legend, pd.DataFrame(rows, columns=columns))


def chosen_comparisons(analysis: Analysis, measure: Measure) -> Sequence[Comparison]:
    """Return the comparisons with the reference, or with the best: loss minus reference."""
    if analysis.reference is not None:
        return analysis.against_reference[measure.key]
    best = [n for n, cell in analysis.cells[measure.key].items() if cell.best]
    if not best:
        return []
    found = [c for c in analysis.comparisons[measure.key] if best[0] in (c.first, c.second)]
    return [c if c.second == best[0] else c.reversed() for c in found]


def _comparison(measure: Measure, found: Comparison) -> list[str]:
    effect, digits = found.effect, measure.digits
    value = "n/a" if math.isnan(effect.value) else f"{effect.value:+.{digits}f}"
    return [
        measure.label,
        f"{found.first} - {found.second}",
        value + _interval(effect.low, effect.high, digits, "+"),
        format_p(found.adjusted),
        format_p(found.p_networks),
    ]


def reruns_sentence(analysis: Analysis) -> str:
    """Return the total of :func:`reruns_view` as a sentence; empty without pairs."""
    found = [analysis.reruns[m.key] for s in analysis.sections if s.lead for m in s.measures]
    pairs, different = sum(one.pairs for one in found), sum(one.different for one in found)
    if not pairs:
        return ""
    return (
        f"Same loss, another seed: significant in {different} of {pairs} comparisons of single "
        f"runs ({100 * different / pairs:.0f} %; 5 % are expected)."
    )


def reruns_view(analysis: Analysis) -> View | None:
    """Return how often two runs of one loss differ significantly; None without pairs."""
    rows = []
    for section in analysis.sections:
        for measure in section.measures if section.lead else ():
            found = analysis.reruns[measure.key]
            if found.pairs:
                share = found.different / found.pairs
                region = region_label(section.region) if section.region else ""
                where = ", ".join(filter(None, (region, POOLING_LABELS[section.pooling])))
                counted = f"{found.different} of {found.pairs}"
                rows.append([f"{measure.label}, {where}", counted, f"{100 * share:.0f} %"])
    if not rows:
        return None
    legend = (
        "Two trainings that differ only in the seed, tested over patients as if they had two "
        "losses (sign-flip test, p < 0.05, not adjusted). A comparison of single runs is "
        "significant this often although the loss is the same; 5 % are expected.",
    )
    title = "Same loss, another seed: significant differences"
    caption = f"{scope(analysis)} Protocol sound, {bins_label(analysis)}."
    frame = pd.DataFrame(rows, columns=["measure", "pairs of runs", "share"])
    return View(title, caption, legend, frame)


def runs_view(analysis: Analysis) -> View:
    """Return the runs with their commands."""
    rows = []
    for arm in analysis.group.arms:
        for run in arm.trainings:
            card, seconds = run.card, run.card.get("wall_seconds")
            row = {
                "loss": arm.name,
                "seed": run.seed,
                "run folder": run.folder,
                "epochs": card.get("epochs", ""),
                "training": "" if seconds is None else f"{seconds:.0f} s",
                "commit": str(card.get("commit") or "unknown")[:12],
                "command": card.get("command", "unknown"),
            }
            rows.append({name: str(value) for name, value in row.items()})
    return View("The runs", scope(analysis), (), pd.DataFrame(rows))


def selection_view(analysis: Analysis) -> View | None:
    """Return the epoch that each selection rule chooses; None without logged validations.

    Columns of the test are filled if ``test/best-<rule>`` exists.
    """
    rows = []
    for arm in analysis.group.arms:
        for rule in RULES:
            chosen = [found for run in arm.trainings if (found := chosen_row(run, rule))]
            if chosen:
                rows.append(_selected(arm, rule, chosen))
    if not rows:
        return None
    legend = (
        "Epoch that each rule selects, and its validation values: means over seeds and folds, "
        "optimistic in the measure that the rule selects by.",
        "Compromise: the best NLL among the epochs within one standard error over patients of the "
        "best Dice. Test: for the rule that the run was trained with, and for others whose "
        "checkpoint was kept and tested (checkpoint.keep, then mbls evaluate RUN --ckpt best-nll). "
        "Published tables select on Dice alone.",
    )
    title = "Effect of checkpoint selection"
    caption = (
        f"{scope(analysis)} Protocol sound, all voxels, pooled, {bins_label(analysis)}; ECE not "
        "corrected; Dice mean over cases and foreground structures; validation on the preprocessed "
        "grid."
    )
    return View(title, caption, legend, pd.DataFrame(rows))


def chosen_row(run: Run, rule: str) -> dict[str, float] | None:
    """Return the logged values of the validation that a rule selects, or None."""
    rows = [
        {key: float(row[key]) for key in ("epoch", *KEYS)}
        for row in run.epochs
        if all(key in row for key in KEYS)
    ]
    place = chosen_epoch(rows, rule)
    return None if place is None else rows[place]


def _selected(arm: Arm, rule: str, chosen: Sequence[dict[str, float]]) -> dict[str, str]:
    tests = [run.by_rule[rule] for run in arm.trainings if rule in run.by_rule]
    every = len(tests) == len(arm.trainings)
    labels = {key: find_metric(key).label for key in ("dice", "nll", "ece")}
    row = {"loss": arm.name, "rule": rule}
    row["epochs (from 0)"] = " ".join(f"{logged['epoch']:.0f}" for logged in chosen)
    for key, label in labels.items():
        row[f"val {label}"] = _mean([logged[f"val/{key}"] for logged in chosen])
    for key, label in labels.items():
        row[f"test {label}"] = _mean([getattr(test, key) for test in tests]) if every else ""
    return row


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4f}"


def _cell(measure: Measure, cell: Cell) -> str:
    if math.isnan(cell.value):
        return "n/a"
    digits = measure.digits
    spread = "" if math.isnan(cell.sd) else f" ± {cell.sd:.{digits}f}"
    tied = " †" if cell.tied and not cell.best else ""
    return f"{cell.value:.{digits}f}{spread}{tied}{_interval(cell.low, cell.high, digits)}"


def _interval(low: float, high: float, digits: int, sign: str = "") -> str:
    """Return ``[low, high]`` on a second line, with one decimal fewer; nothing for NaN."""
    digits = max(digits - 1, 1)
    return "" if math.isnan(low) else f"\n[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def format_p(p: float) -> str:
    """Return a p-value for a table; ``n/a`` for NaN (a single seed)."""
    if math.isnan(p):
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
