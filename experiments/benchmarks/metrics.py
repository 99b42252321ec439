"""Time and memory of the calibration metrics against torchmetrics, MONAI and a loop over bins.

``python -m experiments.benchmarks.metrics`` prints one table: 11.8 million voxels (a CT of 512 x
512 x 45), 4 classes, 15 bins, 2 threads; medians of interleaved rounds. Regions by distance are
timed apart, against scipy's distance transforms of the same labels. ``--scaling`` adds times over
two decades of voxels and from 2 to 32 classes, ``--output`` a folder for the plot and the numbers.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.metrics import CalibrationErrorMetric
from rich.console import Console
from rich.table import Table
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from mbls.metrics import CalibrationHistogram, estimate
from mbls.metrics.regions import region_masks

N_BINS = 15


def make_case(voxels: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return probabilities ``(1, C, V)`` and labels ``(1, V)``, mostly confident, labels drawn."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.empty(1, classes, voxels)
    target = torch.empty(1, voxels, dtype=torch.long)
    for start in range(0, voxels, 1 << 20):  # in pieces: the memory of the case is all it takes
        part = slice(start, min(start + (1 << 20), voxels))
        size = part.stop - part.start
        logits = torch.randn(classes, size, generator=generator) * 4
        probs[0, :, part] = logits.softmax(0)
        uniform = torch.rand(size, generator=generator)
        cumulated = (logits / 1.5).softmax(0).cumsum(0)
        target[0, part] = (cumulated < uniform).sum(0).clamp_max(classes - 1)
    return probs, target


def ours(probs: Tensor, target: Tensor) -> float:
    """Top label, classes, three regions, NLL and Brier."""
    histogram = CalibrationHistogram(probs.shape[1])
    histogram.update(probs, target)
    return estimate(histogram.bins(), "ece", n_bins=N_BINS)[0]


def torchmetrics_ece(probs: Tensor, target: Tensor) -> float:
    """Top-label ECE, all voxels."""
    metric = MulticlassCalibrationError(probs.shape[1], n_bins=N_BINS, validate_args=False)
    metric.update(probs, target)
    return float(metric.compute())


def monai_ece(probs: Tensor, target: Tensor) -> float:
    """One-against-rest errors, all voxels."""
    metric = CalibrationErrorMetric(num_bins=N_BINS, include_background=True)
    one_hot = torch.nn.functional.one_hot(target, probs.shape[1]).movedim(-1, 1)
    metric(y_pred=probs, y=one_hot)
    return float(metric.aggregate())


def loop_over_bins(probs: Tensor, target: Tensor) -> float:
    """Top-label ECE by selecting the voxels of each bin in turn."""
    confidence, predicted = probs.max(1)
    return _selected_error(confidence, (predicted == target).float())


def loop_over_bins_and_classes(probs: Tensor, target: Tensor) -> float:
    """Class-wise ECE by selecting the voxels of each bin and class in turn."""
    classes = range(probs.shape[1])
    errors = [_selected_error(probs[:, k], (target == k).float()) for k in classes]
    return sum(errors) / len(errors)


def _selected_error(confidence: Tensor, hits: Tensor) -> float:
    error = 0.0
    for b in range(N_BINS):
        inside = (confidence > b / N_BINS) & (confidence <= (b + 1) / N_BINS)
        if inside.any():
            gap = hits[inside].mean() - confidence[inside].mean()
            error += float(gap.abs() * inside.float().mean())
    return error


def softmax_alone(probs: Tensor, target: Tensor) -> float:
    """The softmax that any of them needs, for comparison."""
    return float(probs.softmax(1)[0, 0, 0])


def median_times(
    functions: Mapping[str, Callable[..., Any]], case: Any, rounds: int
) -> dict[str, float]:
    """Return each function's median wall time in seconds, round by round after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(*case)
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def make_organs(shape: Sequence[int], classes: int, seed: int = 0) -> Tensor:
    """Return labels ``(1, *S)`` of a CT: an ellipsoid for each class but the background."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(shape)
    places = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1)
    target = torch.zeros(1, *shape, dtype=torch.long)
    for k in range(1, classes):
        center, radii = torch.rand(2, len(shape), generator=generator)
        away = (places - (0.25 + center / 2) * size) / ((0.04 + radii * 0.08) * size)
        target[0, away.square().sum(-1) < 1] = k
    return target


def distance_times(
    rounds: int, shape: Sequence[int] = (256, 256, 60), classes: int = 14
) -> dict[str, float]:
    """Return seconds for the masks of a CT's regions by distance."""
    target, spacing = make_organs(shape, classes), torch.tensor([[1.5, 1.5, 3.0]])

    def masks(*names: str) -> Callable[[], Tensor]:
        margins: dict[str, Any] = {"dilated_mm": 5.0, "boundary_mm": 3.0, "ignore_index": -100}
        return lambda: region_masks(target, spacing, names, **margins)

    def transforms() -> None:
        for k in range(classes):
            distance_transform_edt(target[0].numpy() != k, sampling=spacing[0].numpy())

    functions = {
        "dilated": masks("dilated"),
        "boundary": masks("boundary"),
        "one distance transform of the volume a class": transforms,
    }
    return median_times(functions, (), rounds)


