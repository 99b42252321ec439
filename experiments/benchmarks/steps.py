"""What a whole training step costs with a loss that adapts, against the same step with MbLS.

``python -m experiments.benchmarks.steps [--loss cals --loss crac] [--rounds 20]``

Network, loss, gradient and optimizer over one batch in memory, in rounds that take one step
with each loss, so that a busy machine slows them all: processor's time, the median over rounds.
The loss is timed within the same steps. Multipliers have moved once, so penalties are at work.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from experiments.benchmarks.losses import configured_losses
from mbls.config.choices import choices, compose
from mbls.losses import Loss

__all__ = ["Case", "measure"]

ADAPTIVE = ("cals", "cals_hr", "crac", "adafocal")


@dataclass(frozen=True)
class Case:
    """A batch as a dataset's quick preset has it, with the network it takes.

    Args:
        dataset: Name.
        network: Name.
        shape: Of the batch ``(N, M, *S)``.
        num_classes: C.
    """

    dataset: str
    network: str
    shape: tuple[int, ...]
    num_classes: int


CASES = (
    Case("acdc", "unet", (8, 1, 112, 112), 4),
    Case("acdc", "unet_paper", (4, 1, 192, 192), 4),
    Case("brats", "unet3d", (2, 4, 48, 64, 48), 4),
    Case("flare", "unet", (8, 1, 96, 96), 14),
)


class Step:
    """A network of its own, and a loss: what one training step does.

    Args:
        case: Batch and network.
        loss: The loss.
    """

    def __init__(self, case: Case, loss: nn.Module) -> None:
        torch.manual_seed(0)
        self.network, self.loss = network(case), loss
        self.image = torch.randn(case.shape)
        blobs = nn.functional.avg_pool2d if len(case.shape) == 4 else nn.functional.avg_pool3d
        smooth = blobs(torch.randn(case.shape[0], case.num_classes, *case.shape[2:]), 9, 1, 4)
        self.target = smooth.argmax(dim=1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        if isinstance(loss, Loss) and loss.adaptive:
            loss.bind(case.num_classes)
            loss.observe(30 * self.network(self.image).detach(), self.target)
            loss.adapt()

    def __call__(self) -> tuple[float, float]:
        """Take a step; return its seconds, and those of the loss and its gradient."""
        start = time.process_time()
        self.optimizer.zero_grad()
        logits: Tensor = self.network(self.image)
        cut = logits.detach().requires_grad_()
        before = time.process_time()
        self.loss(cut, self.target).backward()
        after = time.process_time()
        logits.backward(cut.grad)
        self.optimizer.step()
        return time.process_time() - start, after - before


def network(case: Case) -> nn.Module:
    """Return the network of a case, as the quick preset configures it."""
    files = compose(dataset=case.dataset, loss="mbls", network=case.network, preset="quick")
    settings: dict[str, Any] = {}
    for file in files:
        model = (yaml.safe_load(file.read_text()) or {}).get("model") or {}
        if "network" in model:
            settings |= {"class_path": model["network"]["class_path"]}
            settings["init_args"] = settings.get("init_args", {}) | model["network"]["init_args"]
    module, _, name = settings["class_path"].rpartition(".")
    cls = getattr(__import__(module, fromlist=[name]), name)
    dims = len(case.shape) - 2
    facts = {"spatial_dims": dims, "in_channels": case.shape[1], "out_channels": case.num_classes}
    built: nn.Module = cls(**facts, **settings["init_args"])
    return built


def measure(case: Case, names: list[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return for each loss the seconds of a step and of its loss, one pair a round."""
    losses = configured_losses(names)
    steps = {name: Step(case, losses[name]) for name in names}  # type: ignore[arg-type]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(-2, rounds):
        for name, step in steps.items():
            seconds = step()
            if turn >= 0:  # the first turns warm up
                found[name].append(seconds)
    return found


def main(args: list[str]) -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--loss", action="append", default=[], help="a LOSS name; the adaptive")
    parser.add_argument("--case", action="append", default=[], help="such as acdc,unet")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(args)
    torch.set_num_threads(given.threads)
    names = ["mbls", *(given.loss or ADAPTIVE)]
    if unknown := sorted(set(names) - set(choices("loss"))):
        parser.error(f"unknown loss {', '.join(unknown)}")
    table = Table(title=f"Training steps, {given.threads} threads, median of {given.rounds} rounds")
    for head in ("batch", "loss", "ms a step", "of the loss", "times mbls"):
        table.add_column(head, justify="left" if head in ("batch", "loss") else "right")
    for case in CASES:
        if given.case and f"{case.dataset},{case.network}" not in given.case:
            continue
        found = measure(case, names, given.rounds)
        for name, seconds in found.items():
            ratio = statistics.median(
                mine / theirs for (mine, _), (theirs, _) in zip(seconds, found["mbls"], strict=True)
            )
            whole, loss = (statistics.median(times) for times in zip(*seconds, strict=True))
            table.add_row(
                f"{case.dataset} {case.network} {case.shape}" if name == "mbls" else "",
                name,
                f"{1000 * whole:.0f}",
                f"{1000 * loss:.1f}",
                f"{ratio:.3f}",
            )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
