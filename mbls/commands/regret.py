"""``mbls regret RUN``: what a run on a phantom loses to the best possible answer, by cause."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbls.commands.decisions import card_of, sources
from mbls.commands.evaluate import main as evaluate
from mbls.commands.evaluate import run_settings, tag_of
from mbls.commands.thresholds import run_names
from mbls.config.decide import FOLDER, TAG, decisions_folder
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.runtime.errors import DecisionError, RunFolderError, UsageError
from mbls.runtime.files import replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    import pandas as pd

    from mbls.decisions.levels import Levels
    from mbls.decisions.regret import Term

__all__ = ["main", "regret_of_run"]

ABOUT = """Of a run on a phantom, whose labels have a known distribution: what Dice and volumes lose
to the best possible answer by the network, by its calibration and by the decision rule."""
LABELS = 100
CALLBACK = "mbls.callbacks.drawn_labels.DrawnLabels"


@dataclass(frozen=True)
class Found:
    """What a run loses.

    Attributes:
        terms: The rules' values and the parts, by kind of probabilities: ``raw`` and calibrated.
        meta: Description of the test.
    """

    terms: "Mapping[str, Sequence[Term]]"
    meta: Mapping[str, Any]

    def rows(self) -> "pd.DataFrame":
        """Return a row for each term."""
        import pandas as pd

        rows = [{"probabilities": kind, **t.row()} for kind, of in self.terms.items() for t in of]
        return pd.DataFrame(rows)


def main(args: list[str]) -> int:
    """Draw labels, score the masks of each rule against them, and print what each part loses."""
    options, rest = parse(parser("regret", ABOUT), args)
    if (options.run is None) == (options.runs is None):
        raise UsageError('Name one run folder (RUN=), or several: --runs "A B" (RUNS="A B").')
    if options.output is not None and options.runs is None:
        raise UsageError(
            "OUTPUT (--output) is of several RUNS: the files of a single run are in its folder "
            f"{FOLDER}/."
        )
    given = [*overrides(options), *rest]
    runs = [options.run] if options.runs is None else options.runs
    for run in runs:
        require_phantom(run)
    found = {run: regret_of_run(run, given, number=options.draws or LABELS) for run in runs}
    if options.runs is not None:
        side_by_side(found, options.output)
    return 0


def require_phantom(run: Path) -> None:
    """Require a run of this program on a phantom.

    Raises:
        RunFolderError: It is not a run folder.
        DecisionError: It is of other data, or an audit.
    """
    card = card_of(run)
    if "audit" in card or card.get("data_origin") != "phantom":
        what = "an audit of other predictions" if "audit" in card else "on real data"
        raise DecisionError(
            f"{run} is {what}: regret needs the true distribution of the labels, which is known "
            "for phantoms only. Train on one: leave out DATA_ROOT (--data-root)."
        )


def regret_of_run(run: Path, given: Settings, *, number: int = LABELS) -> Found:
    """Return what a run loses, print it, and write table and figure to its folder.

    Args:
        run: A run folder.
        given: Settings of the test.
        number: How many labels are drawn of each test case.
    """
    from mbls.callbacks.drawn_labels import OWN, TRUTH
    from mbls.decisions.regret import regrets

    tag = tag_of(TAG, given, read_run_config(run / "config.yaml"))
    folder = decisions_folder(run, tag)
    meta, levels = counted_labels(run, tag, given, folder / "drawn-labels.npz", number)
    structures = [str(name) for name in meta["class_names"][1:]]
    terms = {
        kind: regrets(levels[TRUTH], levels[kind], structures=structures, patients=meta["patients"])
        for kind in (OWN, *meta["calibrators"])
    }
    found = Found(terms, meta)
    content = {"meta": meta, "rows": json.loads(found.rows().to_json(orient="records"))}
    replace_file(folder / "regret.json", (json.dumps(content, indent=1) + "\n").encode())
    write({str(meta["loss"]): found}, folder / "regret")
    show(found, title=str(run))
    print_once(f"Regret: {folder / 'regret.csv'}, figure and JSON beside it")
    return found


def counted_labels(
    run: Path, tag: str, given: Settings, file: Path, number: int
) -> "tuple[dict[str, Any], dict[str, Levels]]":
    """Return the description and the levels of all probabilities, from one test if need be.

    They are kept in a file, and counted again if a checkpoint or the calibrator is newer, or for
    another number of labels.
    """
    from mbls.decisions.levels import Levels

    fitted = run / "calibrators" / ("" if tag == TAG else tag) / "temperature.json"
    calibrators = [fitted] if fitted.is_file() else []
    used = [
        *run_settings(run, TAG),
        *given,
        *(("post_hoc.calibrator", str(c)) for c in calibrators),
    ]
    if not _is_current(file, max(sources(run, used)), number, calibrators):
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        callback = "--trainer.callbacks.init_args."
        evaluate([
            str(run), *to_argv([("results.show", "false"), ("trainer.devices", "1"),
                                ("trainer.num_nodes", "1"), *given]),
            f"--trainer.callbacks+={CALLBACK}", f"{callback}file={file}",
            f"{callback}number={number}",
            f"{callback}calibrators={json.dumps([str(c) for c in calibrators])}",
        ])  # fmt: skip
    with np.load(file, allow_pickle=False) as arrays:
        meta: dict[str, Any] = json.loads(str(arrays["meta"]))
        kinds = ("posterior", "raw", *meta["calibrators"])
        return meta, {kind: Levels.from_arrays(arrays, kind) for kind in kinds}


def _is_current(file: Path, newest: float, number: int, calibrators: Sequence[Path]) -> bool:
    if not file.is_file() or file.stat().st_mtime < newest:
        return False
    with np.load(file, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays["meta"]))
    return bool(
        meta["number"] == number and meta["calibrators"] == [path.stem for path in calibrators]
    )


def side_by_side(found: Mapping[Path, Found], output: Path | None) -> None:
    """Write table and figure of several runs.

    Raises:
        RunFolderError: The runs were tested on other cases or structures.
    """
    from mbls.commands.report import common_parent

    alike = {json.dumps([f.meta["cases"], f.meta["class_names"]]) for f in found.values()}
    if len(alike) > 1:
        raise RunFolderError(
            "Runs that are drawn side by side must be tested on the same cases and structures, got "
            f"{len(alike)} different tests: {', '.join(map(str, found))}."
        )
    names = run_names({run: each.meta for run, each in found.items()})
    folder = output or common_parent([run.resolve().parent for run in found]) / "regret"
    write({names[run]: each for run, each in found.items()}, folder / "regret")
    print_once(f"Side by side: {folder / 'regret.png'}")


def write(found: Mapping[str, Found], path: Path) -> None:
    """Write ``.csv``, ``.png`` and ``.pdf`` of runs by their names."""
    import pandas as pd

    from mbls.plots import save_figure
    from mbls.plots.labels import data_label
    from mbls.plots.regret import regret_figure

    rows = pd.concat([each.rows().assign(run=name) for name, each in found.items()])
    first = next(iter(found.values())).meta
    caption = (
        f"{data_label(first)}, {len(first['cases'])} cases of {len(set(first['patients']))} "
        f"patients, {first['number']} drawn labels each"
    )
    bars = {
        name if len(each.terms) == 1 else f"{name}\n{kind}": terms
        for name, each in found.items()
        for kind, terms in each.terms.items()
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = str(rows.to_csv(index=False, lineterminator="\n"))
        replace_file(path.with_suffix(".csv"), text.encode())
        save_figure(regret_figure(bars, caption=[caption]), path)


def show(found: Found, *, title: str) -> None:
    """Print the tables of Dice, volume and the width of its interval."""
    from rich.console import Console

    from mbls.decisions.regret import regret_table

    patients = len(set(found.meta["patients"]))
    caption = (
        f"Mean of the cases of {patients} patients, [95 % interval over patients]. PHANTOM: "
        "synthetic images."
    )
    reads = "what the true probabilities reach, what is lost by each part, what argmax reaches"
    for quantity, heading in (
        ("dice", f"{title}: expected Dice: {reads}"),
        ("volume", "Relative error of the volume, by part, and that of the predicted classes"),
        ("width", "Width of an interval around the volume, relative to it, for 90 % of patients"),
    ):
        Console().print(regret_table(found.terms, quantity, title=heading, caption=caption))
