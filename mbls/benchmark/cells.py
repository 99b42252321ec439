"""Cells of a sweep: each is one run, with its own folder and command."""

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mbls.config.choices import choose
from mbls.config.options import Settings, parse, parser
from mbls.config.runs import chosen_names, dataset_name, run_settings
from mbls.config.specs import LossSpec
from mbls.runtime.errors import ChoiceError
from mbls.runtime.locks import is_locked, try_lock_folder

__all__ = ["Cell", "State", "make_cells"]

RESULTS = ("bins.npz", "metrics.json", "cases.csv", "reliability.png")  # files of a test


class State(StrEnum):
    """State of a cell's folder."""

    FINISHED = "finished"  # trained and tested
    STOPPED = "stopped"  # has a checkpoint to resume from
    LOCKED = "locked"  # another process is training or testing in it
    BROKEN = "broken"  # has no checkpoint to resume from
    MISSING = "missing"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        loss: The loss.
        seed: The seed.
        fold: The validation fold, or None.
        folder: The run folder.
        shared: Arguments of ``mbls train`` for all cells: dataset, network, epochs, ...
    """

    loss: LossSpec
    seed: int
    fold: int | None
    folder: Path
    shared: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name on screen: ``mbls,margin=3 seed 0``."""
        return f"{self.loss.label} {self.column}"

    @property
    def column(self) -> str:
        """Column in the row of its loss: ``seed 0``, ``seed 0 fold 1``."""
        return f"seed {self.seed}" + ("" if self.fold is None else f" fold {self.fold}")

    def state(self) -> State:
        """Return the state of the run folder."""
        if not self.folder.is_dir():
            return State.MISSING
        if finished(self.folder):
            return State.FINISHED
        if is_locked(self.folder):
            return State.LOCKED
        if any((self.folder / "checkpoints" / f"{k}.ckpt").is_file() for k in ("last", "previous")):
            return State.STOPPED
        return State.BROKEN

    def args(self) -> list[str]:
        """Return the arguments of ``mbls`` for a new run: ``train --dataset ...``."""
        fold = [] if self.fold is None else ["--fold", str(self.fold)]
        own = ["--seed", str(self.seed), *fold, "--run", str(self.folder)]
        return ["train", "--loss", str(self.loss), *self.shared, *own]

    def next_args(self) -> list[str] | None:
        """Return the arguments of ``mbls`` that start or resume the run; needs the cell's claim.

        A broken folder is first moved to ``<folder>.broken[-n]``. Returns None if another process
        has just started a run in it.
        """
        state = self.state()
        if state is State.STOPPED:
            return ["train", "--run", str(self.folder), "--resume"]
        if state is State.BROKEN and move_away(self.folder) is None:
            return None
        return self.args()

    def settings(self) -> Settings:
        """Return the run's settings for LightningCLI."""
        return run_settings(*parse(parser("train", None), self.args()[1:]))


def make_cells(
    losses: Sequence[LossSpec],
    seeds: Sequence[int],
    folds: Sequence[int | None] = (None,),
    *,
    train_args: Sequence[str],
    root: Path = Path("runs"),
) -> list[Cell]:
    """Return the cells of a sweep, seed by seed: every loss has a first run early.

    Args:
        losses: Losses, from :func:`mbls.benchmark.parse_losses`.
        seeds: Seeds.
        folds: Patient folds; None for the dataset's split.
        train_args: Arguments of ``mbls train`` that all cells share; must contain ``--dataset``.
        root: Folder of the runs. A cell's folder is
            ``<root>/<dataset>/<network>-<loss>/seed<k>[-fold<j>]``.

    Raises:
        ChoiceError: A dataset, network or preset does not exist.
    """
    options, _ = parse(parser("train", None), train_args)
    if options.dataset is None:
        raise ChoiceError("A sweep needs a dataset: DATASET=acdc (--dataset).")
    choose("data", options.dataset)
    names = chosen_names(options)
    network = names["network"]
    choose("trainer", names["preset"])
    choose("network", network)
    home = root / dataset_name(options.dataset, options.data_root)
    return [
        Cell(
            loss=loss,
            seed=seed,
            fold=fold,
            folder=home / f"{Path(network).stem}-{loss.label}" / _leaf(seed, fold),
            shared=tuple(train_args),
        )
        for seed, fold, loss in itertools.product(seeds, folds, losses)
    ]


def finished(folder: Path) -> bool:
    """Return True if a run was trained to its end and its test results are complete."""
    try:
        card = json.loads((folder / "run.json").read_text())
        return bool(card["finished"]) and any(
            _tested(folder / "test" / tag) for tag in ("best", "last")
        )
    except (OSError, ValueError, KeyError):
        return False


def _tested(results: Path) -> bool:
    if not all((results / name).is_file() for name in RESULTS):
        return False
    return bool(json.loads((results / "metrics.json").read_text()))


def move_away(folder: Path) -> Path | None:
    """Rename a broken run folder, under its lock, and return the new path.

    Returns None if another process has locked it.
    """
    lock = try_lock_folder(folder)
    if lock is None:
        return None
    with lock:
        for number in itertools.count(1):
            name = f"{folder.name}.broken" + ("" if number == 1 else f"-{number}")
            if not (aside := folder.with_name(name)).exists():
                return Path(shutil.move(folder, aside))
    raise AssertionError("unreachable")


def _leaf(seed: int, fold: int | None) -> str:
    return f"seed{seed}" + ("" if fold is None else f"-fold{fold}")
