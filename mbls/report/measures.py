"""Measures of a report, and their values over draws of patients.

Values are computed from the counts of ``bins.npz`` for these draws: all patients (the value),
all but one (jackknife), each alone (to see if it has a value), and with replacement (bootstrap).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mbls.evaluation import PROTOCOLS, TestRun, protocol_values
from mbls.evaluation.summary import row_means
from mbls.evaluation.table import PUBLISHED, overlap_label
from mbls.metrics.bootstrap import drawn_values, mean_of_draws, patient_weights
from mbls.metrics.catalog import find_metric, further_keys, shown_in
from mbls.metrics.dice import dice_scores
from mbls.metrics.estimates import Pooling
from mbls.metrics.regions import CODE_REGIONS
from mbls.plots.labels import POOLING_LABELS, further_label, region_label
from mbls.report.runs import Run

__all__ = ["Measure", "Section", "patient_draws", "sample", "sections_of"]

CALIBRATED: tuple[tuple[str, Pooling], ...] = (
    *(("all", "pooled"), ("label", "per_case"), ("all", "per_case"), ("label", "pooled")),
    *(("union", "pooled"), ("union", "per_case"), ("boundary", "pooled"), ("boundary", "per_case")),
)
"""Regions and poolings of the calibration tables, in order; the first two are on screen."""


@dataclass(frozen=True)
class Measure:
    """One column of a table.

    Attributes:
        key: Name in ``table.csv``.
        label: Heading.
        metric: Name of the metric, or of overlap and structure.
        better: Which values are better, or None.
        digits: Number of decimals.
        corrected: If True, the bias over patients is subtracted.
    """

    key: str
    label: str
    metric: str
    better: Literal["more", "less"] | None = "less"
    digits: int = 4
    corrected: bool = False


@dataclass(frozen=True)
class Section:
    """A table of measures with the same protocol, region and pooling.

    Attributes:
        title: Title.
        kind: ``"overlap"``, ``"sound"``, or the name of a published protocol.
        region: Region of the voxels; empty for overlaps.
        pooling: How cases are pooled.
        measures: The columns.
        lead: If True, it is printed on screen.
    """

    title: str
    kind: str
    region: str
    pooling: str
    measures: tuple[Measure, ...]
    lead: bool = True


def sections_of(run: Run) -> list[Section]:
    """Return the tables for which a run's test has values."""
    meta, metrics = run.meta, run.metrics
    sections = [_overlap(metrics, meta)]
    for region, pooling in CALIBRATED:
        if region in metrics["sound"]:
            sections.append(_calibration(region, pooling, metrics, meta))
    sections += [_structures(metrics, meta)]
    return sections + [_published(p.name) for p in PROTOCOLS if p.name in metrics and p.dice]


def _overlap(metrics: dict[str, Any], meta: dict[str, Any]) -> Section:
    measures = tuple(
        Measure(f"{m.key}/mean", overlap_label(m, meta), f"{m.key}/mean", m.better, m.digits)
        for m in shown_in("report", "overlap")
        if metrics.get(m.key)
    )
    title = "Overlap, mean of the foreground structures"
    return Section(title, "overlap", "", "per_case", measures)


def _structures(metrics: dict[str, Any], meta: dict[str, Any]) -> Section:
    names = [n for n in metrics["dice"] if n not in ("mean", meta["class_names"][0])]
    chosen = tuple(Measure(f"dice/{n}", f"Dice, {n}", f"dice/{n}", "more") for n in names)
    return Section("Dice of each structure", "overlap", "", "per_case", chosen, lead=False)


def _calibration(
    region: str, pooling: Pooling, metrics: dict[str, Any], meta: dict[str, Any]
) -> Section:
    where, lead = f"{region}/{pooling}", (region, pooling) in CALIBRATED[:2]
    chosen = [m for m in shown_in("report", "top", "classes", "score") if m.better or not lead]
    measures = []
    for m in chosen:
        corrected = m.corrected and pooling == "pooled"
        key, label = f"{m.key}{'_corrected' * corrected}", m.label + ", corrected" * corrected
        measures.append(Measure(f"{key}/{where}", label, m.key, m.better, m.digits, corrected))
    there = metrics["sound"]["all"]["pooled"] if region in CODE_REGIONS else {}
    for m in chosen:
        for key in further_keys([m], posterior=True, readers=True):
            if key in there:
                what = further_label(key, meta)
                label = f"true {m.label}" if what == "true" else f"{m.label} {what}"
                measures.append(Measure(f"{key}/{where}", label, key, m.better, m.digits))
    title = f"Calibration, {region_label(region)}, {POOLING_LABELS[pooling]}"
    return Section(title, "sound", region, pooling, tuple(measures), lead)