def extra_memory(case: Any) -> float:
    """Return how far one call of ours raises the process's highest memory, in MB.

    Right only for the first call of a process, before anything else had a higher peak.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(*case)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def scaling(rounds: int) -> dict[str, list[tuple[int, float]]]:
    """Return (size, seconds) over voxels at 4 classes and over classes at 1 million voxels."""
    voxels = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
    classes = [2, 4, 8, 16, 32]

    def alone(case: Any) -> float:
        return median_times({"": ours}, case, rounds)[""]

    return {
        "voxels": [(v, alone(make_case(v, 4))) for v in voxels],
        "classes": [(c, alone(make_case(1_000_000, c))) for c in classes],
    }


def scaling_figure(found: dict[str, list[tuple[int, float]]]) -> Figure:
    """Draw seconds against size on logarithmic axes, with a line of slope one."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, points) in zip(figure.subplots(1, 2), found.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        axes.loglog(sizes, seconds, "o-", color="#0072B2", label="measured")
        middle = len(sizes) // 2
        slope = [seconds[middle] * s / sizes[middle] for s in sizes]
        axes.loglog(sizes, slope, "--", color="#555555", label="proportional")
        axes.set(xlabel=name, ylabel="seconds")
        axes.set_xticks(sizes, [f"{s:,}" for s in sizes], fontsize=7)
        axes.set_xticks([], minor=True)
        axes.legend(frameon=False, fontsize=8)
    return figure


def comparison(seconds: dict[str, float], reference: str, title: str, caption: str = "") -> Table:
    """Return a table of times and their ratios to one of them."""
    table = Table(title=title, caption=caption or None)
    for heading in ("", "seconds", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / seconds[reference]:.2f}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--voxels", type=int, default=512 * 512 * 45)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    case = make_case(options.voxels, options.classes)
    memory = extra_memory(case)
    methods: dict[str, Callable[[Tensor, Tensor], float]] = {
        "mbls: ECE, class-wise ECE, NLL, Brier, 3 regions": ours,
        "torchmetrics: ECE": torchmetrics_ece,
        "MONAI: class-wise ECE": monai_ece,
        "loop over bins: ECE": loop_over_bins,
        "loop over bins: class-wise ECE": loop_over_bins_and_classes,
        "softmax alone": softmax_alone,
    }
    seconds = median_times(methods, case, options.rounds)
    distances = distance_times(max(1, options.rounds // 2))
    console = Console()
    title = f"{options.voxels:,} voxels, {options.classes} classes, {options.threads} threads"
    caption = f"mbls: {memory:.0f} MB beyond the case itself"
    console.print(comparison(seconds, "torchmetrics: ECE", title, caption))
    title = "Regions by distance, 256 x 256 x 60 voxels, 14 classes"
    console.print(comparison(distances, "one distance transform of the volume a class", title))
    result: dict[str, Any] = {"settings": vars(options) | {"output": None}, "seconds": seconds}
    result |= {"extra_megabytes": memory, "distance_seconds": distances}
    if options.scaling:
        result["scaling"] = scaling(options.rounds)
        for name, points in result["scaling"].items():
            title = f"Time by number of {name}"
            first, *_ = found = {f"{size:,}": seconds for size, seconds in points}
            console.print(comparison(found, first, title))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
        if options.scaling:
            figure = scaling_figure(result["scaling"])
            figure.savefig(options.output / "metrics_scaling.png", dpi=150)


if __name__ == "__main__":
    main()
