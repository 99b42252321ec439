"""A plain PyTorch loop: MbLS and CALS on an image classifier, with ECE.

The same classes as for segmentation, on logits ``(N, C)``. A small network learns scikit-learn's
8 x 8 digits from 300 noisy images until it knows them by heart, which makes cross-entropy
overconfident on others; margins take most of that away, and two or three points of accuracy.
Run it with ``python -m experiments.examples.digits``.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mbls.losses import ClassAdaptiveMarginLoss, CrossEntropyLoss, Loss, MarginLoss
from mbls.metrics import CalibrationHistogram, estimate

CLASSES = 10
NOISE = 0.4  # standard deviation; ink is 1
LOSSES: dict[str, Callable[[], Loss]] = {
    "cross-entropy": CrossEntropyLoss,
    "MbLS, margin 6": lambda: MarginLoss(margin=6.0, alpha=0.1),
    "CALS, margin 6": lambda: ClassAdaptiveMarginLoss(num_classes=CLASSES, margin=6.0),
}


@dataclass(frozen=True)
class Part:
    """Images ``(N, 64)`` and their classes ``(N,)``."""

    image: Tensor
    label: Tensor


def digits(seed: int) -> dict[str, Part]:
    """Return 300 images to train on, 300 to validate, and the rest to test, all noisy.

    Without the noise cross-entropy is nearly calibrated here, and margins make it underconfident.
    """
    generator = torch.Generator().manual_seed(seed)
    image, label = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(label), generator=generator)
    parts = zip(("train", "val", "test"), order.tensor_split([300, 600]), strict=True)
    image = image.float() / 16
    image += NOISE * torch.randn(image.shape, generator=generator)
    return {name: Part(image[at], label[at].long()) for name, at in parts}


def network() -> nn.Module:
    """Return a small classifier."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def train(loss: Loss, data: dict[str, Part], *, seed: int, epochs: int) -> nn.Module:
    """Train a classifier; an adaptive loss sees the validation images after each epoch."""
    torch.manual_seed(seed)
    net, part = network(), data["train"]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        net.train()
        for batch in torch.randperm(len(part.label)).split(50):
            optimizer.zero_grad()
            loss(net(part.image[batch]), part.label[batch]).backward()
            optimizer.step()
        if loss.adaptive:
            net.eval()
            with torch.no_grad():
                loss.observe(net(data["val"].image), data["val"].label)
            loss.adapt()
    return net


@torch.no_grad()
def score(net: nn.Module, part: Part) -> dict[str, float]:
    """Return accuracy, ECE and its sign: confidence minus accuracy."""
    probs = net.eval()(part.image).softmax(1)
    histogram = CalibrationHistogram(CLASSES)
    histogram.update(probs, part.label)
    accuracy = (probs.argmax(1) == part.label).double().mean().item()
    values = {name: estimate(histogram.bins(), name)[0] for name in ("ece", "signed")}
    return {"accuracy": accuracy, **values}


def compare(seeds: Sequence[int], epochs: int) -> dict[str, dict[str, list[float]]]:
    """Return the scores of each loss, a value a seed."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in LOSSES}
    for seed in seeds:
        data = digits(seed)
        for name, make in LOSSES.items():
            net = train(make(), data, seed=seed, epochs=epochs)
            for metric, value in score(net, data["test"]).items():
                scores[name].setdefault(metric, []).append(value)
    return scores


def table(scores: dict[str, dict[str, list[float]]]) -> Table:
    """Return mean and standard deviation over seeds."""
    seeds = len(next(iter(scores.values()))["ece"])
    shown = Table(
        title=f"scikit-learn's digits with noise, test images; mean and sd of {seeds} seeds"
    )
    shown.add_column("loss")
    for heading in ("accuracy", "ECE, 15 bins", "confidence - accuracy"):
        shown.add_column(heading, justify="right")
    for name, values in scores.items():
        cells = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}" for v in values.values()]
        shown.add_row(name, *cells)
    return shown


def main(args: Sequence[str] | None = None) -> None:
    """Train each loss with each seed and print the table."""
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("--seeds", type=int, default=5, help="how many, at least 2 (default: 5)")
    p.add_argument("--epochs", type=int, default=30)
    options = p.parse_args(args)
    if options.seeds < 2:
        p.error(f"--seeds must be at least 2, got {options.seeds}")
    Console().print(table(compare(range(options.seeds), options.epochs)))


if __name__ == "__main__":
    main()
