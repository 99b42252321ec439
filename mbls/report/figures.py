"""Figures of a report, from its tables and the files of the runs."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mbls.evaluation.summary import row_means
from mbls.metrics.catalog import shown_in
from mbls.metrics.estimates import case_values
from mbls.plots.case_spread import case_spread_figure
from mbls.plots.labels import further_label, region_label
from mbls.plots.multipliers import multiplier_lines, multipliers_figure
from mbls.plots.side_by_side import side_by_side_figure
from mbls.plots.style import remove_caption
from mbls.plots.sweep import sweep_figure
from mbls.plots.tradeoff import Point, tradeoff_figure
from mbls.plots.truth import measured_figure
from mbls.plots.worst import worst_figure
from mbls.plots.worst_cases import Picture, load_pictures
from mbls.report.analysis import Analysis, Cell
from mbls.report.groups import Arm
from mbls.report.runs import Run
from mbls.report.views import bins_label, scope

__all__ = ["Drawn", "figures_of"]

SCATTER = "ece_corrected/all/pooled"
SWEPT = {"dice/mean": "Dice", SCATTER: "ECE, all voxels, pooled", "nll/all/pooled": "NLL"}
SHOWN_REGIONS = ("all", "label")
MOST_PICTURES = 12
FIGURE_FILE = re.compile(
    r"(group\d+_)?(dice_ece|reliability_(all|label)|cases|true_error|sweep_.+|multipliers_\d+"
    r"|worst_cases)\.(png|pdf)"
)
"""File names of a report's figures."""


@dataclass(frozen=True)
class Drawn:
    """A figure with its heading and alternative text.

    Attributes:
        name: Stem of its files.
        title: Heading.
        alt: Alternative text.
        figure: The figure.
        picture: True for pixels instead of lines.
        caption: Text below it, if the figure has no caption of its own.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    picture: bool = False
    caption: str = ""


def figures_of(analysis: Analysis, *, captions: bool = True, pictures: bool = True) -> list[Drawn]:
    """Return the figures of a group.

    Args:
        analysis: The analysis of the group.
        captions: If True, figures contain their captions.
        pictures: If True, include the worst cases, which are slices of patients.
    """
    makers: list[Callable[[Analysis], Iterator[Drawn]]] = [
        *(_tradeoff, _reliability, _cases, _measured, _sweeps, _multipliers),
        *([_worst] if pictures else []),
    ]
    drawn = [one for make in makers for one in make(analysis)]
    if captions:
        return drawn
    return [replace(one, caption=remove_caption(one.figure)) for one in drawn]


def _tests(arm: Arm) -> list[Run]:
    return [test for run in arm.runs for test in run.tests]


def _about(analysis: Analysis, regions: Sequence[str], pooling: str, before: str = "") -> list[str]:
    """Return a caption about the data and computation."""
    where = " and ".join(map(region_label, regions))
    how = f"Protocol sound, {where}, {pooling}, {bins_label(analysis)}."
    return [f"{scope(analysis)} {before}{how}"]


def _limits(cell: Cell) -> tuple[float, float, float]:
    return cell.value, cell.low, cell.high


def _tradeoff(analysis: Analysis) -> Iterator[Drawn]:
    dice, error = analysis.cells["dice/mean"], analysis.cells[SCATTER]
    points = {
        n: Point(
            _limits(dice[n]),
            _limits(error[n]),
            list(zip(dice[n].by_seed, error[n].by_seed, strict=True)),
        )
        for n in dice
    }
    caption = _about(analysis, ["all"], "pooled, bias over patients subtracted")
    figure = tradeoff_figure(points, caption=caption, label="ECE, all voxels, pooled")
    alt = "Dice against ECE: " + "; ".join(
        f"{n} Dice {dice[n].value:.3f}, ECE {error[n].value:.4f}" for n in dice
    )
    yield Drawn("dice_ece", "Dice against ECE", alt, figure)


def _reliability(analysis: Analysis) -> Iterator[Drawn]:
    for region in SHOWN_REGIONS:
        label = region_label(region)
        tables = {
            arm.name: [
                counted.bins.pool().table(region, counted.n_bins)[:, 0, 0]
                for counted in (test.counted() for test in _tests(arm))
            ]
            for arm in analysis.group.arms
        }
        caption = _about(analysis, [region], "top label, pooled")
        figure = side_by_side_figure(tables, caption=caption)
        alt = f"Reliability diagrams of {', '.join(tables)}, {label}: share of hits by confidence"
        yield Drawn(f"reliability_{region}", f"Reliability, {label}", alt, figure)


def _cases(analysis: Analysis) -> Iterator[Drawn]:
    values: dict[str, dict[str, np.ndarray]] = {}
    for arm in analysis.group.arms:
        for measure, by_seed in _case_table(arm).items():
            with np.errstate(invalid="ignore"):
                values.setdefault(measure, {})[arm.name] = np.mean(by_seed, axis=0)
    caption = _about(analysis, SHOWN_REGIONS, "per case", "Values of single cases. ")
    figure = case_spread_figure(values, caption=caption)
    alt = "Distribution over cases: " + "; ".join(
        f"{measure}, {name}: median {np.nanmedian(v):.3f}"
        for measure, by_loss in values.items()
        for name, v in by_loss.items()
        if not np.isnan(v).all()
    )
    yield Drawn("cases", "Distribution over cases", alt, figure)


def _case_table(arm: Arm) -> dict[str, list[np.ndarray]]:
    """Return each case's Dice and errors, by measure and test."""
    found: dict[str, list[np.ndarray]] = {}
    for counted in (test.counted() for test in _tests(arm)):
        dice = row_means(counted.overlaps["dice"][:, 1 : counted.bins.num_classes])
        found.setdefault("Dice", []).append(dice)
        for region in SHOWN_REGIONS:
            values = case_values(counted.bins, "ece", region=region, n_bins=counted.n_bins)
            found.setdefault(f"ECE, {region_label(region)}", []).append(values)
    return found