def _published(name: str) -> Section:
    protocol = next(p for p in PROTOCOLS if p.name == name)
    measures = tuple(
        Measure(f"{key}/{name}", metric.label, key, metric.better, metric.digits)
        for key, metric in ((key, find_metric(of)) for key, of in reversed(PUBLISHED.items()))
    )
    title = f"The same predictions under the published protocol {name}"
    return Section(title, name, protocol.region, protocol.pooling, measures, lead=False)


def shared_sections(runs: Sequence[Run]) -> tuple[list[Section], list[str]]:
    """Return the tables for which all runs have values, and a note on what some lack."""
    each = [{s.title: s for s in sections_of(run)} for run in runs]
    shared, lacking = [], {}
    for title in dict.fromkeys(title for found in each for title in found):
        there = [found[title].measures if title in found else () for found in each]
        section = next(found[title] for found in each if title in found)
        kept = tuple(m for m in section.measures if all(m in some for some in there))
        if kept:
            shared.append(replace(section, measures=kept))
        for measure in dict.fromkeys(m for some in there for m in some):
            if measure not in kept:
                lacking[measure.key] = sum(measure not in some for some in there)
    if not lacking:
        return shared, []
    named = ", ".join(f"{key} ({number})" for key, number in lacking.items())
    return shared, [
        f"Left out, since some of {len(runs)} runs (number in parentheses) were tested without "
        f"them or with another NSD tolerance: {named}. Test all in the same way with mbls "
        "evaluate RUN."
    ]


def patient_draws(patients: Sequence[str], *, draws: int) -> np.ndarray:
    """Return weights of the cases, ``(1 + 2P + draws, cases)``.

    In order: all patients, all but one, each alone, bootstrap draws.
    """
    names = sorted(set(patients))
    belongs = np.array([[p == name for p in patients] for name in names])
    drawn = patient_weights(patients, draws=draws)
    return np.concatenate([np.ones((1, len(patients))), ~belongs, belongs, drawn], dtype=float)


def sample(run: Run, sections: Sequence[Section], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each measure's values for each draw, ``{key: (draws,)}``.

    Args:
        run: The run; for folds that were tested on the same cases, the mean over folds.
        sections: The measures.
        weights: Weights of :func:`patient_draws`.
    """
    each = [_sample(test, sections, weights) for test in run.tests]
    return {key: np.mean([values[key] for values in each], axis=0) for key in each[0]}


def _sample(run: Run, sections: Sequence[Section], weights: np.ndarray) -> dict[str, np.ndarray]:
    counted = run.counted()
    found: dict[str, np.ndarray] = {}
    for section in sections:
        metrics = [m.metric for m in section.measures]
        if section.kind == "overlap":
            drawn = _overlap_draws(counted, metrics, weights)
        elif section.kind == "sound":
            settings: dict[str, Any] = {"region": section.region, "pooling": section.pooling}
            settings["n_bins"] = counted.n_bins
            drawn = drawn_values(counted.bins, metrics, weights, **settings)
        else:
            drawn = _published_draws(counted, section.kind, weights)
        found |= {m.key: drawn[m.metric] for m in section.measures}
    return found


def _overlap_draws(
    counted: TestRun, metrics: Sequence[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    found = {}
    for kind in {m.partition("/")[0] for m in metrics}:
        means = mean_of_draws(counted.overlaps[kind], weights)
        found[f"{kind}/mean"] = row_means(means[:, 1 : counted.bins.num_classes])
        for column, channel in enumerate(counted.bins.channels[1:]):
            found[f"{kind}/{counted.names[channel]}"] = means[:, column]
    return found


def _published_draws(counted: TestRun, name: str, weights: np.ndarray) -> dict[str, np.ndarray]:
    protocol = next(p for p in PROTOCOLS if p.name == name)
    values = protocol_values(counted.bins, protocol)
    scores = np.round(dice_scores(counted.dice, absent="one"), protocol.digits or 15)
    values["dice/mean"] = scores[:, 1 : counted.bins.num_classes].mean(1)
    return {metric: mean_of_draws(v, weights) for metric, v in values.items()}
