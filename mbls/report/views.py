"""Tables of a report as words, before any format: what screen, Markdown, LaTeX and HTML share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mbls.loggers.selection import KEYS, RULES, chosen_epoch
from mbls.metrics.catalog import find_metric
from mbls.plots.words import POOLING_WORDS, region_words
from mbls.report.analysis import Analysis, Cell, Comparison
from mbls.report.groups import Arm
from mbls.report.measures import Measure, Section
from mbls.report.runs import Run

__all__ = [
    "View",
    "comparison_view",
    "reruns_view",
    "reruns_words",
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
POOLED_HELD = "91 to 99 %"
"""How often the interval over patients of a pooled or class-wise ECE held the truth."""
INTERVAL = (
    "± sd over seeds. Brackets: 95 % interval over patients, conditional on the networks that were "
    "trained."
)


@dataclass(frozen=True)
class View:
    """One table.

    Attributes:
        title: What it shows.
        caption: Of which data, and how computed.
        legend: What the signs in it mean, and what its intervals are conditional on.
        frame: Cells as text, the first column naming the rows; what follows a line break is
            written smaller, below.
        best: Row and column of the cells that are the best of their column.
        lead: Whether it is printed on the screen.
    """

    title: str
    caption: str
    legend: tuple[str, ...]
    frame: pd.DataFrame
    best: frozenset[tuple[int, int]] = frozenset()
    lead: bool = False


def section_view(analysis: Analysis, section: Section) -> View:
    """Return a section's table: a row a loss, a column a measure."""
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
    words = [INTERVAL, MARKS]
    if any(m.corrected for m in section.measures):
        words.append(
            "Pooled ECE and class-wise ECE are less the bias that drawing patients shows, with "
            f"Student's interval, which held the truth in {POOLED_HELD} of simulations."
        )
    if any(m.metric.startswith("true_") for m in section.measures):
        words.append("True: expected over the phantom's known label distribution.")
    return tuple(words)


def scope(analysis: Analysis) -> str:
    """Return of which data a table or figure is."""
    facts, group = analysis.group.facts, analysis.group
    mirrored = "" if facts["mirrored axes"] == "none" else f", mirrored {facts['mirrored axes']}"
    fold = "" if facts["fold"] is None else f", {fold_words(facts['fold'])}"
    return (
        f"{group.data}, {facts['test cases']}{fold}; {facts['grid']} grid{mirrored}, "
        f"checkpoint {facts['test']}."
    )


def fold_words(fold: int | str) -> str:
    """Return what stands for a fold in a caption: its number, or how folds come together."""
    return f"fold {fold}" if isinstance(fold, int) else fold


def _how(analysis: Analysis, section: Section) -> str:
    if section.kind == "overlap":
        return f"Mean over cases; a structure absent from a label is left out{_absent(analysis)}."
    way = f"{region_words(section.region)}, {POOLING_WORDS[section.pooling]}"
    if section.kind == "sound" and section.pooling == "per_case":
        way += _known(analysis, section.region)
    return f"Protocol {section.kind}, {way}, {bins_words(analysis)}."


def _absent(analysis: Analysis) -> str:
    """Return in how many cases each structure is absent, where it is in any."""
    tests = _first_tests(analysis)
    names = [
        n for n in tests[0].metrics["dice"] if n not in ("mean", tests[0].meta["class_names"][0])
    ]
    counts = {n: sum(test.metrics["dice"][n]["n_absent"] for test in tests) for n in names}
    cases = sum(test.meta["n_cases"] for test in tests)
    named = ", ".join(f"{name} in {count} of {cases}" for name, count in counts.items() if count)
    return named and f" ({named})"


def _known(analysis: Analysis, region: str) -> str:
    """Return how many cases have voxels of a region, where not all have."""
    tests = _first_tests(analysis)
    known = sum(t.metrics["sound"][region]["per_case"]["ece"]["n_cases"] for t in tests)
    cases = sum(test.meta["n_cases"] for test in tests)
    return f" ({known} of {cases} cases have any)" if known < cases else ""


def _first_tests(analysis: Analysis) -> tuple[Run, ...]:
    """Return the tests of the cases that all runs share: one, or one a fold."""
    run = analysis.group.first
    return run.folds if run.pooled else (run,)


def bins_words(analysis: Analysis) -> str:
    """Return the number of bins in words."""
    return f"{analysis.group.facts['bins']} equal right-closed bins"


