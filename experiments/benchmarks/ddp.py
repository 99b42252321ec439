"""Training on one process and on two, with one thread each: samples a second, and efficiency.

``python -m experiments.benchmarks.ddp`` trains a phantom of few patients by ``mbls fit`` in three
ways, turn and turn about: one process; two that share its batch; and two unrelated ones
at once, each with half of the batch. Timed are an epoch's batches, all of them but the first,
in all epochs but the first; validation, start and end are left out.

The efficiency is the speed of the two that share over twice that of one. What is lost goes into
exchanging gradients, into waiting for the slower rank, into the fixed cost of a step,
and into what two processes take from each other on one machine. Two unrelated processes
lose the last two as well, so the speed relative to theirs is what sharing costs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.config.choices import compose

CASES = ("acdc,2,16", "brats,3,8")
PATIENTS = {"train": 16, "val": 1, "test": 1}


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


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        dataset: Name of the dataset.
        dims: 2 for slices, 3 for volumes.
        batch: Samples in a batch, over all ranks.
        epochs: Epochs, one more than are timed.
        batches: Batches of an epoch, one more than are timed.
        args: Further arguments of ``mbls fit``.
    """

    dataset: str
    dims: int
    batch: int
    epochs: int
    batches: int
    args: tuple[str, ...] = ()

    def command(self, run: Path, data: Path, *, ranks: int, batch: int) -> list[str]:
        """Return the arguments of a run; ``data`` is where the phantom and its cache are or go."""
        network = {2: "unet", 3: "unet3d"}[self.dims]
        files = compose(
            dataset=self.dataset, loss="mbls", network=network, preset="quick", dims=self.dims
        )
        return [
            str(Path(sys.executable).with_name("mbls")), "fit",
            *(arg for file in files for arg in ("--config", str(file))),
            "--trainer.callbacks+=experiments.benchmarks.ddp.Stopwatch",
            f"--trainer.callbacks.init_args.file={run.with_suffix('.json')}",
            f"--run.folder={run}", "--trainer.accelerator=cpu", f"--trainer.devices={ranks}",
            f"--trainer.max_epochs={self.epochs}", f"--trainer.limit_train_batches={self.batches}",
            "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0",
            f"--data.init_args.phantom_root={data / self.dataset}",
            f"--data.init_args.phantom_patients={json.dumps(PATIENTS)}",
            f"--data.init_args.cache_dir={data / 'cache'}",
            f"--data.init_args.batch_size={batch}", *self.args,
        ]  # fmt: skip

    def speeds(self, data: Path, *, ranks: int = 1, runs: int = 1) -> list[float]:
        """Return the samples a second of each timed epoch, summed over ``runs`` at once.

        Raises:
            RuntimeError: A run failed; the message has its stderr.
        """
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name) / f"run{k}" for k in range(runs)]
            started = [
                subprocess.Popen(
                    self.command(folder, data, ranks=ranks, batch=self.batch // runs),
                    env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )
                for folder in folders
            ]  # fmt: skip
            for run in started:
                _, err = run.communicate()
                if run.returncode:
                    raise RuntimeError(f"mbls fit failed on {ranks} ranks:\n{err}")
            times = [json.loads(folder.with_suffix(".json").read_text()) for folder in folders]
        epochs = zip(*(each[1:] for each in times), strict=True)
        return [sum(samples / seconds for seconds, samples in epoch) for epoch in epochs]


WAYS = {"one": {}, "two": {"ranks": 2}, "unrelated": {"runs": 2}}


def compare(case: Case, rounds: int) -> dict[str, float]:
    """Return the samples a second of each of ``WAYS``, medians over the epochs of all rounds."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(rounds):
            for way, options in WAYS.items():
                found[way] += case.speeds(Path(name), **options)
    return {way: statistics.median(speeds) for way, speeds in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Train, and print each case's line when it is known."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--case", action="append", default=[], help="dataset,dims,batch such as acdc,2,16"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batches", type=int, default=6)
    options, args = parser.parse_known_args(arguments)
    for text in options.case or CASES:
        dataset, dims, batch = text.split(",")
        case = Case(dataset, int(dims), int(batch), options.epochs, options.batches, tuple(args))
        one, two, unrelated = compare(case, options.rounds).values()
        sys.stdout.write(
            f"{dataset} {dims}D, batch {batch}, samples a second: 1 process {one:.1f}, "
            f"2 processes {two:.1f}, 2 unrelated {unrelated:.1f}; efficiency "
            f"{50 * two / one:.0f} %, relative to unrelated {100 * two / unrelated:.0f} %\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
