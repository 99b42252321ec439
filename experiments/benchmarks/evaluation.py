"""Evaluation of a volume, inference excluded: ours against the published way.

``python -m experiments.benchmarks.evaluation`` scores the softmax of a volume of ACDC's size and of
one of BraTS's that is cropped to a brain (``--shape 240,240,155`` is a whole one). The published
way takes labeled voxels, selects the voxels of each bin in turn, once for ECE and once
a class for class-wise ECE, and then a Dice a class. Ours fills the histogram
and the Dice counts that the same numbers (protocol ``murugesan-med``; they are compared first) come
from, out of the same voxels. Then both do so for the three regions by label and prediction (all
voxels, labeled foreground, label or prediction), one more than validation counts. The last row is
all that a test run scores: five regions, the fine histogram, HD95 and NSD.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mbls.evaluation import PROTOCOLS, protocol_values
from mbls.metrics import (
    REGIONS,
    CalibrationHistogram,
    DiceScore,
    FineHistogram,
    HausdorffDistance95,
    NormalizedSurfaceDice,
)
from mbls.metrics.dice import dice_scores

N_BINS = 15
PROTOCOL = next(p for p in PROTOCOLS if p.name == "murugesan-med")
Numbers = dict[str, float]


def make_volume(shape: Sequence[int], classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return probabilities ``(1, C, *S)`` and labels ``(1, *S)``: shells, a twelfth foreground."""
    generator = torch.Generator().manual_seed(seed)
    axes = [torch.linspace(-1, 1, n) for n in shape]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    limits = 0.55 * (torch.arange(classes - 1, 0, -1) / (classes - 1)).sqrt()
    target = torch.stack([radius < limit for limit in limits]).sum(0)
    logits = torch.stack([-20 * (radius - 0.02 - r).abs() for r in (0.9, *limits.tolist())])
    logits += torch.randn(logits.shape, generator=generator)
    return logits.softmax(0)[None], target[None]


def published(probs: Tensor, target: Tensor) -> Numbers:
    """ECE, class-wise ECE and Dice by a selection for each bin, class and number."""
    found = _looped(probs, target, target != 0)
    chosen = probs.argmax(1)
    for k in range(1, probs.shape[1]):
        mine, theirs = chosen == k, target == k
        both, total = (mine & theirs).sum(), mine.sum() + theirs.sum()
        found[f"dice/{k}"] = round(float(2 * both / total) if theirs.any() else 1.0, 4)
    return found


def published_in_three_regions(probs: Tensor, target: Tensor) -> Numbers:
    """The same over all voxels and over label or prediction too."""
    _looped(probs, target, torch.ones_like(target, dtype=torch.bool))
    _looped(probs, target, (target != 0) | (probs.argmax(1) != 0))
    return published(probs, target)


def _looped(probs: Tensor, target: Tensor, keep: Tensor) -> Numbers:
    rows, labels = probs.movedim(1, -1)[keep], target[keep]
    top, predicted = rows.max(1)
    seen = int(labels.max()) + 1
    errors = [_looped_error(rows[:, k], labels == k) for k in range(seen)]
    error = _looped_error(top, predicted == labels)
    return {"ece": round(error, 4), "cece": round(sum(errors) / seen, 4)}


def _looped_error(confidence: Tensor, hits: Tensor) -> float:
    edges = torch.linspace(0, 1, N_BINS + 1)
    error = torch.zeros(1)
    for low, high in itertools.pairwise(edges):
        inside = confidence.gt(low) & confidence.le(high)
        share = inside.float().mean()
        if share > 0:
            error += (confidence[inside].mean() - hits[inside].float().mean()).abs() * share
    return float(error)


def ours(probs: Tensor, target: Tensor) -> Numbers:
    """Return the same numbers, from a histogram of the labeled voxels and integer counts."""
    where = target[0].reshape(-1).nonzero().squeeze(1)
    flat = probs.reshape(1, probs.shape[1], -1).index_select(2, where)
    return _numbers(flat, target.reshape(1, -1)[:, where], probs, target)


def ours_in_three_regions(probs: Tensor, target: Tensor) -> Numbers:
    """Return the same numbers, from a histogram with three regions."""
    return _numbers(probs, target, probs, target)


def _numbers(counted: Tensor, labels: Tensor, probs: Tensor, target: Tensor) -> Numbers:
    classes = probs.shape[1]
    index = torch.zeros(1, dtype=torch.long)
    histogram = CalibrationHistogram(classes, num_cases=1)
    dice = DiceScore(classes, num_cases=1)
    histogram.update(counted, labels, index=index)
    dice.update(probs, target, index=index)
    found = {name: float(v[0]) for name, v in protocol_values(histogram.bins(), PROTOCOL).items()}
    scores = np.round(dice_scores(dice.counts.numpy(), absent="one")[0], 4)
    return found | {f"dice/{k}": float(scores[k]) for k in range(1, classes)}


def whole_test(probs: Tensor, target: Tensor) -> Numbers:
    """Fill every state of a test run."""
    settings: dict[str, Any] = {"num_classes": probs.shape[1]}
    metrics = (
        FineHistogram(**settings),
        CalibrationHistogram(regions=REGIONS, num_cases=1, **settings),
        DiceScore(num_cases=1, **settings),
    )
    surfaces = HausdorffDistance95(num_cases=1, **settings)
    where = {"spacing": torch.tensor([[1.5, 1.5, 10.0]]), "index": torch.zeros(1, dtype=torch.long)}
    for metric in metrics:
        metric.update(probs, target, **where)
    measured = surfaces.measure(probs, target, **where)
    for surface_metric in (surfaces, NormalizedSurfaceDice(num_cases=1, **settings)):
        surface_metric.update(probs, target, measured=measured)
    return {}


def check_same(mine: Numbers, theirs: Numbers) -> None:
    """Raise unless the numbers agree to a digit of the last decimal both are rounded to."""
    differing = {k: (mine[k], theirs[k]) for k in theirs if abs(mine[k] - theirs[k]) > 1.01e-4}
    if differing or mine.keys() != theirs.keys():
        raise AssertionError(f"{PROTOCOL.name}: ours and the published way differ: {differing}")


def measure(
    ways: Mapping[str, Callable[[Tensor, Tensor], Numbers]],
    case: tuple[Tensor, Tensor],
    rounds: int,
) -> dict[str, list[float]]:
    """Return each way's seconds of processor, one number a round after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):
        for name, way in ways.items():
            start = time.process_time()
            way(*case)
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Compare numbers, measure, and print one table a volume."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--shape", action="append", default=[], help="such as 216,256,10")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ways = {
        "published": published,
        "ours": ours,
        "published, three regions": published_in_three_regions,
        "ours, three regions": ours_in_three_regions,
        "ours, all that a test scores": whole_test,
    }
    for text in options.shape or ("216,256,10", "140,170,140"):
        shape = tuple(int(size) for size in text.split(","))
        case = make_volume(shape, options.classes)
        for way in (ours, ours_in_three_regions):
            check_same(way(*case), published(*case))
        seconds = measure(ways, case, options.rounds)
        table = Table(title=f"{shape}, {options.classes} classes, {options.threads} threads")
        for head in ("", "ms", "times as fast"):
            table.add_column(head, justify="right" if head else "left")
        for name, found in seconds.items():
            peer = "published, three regions" if "three" in name else "published"
            pairs = zip(seconds[peer], found, strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            table.add_row(name, f"{1000 * statistics.median(found):.1f}", f"{ratio:.1f}")
        Console().print(table)


if __name__ == "__main__":
    main()
