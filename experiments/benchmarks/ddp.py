"""Training on one process and on two, with one thread each: samples a second, and efficiency.

``python -m experiments.benchmarks.ddp`` trains the phantom by ``mbls fit`` on one rank and on two
that share the batch, turn and turn about. Timed are an epoch's batches, all of them but the first;
validation, start and end are left out. The efficiency is the speed of k ranks over k times that of
one: what is lost goes into exchanging gradients, into waiting for the slower rank, and, on a small
batch, into what a step costs whatever its size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from mbls.choices import compose


class Stopwatch(Callback):
    """Write the seconds and samples of each epoch's batches but the first to a file, on rank 0.

    Args:
        file: Where the list of ``[seconds, samples]`` goes.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)
        self.epochs: list[tuple[float, int]] = []
        self.start, self.samples = 0.0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start at the end of the first batch, stop at that of the last."""
        if batch_idx == 0:
            self.start, self.samples = time.perf_counter(), 0
            return
        self.samples += len(batch["image"]) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:
            self.epochs.append((time.perf_counter() - self.start, self.samples))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        if trainer.is_global_zero:
            self.file.write_text(json.dumps(self.epochs))


def speed(
    case: tuple[str, int, int], ranks: int, folder: Path, *, epochs: int, words: list[str]
) -> float:
    """Return the samples a second of a run, the median over its epochs but the first.

    Args:
        case: Dataset, 2 or 3 dimensions, samples in a batch.
        ranks: Processes.
        folder: Where its run and its times go.
        epochs: Epochs, one more than are looked at.
        words: Further words of ``mbls fit``.
    """
    dataset, dims, batch = case
    network = {2: "unet", 3: "unet3d"}[dims]
    files = compose(dataset=dataset, loss="mbls", network=network, preset="quick", dims=dims)
    watch, times = f"{__spec__.name}.Stopwatch", folder / "times.json"
    given = [word for file in files for word in ("--config", str(file))] + [
        f"--trainer.callbacks+={watch}", f"--trainer.callbacks.init_args.file={times}",
        f"--run.folder={folder / 'run'}", "--trainer.accelerator=cpu", f"--trainer.devices={ranks}",
        f"--trainer.max_epochs={epochs}", "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0", f"--data.init_args.batch_size={batch}", *words,
    ]  # fmt: skip
    program = str(Path(sys.executable).with_name("mbls"))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([program, "fit", *given], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"mbls fit failed on {ranks} ranks:\n{done.stderr}")
    return statistics.median(
        count / seconds for seconds, count in json.loads(times.read_text())[1:]
    )


def main(arguments: list[str] | None = None) -> None:
    """Train, and print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--case", action="append", default=[], help="dataset,dims,batch such as acdc,2,16"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    options, words = parser.parse_known_args(arguments)
    table = Table(title="Samples a second, one thread a process")
    for head in ("", "batch", "1 process", "2 processes", "efficiency"):
        table.add_column(head, justify="right" if head else "left")
    for text in options.case or ("acdc,2,16", "brats,3,2"):
        dataset, dims, batch = text.split(",")
        case = (dataset, int(dims), int(batch))
        found: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for ranks, speeds in found.items():
                with tempfile.TemporaryDirectory() as name:
                    speeds.append(
                        speed(case, ranks, Path(name), epochs=options.epochs, words=words)
                    )
        one, two = (statistics.median(speeds) for speeds in found.values())
        ratio = statistics.median(b / a / 2 for a, b in zip(found[1], found[2], strict=True))
        table.add_row(
            f"{dataset} {dims}D", batch, f"{one:.1f}", f"{two:.1f}", f"{100 * ratio:.0f} %"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
