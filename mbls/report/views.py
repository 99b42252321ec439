"""Tables of a report as words, before any format: what screen, Markdown, LaTeX and HTML share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mbls.loggers.selection import KEYS, RULES, chosen_epoch
from mbls.plots.words import POOLING_WORDS, region_words
from mbls.report.analysis import Analysis, Cell, Comparison
from mbls.report.groups import Arm
from mbls.report.measures import Measure, Section
from mbls.report.runs import Run

__all__ = [
    "Entry",
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
POOLED_HELD = "91 to 99 %"
"""How often the interval over patients of a pooled or class-wise ECE held the truth."""
INTERVAL = (
    "± sd over seeds. Brackets: 95 % interval over patients, conditional on the networks that were "
    "trained."
)


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        text: What it shows.
        below: A second line, smaller.
        value: What it sorts by; None for words.
        best: Whether it is the best of its column.
        tied: Whether it cannot be told from the best.
    """

    text: str
    below: str = ""
    value: float | None = None
    best: bool = False
    tied: bool = False


@dataclass(frozen=True)
class View:
    """One table.

    Attributes:
        title: What it shows.
        caption: Of which data, and how computed.
        legend: What the signs in it mean, and what its intervals are conditional on.
        columns: Headings.
        rows: Entries; the first of each row names it.
        lead: Whether it is printed on the screen.
    """

    title: str
    caption: str
    legend: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    lead: bool = True


def section_view(analysis: Analysis, section: Section) -> View:
    """Return a section's table: a row a loss, a column a measure."""
    columns = ("loss", *(f"{m.label}{_arrow(m)}" for m in section.measures))
    rows = tuple(
        (
            Entry(arm.name, _seeds(arm.seeds)),
            *(_cell(m, analysis.cells[m.key][arm.name]) for m in section.measures),
        )
        for arm in analysis.group.arms
    )
    caption = f"{scope(analysis)} {_how(analysis, section)}"
    return View(section.title, caption, _legend(section), columns, rows, section.lead)


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
    told = ", ".join(f"{name} in {count} of {cases}" for name, count in counts.items() if count)
    return told and f" ({told})"


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
    rows = []
    for measure in section.measures:
        for found in chosen_comparisons(analysis, measure):
            rows.append(_comparison(measure, found))
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
    columns = ("measure", "loss", "difference", "p", "p of these networks")
    caption = f"{scope(analysis)} {_how(analysis, section)}"
    return View(title, caption, legend, columns, tuple(rows), lead=False)


def chosen_comparisons(analysis: Analysis, measure: Measure) -> Sequence[Comparison]:
    """Return the comparisons with the reference, or with the best, as loss minus it."""
    if analysis.reference is not None:
        return analysis.against_reference[measure.key]
    best = [n for n, cell in analysis.cells[measure.key].items() if cell.best]
    if not best:
        return []
    found = [c for c in analysis.comparisons[measure.key] if best[0] in (c.first, c.second)]
    return [c if c.second == best[0] else c.turned() for c in found]


def _comparison(measure: Measure, found: Comparison) -> tuple[Entry, ...]:
    effect, digits = found.effect, measure.digits
    limits = "" if math.isnan(effect.low) else interval_words(effect.low, effect.high, digits, "+")
    return (
        Entry(measure.label),
        Entry(f"{found.first} - {found.second}"),
        _signed(effect.value, limits, digits),
        Entry(p_words(found.adjusted), "", found.adjusted),
        Entry(p_words(found.p_networks), "", found.p_networks),
    )


def _signed(value: float, limits: str, digits: int) -> Entry:
    return Entry("n/a" if math.isnan(value) else f"{value:+.{digits}f}", limits, value)


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
                rows.append(
                    (
                        Entry(f"{measure.label}, {where}"),
                        Entry(f"{found.different} of {found.pairs}", "", share),
                        Entry(f"{100 * share:.0f} %", "", share),
                    )
                )
    if not rows:
        return None
    legend = (
        "Two trainings that differ in the seed alone, tested over patients as if they were two "
        "losses (random signs, p < 0.05, not adjusted). A comparison of single runs finds a "
        "difference this often where the losses are the same; 5 % would be right.",
    )
    title = "Same loss, another seed: found different"
    caption = f"{scope(analysis)} Protocol sound, {bins_words(analysis)}."
    columns = ("measure", "pairs of runs", "share")
    return View(title, caption, legend, columns, tuple(rows), lead=False)


