"""Time and memory of every loss against cross-entropy.

``python -m experiments.benchmarks.losses [--loss mbls --loss nacl] [--shape 2,4,96,96,96]``

Forward plus backward, in rounds that call each loss once, so that a busy machine slows them all;
the median over rounds. Memory is the peak without the logits and labels. The peers are the plain
formula of MbLS, MbLS on permuted and flattened logits as it is usually written, and MONAI's NACL.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from jsonargparse import ArgumentParser
from monai.losses import NACLLoss
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # its chatter is read at the first profile

__all__ = ["Loss", "configured_losses", "measure", "peak_bytes", "peers"]

SHAPES = ((16, 4, 192, 192), (2, 4, 96, 96, 96), (2, 15, 96, 96, 96))
CONFIGS = Path(__file__).parents[1] / "configs" / "loss"
BINARY = ("unified_focalpp",)

Loss = Callable[[Tensor, Tensor], Tensor]


def flattened_margin(logits: Tensor, target: Tensor) -> Tensor:
    """MbLS as it is usually written: classes last, voxels in rows, ignored rows dropped."""
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    labels = target.reshape(-1)
    index = torch.nonzero(labels != -100).squeeze(1)
    rows, labels = rows[index], labels[index]
    gap = rows.max(dim=1, keepdim=True).values - rows
    return F.cross_entropy(rows, labels) + 0.1 * F.relu(gap - 5.0).mean()


def plain_margin(logits: Tensor, target: Tensor) -> Tensor:
    """MbLS by its formula, classes first, every gradient autograd's own."""
    distance = logits.amax(dim=1, keepdim=True) - logits
    return F.cross_entropy(logits, target) + 0.1 * (distance - 5.0).clamp_min(0).mean()


def peers(dims: int, num_classes: int) -> dict[str, Loss]:
    """Return cross-entropy, then what others write."""
    found: dict[str, Loss] = {
        "F.cross_entropy": F.cross_entropy,
        "MbLS, flattened": flattened_margin,
        "MbLS, plain formula": plain_margin,
    }
    if dims in (2, 3):
        found["NACL, MONAI"] = NACLLoss(num_classes, dims, alpha=0.1)
    return found


def configured_losses(names: Sequence[str] = ()) -> dict[str, Loss]:
    """Return each LOSS=name, all of them where none is named."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "loss")
    found = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        if names and path.stem not in names:
            continue
        config = yaml.safe_load(path.read_text())["model"]
        found[path.stem] = parser.instantiate(parser.parse_object(config)).loss
    return found


def measure(
    losses: dict[str, Loss], logits: Tensor, target: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Return each loss's seconds for forward plus backward, one number a round."""
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(-1, rounds):
        for name, loss in losses.items():
            logits.grad = None
            start = time.perf_counter()
            loss(logits, target).backward()
            if turn >= 0:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes(loss: Loss, logits: Tensor, target: Tensor) -> int:
    """Return the most bytes alive at once during forward plus backward, without the inputs."""
    logits.grad = None
    with torch.profiler.profile(profile_memory=True) as profile:
        loss(logits, target).backward()
    alive = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def table(shape: tuple[int, ...], chosen: list[str], rounds: int) -> Table:
    """Measure the chosen losses (all where none is) and the peers on one shape."""
    losses = peers(len(shape) - 2, shape[1]) | {
        name: loss
        for name, loss in configured_losses().items()
        if (not chosen or name in chosen) and (shape[1] == 2 or name not in BINARY)
    }
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape)).requires_grad_()
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    seconds = measure(losses, logits, target, rounds)
    memory = {name: peak_bytes(loss, logits, target) for name, loss in losses.items()}
    base = next(iter(losses))
    title = f"{shape}, float32, {torch.get_num_threads()} threads, median of {rounds} rounds"
    found = Table(title=title)
    for head in ("loss", "ms", "times cross-entropy", "peak MB", "times its peak"):
        found.add_column(head, justify="left" if head == "loss" else "right")
    for name in losses:
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(seconds[name], seconds[base], strict=True)
        )
        found.add_row(
            name,
            f"{1000 * statistics.median(seconds[name]):.1f}",
            f"{ratio:.2f}",
            f"{memory[name] / 1e6:.0f}",
            f"{memory[name] / memory[base]:.2f}",
        )
    return found


def main(args: list[str]) -> int:
    """Print one table a shape."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--loss", action="append", default=[], help="a LOSS name; all by default")
    parser.add_argument("--shape", action="append", default=[], help="such as 2,4,96,96,96")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(args)
    known = set(configured_losses())
    if unknown := sorted(set(given.loss) - known):
        parser.error(f"unknown loss {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    torch.set_num_threads(given.threads)
    shapes = [tuple(int(size) for size in shape.split(",")) for shape in given.shape]
    for shape in shapes or SHAPES:
        Console().print(table(shape, given.loss, given.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
