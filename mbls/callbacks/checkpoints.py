"""Checkpoints of a run: best, last and previous."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mbls.callbacks.checkpoint_files import PlainCheckpointIO
from mbls.callbacks.nan_guard import require_finite
from mbls.callbacks.run_folder import run_folder
from mbls.loggers.epoch_means import EpochMeans
from mbls.loggers.metrics_csv import MetricsCSV
from mbls.loggers.selection import COMPROMISE, KEYS, RULES, chosen_epoch, contenders
from mbls.runtime.errors import CheckpointError
from mbls.runtime.files import incoming_name, writing
from mbls.runtime.rank_zero import on_rank_zero, share_error

__all__ = ["Checkpoints"]


class Checkpoints(Checkpoint):
    """Write ``best.ckpt`` after a validation, and ``last.ckpt`` after each epoch.

    ``last.ckpt`` is written when the next epoch begins: by then the values of the epoch are logged
    and its schedulers have stepped. The old ``last.ckpt`` becomes ``previous.ckpt`` once the new
    one is complete on disk, so a crash costs at most one epoch. Non-finite weights are never
    written.

    Args:
        select: Rule for the best epoch: best validation ``dice``, ``nll`` or ``ece``, or the
            ``compromise`` of :mod:`mbls.loggers.selection`, whose candidates are kept as
            ``contender-<n>.ckpt`` (n: number of the validation).
        keep: If True, also write ``best-<rule>.ckpt`` for every rule.
        monitor: A logged value that replaces ``select``.
        mode: Direction of ``monitor``: ``"min"`` or ``"max"`` is better.
    """

    def __init__(
        self,
        *,
        select: Literal["dice", "nll", "ece", "compromise"] = "dice",
        keep: bool = False,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
    ) -> None:
        if select not in RULES:
            raise ValueError(f"checkpoint.select must be one of {RULES}, got {select!r}.")
        self.select, self.keep, self.monitor, self.mode = select, keep, monitor, mode
        self.rows: list[dict[str, float]] = []
        self._taken: dict[str, int | None] = {}  # file -> row of its weights
        self._contended: set[str] = set()  # files of contenders when last.ckpt was saved
        self._unsaved = False  # an epoch has ended and is not saved yet

    @property
    def rules(self) -> dict[str, str | tuple[str, str]]:
        """Rule of each file that a validation may write."""
        own = self.select if self.monitor is None else (self.monitor, self.mode)
        found: dict[str, str | tuple[str, str]] = {"best": own}
        return found | {f"best-{rule}": rule for rule in RULES if self.keep}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Use PlainCheckpointIO, unless the user has set another checkpoint plugin."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = PlainCheckpointIO()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a new best epoch; in the sanity check only verify that its metric is logged."""
        if trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.sanity_checking:
            for key in self._keys():
                if key.startswith("val/"):
                    self._value(trainer, key)
            return
        require_finite(trainer)
        row = {key: self._value(trainer, key) for key in self._keys()}
        self.rows.append({"epoch": trainer.current_epoch} | row)
        self._save_chosen(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Postpone saving: Lightning has yet to log and to step the schedulers."""
        self._unsaved = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state at the end of the last epoch."""
        if self._unsaved:
            self.save_last(trainer)

    on_train_end = on_train_epoch_start

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reset the loop's progress to the start of the next epoch when between two epochs."""
        progress = checkpoint["loops"]["fit_loop"]
        epochs, batches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
        for counts in (epochs["current"], epochs["total"]):
            counts["ready"] = counts["started"]
        if self._unsaved:  # otherwise Lightning would skip the next epoch under max_steps
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False

    def save_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``, and rename the old one to ``previous.ckpt``; for all ranks."""
        require_finite(trainer)
        on_rank_zero(trainer, lambda: _write_metrics(trainer))
        self._save(trainer, ["last"])
        self._unsaved = False
        on_rank_zero(trainer, lambda: self._prune(run_folder(trainer) / "checkpoints"))

    def _keys(self) -> tuple[str, ...]:
        """Return the logged values that the rules use."""
        own = () if self.monitor is None else (self.monitor,)
        return tuple(dict.fromkeys((*own, *(KEYS if self.monitor is None or self.keep else ()))))

    def _value(self, trainer: Trainer, key: str) -> float:
        value = trainer.callback_metrics.get(key)
        if value is None:
            setting = f"select is {self.select!r} and needs {key!r}"
            if key == self.monitor:
                setting = f"monitor is {key!r}"
            raise CheckpointError(
                f"checkpoint.{setting}, which is not logged; there are: "
                f"{', '.join(sorted(trainer.callback_metrics))}."
            )
        return float(value)

    def _save_chosen(self, trainer: Trainer) -> None:
        """Save the state under each name whose rule selects the latest validation.

        The compromise may return to an earlier epoch, which is in its contender's file.
        """
        last = len(self.rows) - 1
        names, moved = [], {}
        for name, rule in self.rules.items():
            place = chosen_epoch(self.rows, rule)
            if place == last:
                names.append(name)
            elif place != self._taken.get(name, place) and place is not None:
                moved[name] = self._contender(place)
            self._taken[name] = place
        if self._compromises() and last in contenders(self.rows):
            names.append(self._contender(last))
        if names:
            self._save(trainer, names)
        if moved:
            folder = run_folder(trainer) / "checkpoints"
            on_rank_zero(trainer, lambda: _put(folder, moved))

    def _compromises(self) -> bool:
        return COMPROMISE in self.rules.values()

    def _contender(self, place: int) -> str:
        return f"contender-{place}"

    def _contenders(self) -> set[str]:
        return {self._contender(place) for place in contenders(self.rows)}

    def _prune(self, folder: Path) -> None:
        """Remove former contenders, except those that ``previous.ckpt`` may still select."""
        if not self._compromises():
            return
        now = self._contenders()
        for path in folder.glob("contender-*.ckpt"):
            if path.stem not in now | self._contended:
                path.unlink()
        self._contended = now

    def _save(self, trainer: Trainer, names: list[str]) -> None:
        """Write the state once, and link it under further names."""
        folder = run_folder(trainer) / "checkpoints"
        incoming = trainer.strategy.broadcast(incoming_name(folder / f"{names[0]}.ckpt"))
        means = getattr(trainer.lightning_module, "train_means", None)
        if isinstance(means, EpochMeans):
            means.share(trainer)
        error: Exception | None = None
        try:
            trainer.save_checkpoint(incoming, weights_only=False)
        except Exception as raised:  # on rank 0; the others wait in Lightning's barrier
            error = raised
            trainer.strategy.barrier()
        share_error(trainer, error)

        def put() -> None:
            with writing(folder):
                if "last" in names and (folder / "last.ckpt").exists():
                    (folder / "last.ckpt").replace(folder / "previous.ckpt")
                incoming.replace(folder / f"{names[0]}.ckpt")
            _put(folder, dict.fromkeys(names[1:], names[0]))

        on_rank_zero(trainer, put)

    def state_dict(self) -> dict[str, Any]:
        """Return the validations' values and the selected epochs."""
        return {"rows": self.rows, "taken": self._taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the validations' values and the selected epochs."""
        if "rows" not in state_dict:
            raise CheckpointError(
                "The checkpoint was written by an earlier version of mbls, without the values that "
                "select the best epoch: start a new run, or resume it with that version."
            )
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._taken = dict(state_dict["taken"])
        self._contended = self._contenders() if self._compromises() else set()


def _put(folder: Path, sources: Mapping[str, str]) -> None:
    """Hard-link (or copy) checkpoints under further names: ``{name: source}``."""
    for name, source in sources.items():
        incoming = incoming_name(folder / f"{name}.ckpt")
        with writing(folder):
            incoming.unlink(missing_ok=True)
            try:
                incoming.hardlink_to(folder / f"{source}.ckpt")
            except OSError:
                shutil.copyfile(folder / f"{source}.ckpt", incoming)
            incoming.replace(folder / f"{name}.ckpt")


def _write_metrics(trainer: Trainer) -> None:
    """Write metrics.csv up to the checkpoint."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.write()