def comparison_view(analysis: Analysis, section: Section) -> View:
    """Return the differences of the losses: against the reference, else against the best."""
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
        f"by Holm over {family}, for each measure alone; n/a with a single seed.",
        "p of these networks: random signs over patients, by Holm too, conditional on the networks "
        "that were trained; it says nothing about another training.",
    )
    title = f"{section.title}: difference from {against}"
    columns = ["measure", "loss", "difference", "p", "p of these networks"]
    caption = f"{scope(analysis)} {_how(analysis, section)}"
    return View(title, caption, legend, pd.DataFrame(rows, columns=columns))


def chosen_comparisons(analysis: Analysis, measure: Measure) -> Sequence[Comparison]:
    """Return the comparisons with the reference, or with the best, as loss minus it."""
    if analysis.reference is not None:
        return analysis.against_reference[measure.key]
    best = [n for n, cell in analysis.cells[measure.key].items() if cell.best]
    if not best:
        return []
    found = [c for c in analysis.comparisons[measure.key] if best[0] in (c.first, c.second)]
    return [c if c.second == best[0] else c.turned() for c in found]


def _comparison(measure: Measure, found: Comparison) -> list[str]:
    effect, digits = found.effect, measure.digits
    value = "n/a" if math.isnan(effect.value) else f"{effect.value:+.{digits}f}"
    return [
        measure.label,
        f"{found.first} - {found.second}",
        value + _interval(effect.low, effect.high, digits, "+"),
        p_words(found.adjusted),
        p_words(found.p_networks),
    ]


def reruns_words(analysis: Analysis) -> str:
    """Return the sum of :func:`reruns_view` in a sentence; empty without such pairs."""
    found = [analysis.reruns[m.key] for s in analysis.sections if s.lead for m in s.measures]
    pairs, different = sum(one.pairs for one in found), sum(one.different for one in found)
    if not pairs:
        return ""
    return (
        f"Same loss, another seed: found different in {different} of {pairs} comparisons of single "
        f"runs ({100 * different / pairs:.0f} %; 5 % would be right)."
    )


def reruns_view(analysis: Analysis) -> View | None:
    """Return how often two trainings of one loss were found different; None without such pairs."""
    rows = []
    for section in analysis.sections:
        for measure in section.measures if section.lead else ():
            found = analysis.reruns[measure.key]
            if found.pairs:
                share = found.different / found.pairs
                region = region_words(section.region) if section.region else ""
                where = ", ".join(filter(None, (region, POOLING_WORDS[section.pooling])))
                counted = f"{found.different} of {found.pairs}"
                rows.append([f"{measure.label}, {where}", counted, f"{100 * share:.0f} %"])
    if not rows:
        return None
    legend = (
        "Two trainings that differ in the seed alone, tested over patients as if they were two "
        "losses (random signs, p < 0.05, not adjusted). A comparison of single runs finds a "
        "difference this often where the losses are the same; 5 % would be right.",
    )
    title = "Same loss, another seed: found different"
    caption = f"{scope(analysis)} Protocol sound, {bins_words(analysis)}."
    frame = pd.DataFrame(rows, columns=["measure", "pairs of runs", "share"])
    return View(title, caption, legend, frame)


def runs_view(analysis: Analysis) -> View:
    """Return which runs the numbers come from, and the commands that made them."""
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
    """Return what each rule for the checkpoint takes; None where no validation was logged.

    Columns of the test are filled where ``test/best-<rule>`` is there.
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
        "Which epoch each rule takes, and what it scores in the validation that chose it: means "
        "over seeds and folds, too good each in the rule's own measure, which it was chosen for.",
        "Compromise: the best NLL among the epochs within one standard error over patients of the "
        "best Dice. Test: of the rule that the run was trained with, and where the checkpoint was "
        "kept and tested (checkpoint.keep, then mbls evaluate RUN --ckpt best-nll). Published "
        "tables select on Dice alone.",
    )
    title = "What the choice of the checkpoint does"
    caption = (
        f"{scope(analysis)} Protocol sound, all voxels, pooled, {bins_words(analysis)}; ECE not "
        "corrected; Dice mean over cases and foreground structures; validation on the preprocessed "
        "grid."
    )
    return View(title, caption, legend, pd.DataFrame(rows))


def chosen_row(run: Run, rule: str) -> dict[str, float] | None:
    """Return the logged values of the validation that a rule takes, or None if it cannot."""
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
    """Return ``[low, high]`` below a value, one decimal fewer than it has; nothing for NaN."""
    digits = max(digits - 1, 1)
    return "" if math.isnan(low) else f"\n[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def p_words(p: float) -> str:
    """Return a p-value in words a table can hold; with a single seed there is none."""
    if math.isnan(p):
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
