"""``mbls guarantee RUN``: outer and inner masks of each structure, promised for new patients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.commands.decisions import counted
from mbls.commands.thresholds import figure_title
from mbls.config.options import Settings, overrides, parse, parser
from mbls.runtime.errors import UsageError
from mbls.runtime.files import read_card, replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    import numpy as np

    from mbls.decisions.guarantee import Promise
    from mbls.decisions.nested import Nested
    from mbls.decisions.outcomes import Outcome
    from mbls.evaluation import TestRun

__all__ = ["guarantee_of_run", "main"]

ABOUT = """Promise for new patients that a mask misses at most a share of a structure (conformal
risk control): by a lower threshold, and by a margin in mm around the predicted class. Calibrated on
validation patients, reported on test patients, with the mask that is surely inside."""
FNR = 0.1


def main(args: list[str]) -> int:
    """Calibrate both families of masks, write them, and print what they give."""
    options, rest = parse(parser("guarantee", ABOUT), args)
    if options.run is None:
        raise UsageError("Name a run folder: RUN=FOLDER (mbls guarantee FOLDER).")
    from mbls.decisions.guarantee import Promise

    promise = Promise(FNR if options.fnr is None else options.fnr, options.alpha)
    guarantee_of_run(options.run, promise, [*overrides(options), *rest], groups=options.groups)
    return 0


def guarantee_of_run(
    run: Path, promise: "Promise", given: Settings, *, groups: int | None = None
) -> "list[Outcome]":
    """Return what the masks give on the test patients, and write the guarantees.

    Args:
        run: A run folder, or that of an audit, whose patients are cross-fitted.
        promise: What is promised.
        given: Settings of the validation and the test; the grid is ``native`` by default.
        groups: Number of groups of a cross-fit.

    Raises:
        RunFolderError: It is not a run folder, or an audit of several regions.
        DecisionError: Validation and test have a patient in common.
    """
    from mbls.decisions.guarantee import guaranteed
    from mbls.decisions.nested import nested_masks
    from mbls.decisions.outcomes import (
        cross_fitted_places,
        fewest_patients,
        guaranteed_places,
        outcomes,
    )

    if (run / "run.json").is_file() and "audit" in read_card(run):
        counts = counted(run, given, groups=groups, needs=("voxel_ml",))
    else:
        native: Settings = [] if "model.grid" in dict(given) else [("model.grid", "native")]
        settings: Settings = [*native, *given, ("post_hoc.margins", "true")]
        counts = counted(run, settings, groups=groups, needs=("voxel_ml", "margins"))
    test, own = counts.test, counts.validation or counts.test
    found: list[Outcome] = []
    masks, few = {}, None
    for family in ("threshold", *(("margin",) if test.margins is not None else ())):
        nested = nested_masks(test, family)
        promised = guaranteed(own, nested_masks(own, family), promise)
        if counts.validation is None:
            assert counts.groups is not None
            places = cross_fitted_places(nested, promise, counts.groups)
            fewest = fewest_patients(nested, counts.groups)
            numbers = dict(zip(promised.structures, fewest, strict=True))
            few = replace(promised, numbers=numbers).too_few()
        else:
            places = guaranteed_places(test, nested, promised)
            few = promised.too_few()
        promised.save(counts.folder / f"{promised.name}.json")
        found += outcomes(test, nested, promise, places)
        masks[family] = nested
    write_results(counts.folder, test, masks, found, promise, note=counts.chosen)
    show(found, test, promise, title=f"{run}: {promise.text}", note=counts.chosen)
    if few is not None:
        print_once(f"! {few}")
    if test.margins is None:
        print_once("Margins in mm are counted by make audit MARGINS=1 (--margins).")
    files = [counts.folder / f"{promise.name}-{family}.json" for family in masks]
    show_files(files, audit=counts.validation is None)
    return found


def show_files(files: Sequence[Path], *, audit: bool) -> None:
    """Print where the guarantees are, and what writes their masks."""
    for file in files:
        ours = f"make predict GUARANTEE={file}"
        foreign = f"make decide DECIDE={file} PREDICTIONS= OUTPUT="
        print_once(f"Masks: {foreign if audit else ours}")
    if audit:
        print_once("These are calibrated on all patients of the audit, for predictions of others.")


def write_results(
    folder: Path,
    test: "TestRun",
    masks: "Mapping[str, Nested]",
    found: "Sequence[Outcome]",
    promise: "Promise",
    *,
    note: str,
) -> None:
    """Write the outcomes as CSV, and the figure if a structure is labeled."""
    import pandas as pd

    from mbls.decisions.outcomes import tradeoff
    from mbls.plots import save_figure
    from mbls.plots.guarantee import guarantee_figure

    table = pd.DataFrame([one.row() for one in found])
    text = str(table.to_csv(index=False, lineterminator="\n"))
    replace_file(folder / f"{promise.name}.csv", text.encode())
    risk = 1 if promise.alpha is None else 2
    curves: dict[str, dict[str, np.ndarray]] = {}
    for family, nested in masks.items():
        for name, values in tradeoff(test, nested, promise.fnr).items():
            curves.setdefault(name, {})[family] = values[:, [0, risk]]
    chosen: dict[str, dict[str, tuple[float, float]]] = {}
    for one in found:
        value = one.missed if promise.alpha is None else one.above[0]
        chosen.setdefault(one.structure, {})[one.family] = (one.to_true, value)
    if not curves:
        print_once("No figure: no structure is labeled in the test.")
        return
    share = f"patients with > {100 * promise.fnr:g} % missed"
    figure = guarantee_figure(
        curves, chosen, bound=promise.level,
        axis="mean missed share" if promise.alpha is None else share,
        caption=[figure_title([test]), f"{promise.text.capitalize()}. {note}"],
    )  # fmt: skip
    with writing(folder):
        save_figure(figure, folder / promise.name)


def show(
    found: "Sequence[Outcome]", test: "TestRun", promise: "Promise", *, title: str, note: str
) -> None:
    """Print what the masks give."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    phantom = " PHANTOM: synthetic images." if test.meta["origin"] == "phantom" else ""
    caption = (
        f"{note} An outer mask misses part of a structure, of an inner mask part is outside it: "
        f"mean over patients, and patients above {100 * promise.fnr:g} % with their exact 95 % "
        f"interval. Volumes are divided by that of the labels and of argmax.{phantom}"
    )
    table = Table(title=escape(title), caption=escape(caption))
    for heading in ("structure", "mask", "voxels", "share", "patients above", "/ true", "/ argmax"):
        left = heading in ("structure", "mask", "voxels")
        table.add_column(heading, justify="left" if left else "right")
    before = None
    for one in sorted(found, key=lambda one: [o.structure for o in found].index(one.structure)):
        name = "" if one.structure == before else escape(one.structure)
        before = one.structure
        table.add_row(
            name, "outer", _voxels(one, one.outer, "all"), f"{one.missed:.3f}",
            _above(one.above, one.patients), f"{one.to_true:.2f}", f"{one.to_argmax:.2f}",
        )  # fmt: skip
        table.add_row(
            "", "inner", _voxels(one, one.inner, "none"), f"{one.outside:.3f}",
            _above(one.outside_above, one.all_patients), f"{one.inner_to_true:.2f}", "",
        )  # fmt: skip
    Console().print(table)


def _voxels(one: "Outcome", value: float | None, otherwise: str) -> str:
    """Return which voxels are in a mask."""
    if value is None:
        return f"{otherwise} (by {one.family})" if one.single else f"by {one.family} of its group"
    return f"p > {value:.3f}" if one.family == "threshold" else f"{value:+.1f} mm"


def _above(share: tuple[float, float, float], patients: int) -> str:
    from rich.markup import escape

    value, low, high = share
    return f"{value:.2f} of {patients}" + escape(f" [{low:.2f}, {high:.2f}]")