def _measured(analysis: Analysis) -> Iterator[Drawn]:
    pairs = {
        f"{m.label}, {region_label(region)}, pooled": (
            f"{m.key}_corrected/{region}/pooled",
            f"true_{m.key}/{region}/pooled",
        )
        for m in shown_in("report")
        if m.corrected and m.true
        for region in SHOWN_REGIONS
    }
    known = {w: p for w, p in pairs.items() if p[1] in analysis.cells}
    if not known:
        return
    values = {
        label: {
            n: (_limits(analysis.cells[m][n]), _limits(analysis.cells[true][n]))
            for n in analysis.cells[m]
        }
        for label, (m, true) in known.items()
    }
    caption = _about(analysis, SHOWN_REGIONS, "pooled, bias over patients subtracted")
    true = further_label("true_ece", analysis.group.first.meta)
    alt = f"Measured errors, and {true}: " + "; ".join(
        f"{label}, {n}: measured {m[0]:.4f}, {true} {t[0]:.4f}"
        for label, by_loss in values.items()
        for n, (m, t) in by_loss.items()
    )
    figure = measured_figure(values, caption=caption, true=true)
    title = "Measured and true calibration error"
    if true != "true":
        title = "Calibration error against the majority and against the readers' mean"
    yield Drawn("true_error", title, alt, figure)


def _sweeps(analysis: Analysis) -> Iterator[Drawn]:
    for setting, arms in swept(analysis).items():
        curves: dict[str, dict[str, list[Any]]] = {}
        for key, label in SWEPT.items():
            for name, members in arms.items():
                points = []
                for arm in members:
                    cell = analysis.cells[key][arm.name]
                    points.append((float(arm.settings[setting]), *_limits(cell), cell.by_seed))
                curves.setdefault(label, {})[name] = points
        caption = _about(analysis, ["all"], "pooled, bias over patients subtracted")
        figure = sweep_figure(curves, setting=setting, caption=caption)
        alt = f"Dice, ECE and NLL over {setting}: " + "; ".join(
            f"{setting} {point[0]:g} of {name}: {label} {point[1]:.4f}"
            for label, by_loss in curves.items()
            for name, points in by_loss.items()
            for point in sorted(points)
        )
        yield Drawn(f"sweep_{setting.rpartition('.')[2]}", f"Sweep of {setting}", alt, figure)


def swept(analysis: Analysis) -> dict[str, dict[str, list[Arm]]]:
    """Return the arms over the values of each swept setting: ``{setting: {loss: arms}}``."""
    found: dict[str, dict[str, list[Arm]]] = {}
    for arm in analysis.group.arms:
        for setting, value in arm.settings.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                rest = " ".join(f"{k}={v}" for k, v in arm.settings.items() if k != setting)
                network = str(arm.runs[0].card["network"])
                several = len({a.runs[0].card["network"] for a in analysis.group.arms}) > 1
                parts = [*([network] if several else []), arm.loss, *([rest] if rest else [])]
                found.setdefault(setting, {}).setdefault(" ".join(parts), []).append(arm)
    kept = {s: {n: arms for n, arms in by.items() if len(arms) > 1} for s, by in found.items()}
    return {setting: by for setting, by in kept.items() if by}


def _multipliers(analysis: Analysis) -> Iterator[Drawn]:
    for number, arm in enumerate(analysis.group.arms):
        run = arm.trainings[0]
        lines = multiplier_lines(run.epochs)
        if lines:
            meta = run.meta | {"loss": arm.name, "adapts_on": run.card.get("adapts_on")}
            last = "; ".join(
                f"{kind} of {name} ends at {points[-1][1]:.3g}"
                for kind, by_name in lines.items()
                for name, points in by_name.items()
            )
            fold = run.card.get("fold")
            which = f"seed {run.seed}" + ("" if fold is None else f", fold {fold}")
            title = f"Multipliers of {arm.name}, {which}"
            figure = multipliers_figure(run.epochs, meta=meta)
            yield Drawn(f"multipliers_{number}", title, f"{title} over epochs: {last}", figure)


def _worst(analysis: Analysis) -> Iterator[Drawn]:
    chosen = [(arm, *worst) for arm in analysis.group.arms if (worst := worst_picture(arm))]
    if not chosen:
        return
    title = "Worst case of each loss"
    if len(chosen) > MOST_PICTURES:
        title += f", the first {MOST_PICTURES} of {len(chosen)}"
        chosen = chosen[:MOST_PICTURES]
    names = [
        f"{arm.name}, seed {run.seed}: {p.case}, slice {p.slice + 1}, Dice {p.dice:.3f}"
        for arm, run, p in chosen
    ]
    meta = analysis.group.first.meta
    figure = worst_figure([p for _, _, p in chosen], meta=meta, names=names, scope=scope(analysis))
    yield Drawn("worst_cases", title, f"{title}: {'; '.join(names)}", figure, picture=True)


def worst_picture(arm: Arm) -> tuple[Run, Picture] | None:
    """Return the case with the lowest Dice among an arm's runs with pictures, or None."""
    found = [
        (run, picture)
        for run in arm.trainings
        if run.pictured
        for picture in load_pictures(run.test / "worst.npz")
    ]
    return min(found, key=lambda pair: pair[1].dice) if found else None
