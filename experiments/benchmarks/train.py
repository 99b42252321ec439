"""What a training epoch costs beyond its steps: waiting for data, logging, metrics, callbacks.

``python -m experiments.benchmarks.train`` trains on the phantom by ``mbls fit``, with all callbacks
and the logger, and takes the processor's time of each epoch's batches, validation left out. Beside
it runs the bare loop of the same network, loss and optimiser: forward, backward and step over
one batch held in memory. A round is an epoch, then as many bare steps; the
share is the median over rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from mbls.choices import compose
from mbls.commands.lightning import command_line

NETWORKS = {2: "unet", 3: "unet3d"}


class BareLoop(Callback):
    """After each epoch run as many bare steps on the first batch, and keep both times."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []
        self.batch: dict[str, Any] = {}
        self.steps = 0
        self.start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, before the epoch's first batch is loaded."""
        self.steps, self.start = 0, time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock at the last batch, and run the bare steps."""
        self.steps += 1
        self.batch = self.batch or batch
        if batch_idx + 1 < trainer.num_training_batches:
            return
        whole = time.process_time() - self.start
        self.epochs.append((whole, self.bare(pl_module)))

    def bare(self, module: Any) -> float:
        """Return the seconds of as many steps as the epoch had, and put the weights back."""
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        optimizer = module.optimizer(module.parameters())
        image, target = self.batch["image"], self.batch["label"]
        start = time.process_time()
        for _ in range(self.steps):
            optimizer.zero_grad()
            module.loss(module.network(image), target).backward()
            optimizer.step()
        found = time.process_time() - start
        module.load_state_dict(kept)
        optimizer.zero_grad()
        return found


def epochs(dataset: str, dims: int, folder: Path, words: list[str]) -> list[tuple[float, float]]:
    """Return the seconds of each epoch but the first, and of its bare steps."""
    names = {"dataset": dataset, "network": NETWORKS[dims], "loss": "mbls"}
    files = compose(**names, preset="quick", dims=dims)
    given = [word for file in files for word in ("--config", str(file))]
    loop = f"--trainer.callbacks+={BareLoop.__module__}.{BareLoop.__name__}"
    given += [loop, "--run.folder", str(folder / f"{dataset}{dims}"), "--trainer.accelerator=cpu"]
    given += ["--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0", *words]
    trainer: Any = command_line(["fit", *given]).trainer
    loop_found = next(c for c in trainer.callbacks if type(c).__name__ == BareLoop.__name__)
    return list(loop_found.epochs[1:])


def main(arguments: list[str] | None = None) -> None:
    """Train, and print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--case", action="append", default=[], help="such as acdc,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options, words = parser.parse_known_args(arguments)
    torch.set_num_threads(options.threads)
    title = f"Epochs on the phantom beside their bare steps, {options.threads} threads"
    table = Table(title=title)
    for head in ("", "s an epoch", "s bare", "beyond, % of an epoch"):
        table.add_column(head, justify="right" if head else "left")
    with tempfile.TemporaryDirectory() as name:
        for text in options.case or ("acdc,2", "brats,3"):
            dataset, dims = text.split(",")
            rounds = [f"--trainer.max_epochs={options.rounds + 1}", *words]
            found = epochs(dataset, int(dims), Path(name), rounds)
            whole, bare = (statistics.median(times) for times in zip(*found, strict=True))
            beyond = statistics.median(100 * (1 - b / w) for w, b in found)
            table.add_row(f"{dataset} {dims}D", f"{whole:.2f}", f"{bare:.2f}", f"{beyond:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