def runs_view(analysis: Analysis) -> View:
    """Return which runs the numbers come from, and the commands that made them."""
    rows = []
    for arm in analysis.group.arms:
        for run in arm.trainings:
            card = run.card
            seconds = card.get("wall_seconds")
            rows.append(
                (
                    Entry(arm.name),
                    Entry(str(run.seed), "", run.seed),
                    Entry(str(run.folder)),
                    Entry(str(card.get("epochs", ""))),
                    Entry("" if seconds is None else f"{seconds:.0f} s", "", seconds),
                    Entry(str(card.get("commit") or "unknown")[:12]),
                    Entry(str(card.get("command", "unknown"))),
                )
            )
    columns = ("loss", "seed", "run folder", "epochs", "training", "commit", "command")
    return View("The runs", scope(analysis), (), columns, tuple(rows), lead=False)


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
    columns = ("loss", "rule", "epochs", "val Dice", "val NLL", "val ECE",
               "test Dice", "test NLL", "test ECE")  # fmt: skip
    title = "What the choice of the checkpoint does"
    caption = (
        f"{scope(analysis)} Protocol sound, all voxels, pooled, {bins_words(analysis)}; ECE not "
        "corrected; Dice mean over cases and foreground structures; validation on the preprocessed "
        "grid."
    )
    return View(title, caption, legend, columns, tuple(rows), lead=False)


def chosen_row(run: Run, rule: str) -> dict[str, float] | None:
    """Return the logged values of the validation that a rule takes, or None if it cannot."""
    rows = [
        {key: float(row[key]) for key in ("epoch", *KEYS)}
        for row in run.epochs
        if all(key in row for key in KEYS)
    ]
    place = chosen_epoch(rows, rule)
    return None if place is None else rows[place]


def _selected(arm: Arm, rule: str, chosen: Sequence[dict[str, float]]) -> tuple[Entry, ...]:
    epochs = [row["epoch"] for row in chosen]
    entries = [Entry(arm.name), Entry(rule)]
    entries += [Entry(" ".join(f"{e:.0f}" for e in epochs), "", sum(epochs) / len(epochs))]
    for key in ("val/dice", "val/nll", "val/ece"):
        entries.append(_mean([row[key] for row in chosen]))
    tests = [run.by_rule[rule] for run in arm.trainings if rule in run.by_rule]
    for value in ("dice", "nll", "ece"):
        known = [getattr(test, value) for test in tests]
        entries.append(
            _mean(known) if len(known) == len(arm.trainings) else Entry("", "", math.nan)
        )
    return tuple(entries)


def _mean(values: Sequence[float]) -> Entry:
    mean = sum(values) / len(values)
    return Entry(f"{mean:.4f}", "", mean)


def _cell(measure: Measure, cell: Cell) -> Entry:
    if math.isnan(cell.value):
        return Entry("n/a", "", cell.value)
    digits = measure.digits
    spread = "" if math.isnan(cell.sd) else f" ± {cell.sd:.{digits}f}"
    limits = "" if math.isnan(cell.low) else interval_words(cell.low, cell.high, digits)
    tied = cell.tied and not cell.best
    return Entry(f"{cell.value:.{digits}f}{spread}", limits, cell.value, cell.best, tied)


def interval_words(low: float, high: float, digits: int, sign: str = "") -> str:
    """Return ``[low, high]``, one decimal fewer than the value has."""
    digits = max(digits - 1, 1)
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def p_words(p: float) -> str:
    """Return a p-value in words a table can hold; with a single seed there is none."""
    if math.isnan(p):
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"


def _arrow(measure: Measure) -> str:
    return {"more": " ↑", "less": " ↓", None: ""}[measure.better]
