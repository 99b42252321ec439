"""What a training epoch costs beyond its steps: waiting for data, logging, metrics, callbacks.

``python -m experiments.benchmarks.train`` trains on the phantom by ``mbls fit``, with all callbacks
and the logger, and takes the time from the start of an epoch to the start of the next: batches,
steps, logging, progress bar, metrics.csv and the checkpoint of the epoch's end; validation is left
out. Between the steps, five at a time, run as many bare ones of a copy of the same network, loss
and optimizer: forward, backward and step over one batch in memory. Their time is that of the
bare loop, and what an epoch takes beyond it is split into

- data: waiting for the loader's next batch;
- callbacks: ours and Lightning's, the progress bar and the checkpoint among them;
- rest: Lightning's loop and logging, and steps on a batch that the processor's cache has not seen.

Shares are medians over epochs. One thread by default, on a machine that does nothing else and has a
second processor for the thread that makes the batches. With ``--cpu`` it is the time of this
process's threads together, theirs among it, which other work disturbs less. Other arguments are
settings of the run, such as ``--data.init_args.num_workers 1``.
"""

import argparse
import copy
import importlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from rich.table import Table

from mbls.config.choices import compose
from mbls.config.cli import command_line

NETWORKS = {2: "unet", 3: "unet3d"}
BLOCK = 5  # steps between bare ones
clock = time.perf_counter


class Epoch(NamedTuple):
    """Seconds of an epoch."""

    whole: float
    bare: float
    data: float
    callbacks: float

    @property
    def shares(self) -> tuple[float, ...]:
        """What is beyond the bare steps, data, callbacks and the rest, in percent."""
        beyond = self.whole - self.bare
        parts = (beyond, self.data, self.callbacks, beyond - self.data - self.callbacks)
        return tuple(100 * part / self.whole for part in parts)


class Clock(Profiler):
    """The seconds of the chosen actions of Lightning.

    A step has two hundred, nearly all of them hooks that a callback does not have, and to read a
    clock takes longer than one of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wanted: set[str] = set()
        self.started: dict[str, float] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, callbacks: Sequence[Callback]) -> None:
        """Ask for the hooks that these callbacks have, and for the next batch."""
        self.wanted = {
            f"[Callback]{callback.state_key}.{name}"
            for callback in callbacks
            for name in dir(Callback)
            if name.startswith("on_") and getattr(type(callback), name) != getattr(Callback, name)
        }
        self.wanted.add("[_TrainingEpochLoop].train_dataloader_next")

    def start(self, action_name: str) -> None:
        """Note the time."""
        if action_name in self.wanted:
            self.started[action_name] = clock()

    def stop(self, action_name: str) -> None:
        """Add the time since the start."""
        if action_name in self.started:
            self.seconds[action_name] += clock() - self.started.pop(action_name)

    def take(self, prefix: str, suffix: str = "", *, but: str = "-") -> float:
        """Return the seconds of the actions with such names, ``but`` left out."""
        return sum(
            seconds
            for name, seconds in self.seconds.items()
            if name.startswith(prefix) and name.endswith(suffix) and but not in name
        )


class BareLoop(Callback):
    """Run as many bare steps as there are steps, on the first batch, and keep all times."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.step: Any = None
        self.start = self.bare = 0.0
        self.waiting = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch before, and start the clock before the first batch is loaded."""
        self.close(trainer)
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        profiler.watch(trainer.callbacks)  # type: ignore[attr-defined]
        profiler.seconds.clear()
        self.bare, self.start = 0.0, clock()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch."""
        self.close(trainer)

    def close(self, trainer: Trainer) -> None:
        """Keep the times of the epoch that has ended, if one has."""
        now, profiler = clock(), trainer.profiler  # type: ignore[attr-defined]
        if self.start:
            data = profiler.take("", "train_dataloader_next")
            callbacks = profiler.take("[Callback]", but=type(self).__name__)
            self.epochs.append(Epoch(now - self.start - self.bare, self.bare, data, callbacks))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Catch up with the steps, five at a time and at the end of the epoch."""
        begin = clock()
        self.step = self.step or bare_step(pl_module, batch)
        self.waiting += 1
        if self.waiting == BLOCK or batch_idx + 1 == trainer.num_training_batches:
            start = clock()
            for _ in range(self.waiting):
                self.step()
            found = clock() - start
            self.waiting = 0
            self.bare += found
            begin += found
        self.start += clock() - begin  # what this callback costs apart from the steps


def bare_step(module: Any, batch: dict[str, Any]) -> Any:
    """Return what makes a step of a copy of the network on the batch, as a user would write it."""
    network, loss = copy.deepcopy(module.network), copy.deepcopy(module.loss)
    optimizer = module.optimizer(network.parameters())
    image, target = batch["image"].clone(), batch["label"].clone()

    def step() -> None:
        optimizer.zero_grad()
        loss(network(image), target).backward()
        optimizer.step()

    return step


def epochs(
    dataset: str, dims: int, folder: Path, args: list[str], preset: str = "quick"
) -> list[Epoch]:
    """Return the seconds of each epoch but the first."""
    names = {"dataset": dataset, "network": NETWORKS[dims], "loss": "mbls"}
    files = compose(**names, preset=preset, dims=dims)
    given = [arg for file in files for arg in ("--config", str(file))]
    here = BareLoop.__module__
    given += [f"--trainer.callbacks+={here}.BareLoop", f"--trainer.profiler={here}.Clock"]
    given += ["--run.folder", str(folder / f"{dataset}{dims}"), "--trainer.accelerator=cpu"]
    given += ["--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0", *args]
    trainer: Any = command_line(["fit", *given]).trainer
    loop_found = next(c for c in trainer.callbacks if type(c).__name__ == BareLoop.__name__)
    return list(loop_found.epochs[1:])


def main(arguments: list[str] | None = None) -> None:
    """Train, and print a row a case."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", action="append", default=[], help="such as acdc,2")
    parser.add_argument("--preset", default="quick", help="sizes of network, patch and batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="take the processor's time")
    options, args = parser.parse_known_args(arguments)
    module = importlib.import_module("experiments.benchmarks.train")  # not __main__
    module.clock = time.process_time if options.cpu else time.perf_counter  # type: ignore[attr-defined]
    torch.set_num_threads(options.threads)
    title = f"Epochs on the phantom against their bare steps, {options.threads} threads"
    table = Table(title=title, caption="percent of an epoch")
    for head in ("", "s an epoch", "s bare", "beyond %", "data %", "callbacks %", "rest %"):
        table.add_column(head, justify="right" if head else "left")
    with tempfile.TemporaryDirectory() as name:
        for text in options.case or ("acdc,2", "brats,3"):
            dataset, dims = text.split(",")
            rounds = [f"--trainer.max_epochs={options.rounds + 1}", *args]
            found = module.epochs(dataset, int(dims), Path(name), rounds, options.preset)
            times = [statistics.median(each) for each in zip(*found, strict=True)]
            shares = [statistics.median(s) for s in zip(*(e.shares for e in found), strict=True)]
            cells = [f"{t:.2f}" for t in times[:2]] + [f"{share:.1f}" for share in shares]
            table.add_row(f"{dataset} {dims}D", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
