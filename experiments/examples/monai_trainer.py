"""MONAI's SupervisedTrainer and SupervisedEvaluator with our loss and our metric.

A tiny U-Net learns to find discs whose labeled border is uncertain, from few images, which makes
cross-entropy overconfident there. Run it with ``python -m experiments.examples.monai_trainer``.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from ignite.metrics import Metric as IgniteMetric
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from mbls.losses import CrossEntropyLoss, Loss, MarginLoss
from mbls.metrics import ExpectedCalibrationError

CLASSES = 2
LOSSES: dict[str, Callable[[], Loss]] = {
    "cross-entropy": CrossEntropyLoss,
    "MbLS, margin 4": lambda: MarginLoss(margin=4.0, alpha=0.1),
}


class Calibration(IgniteMetric):
    """One of our metrics in an ignite engine: softmax, then ``update(probs, target)``."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self) -> None:
        """Forget all voxels."""
        self.metric.reset()

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add a batch: logits ``(N, C, *S)`` and labels ``(N, 1, *S)``, as MONAI has them."""
        logits, label = output
        self.metric.update(logits.softmax(1), label.squeeze(1).long())

    def compute(self) -> float:
        """Return the value over all voxels since the reset."""
        return float(self.metric.compute())


def discs(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Return noisy discs ``(1, 32, 32)`` whose label has a radius of its own, 15 % off."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(32.0)
    items = []
    for _ in range(count):
        center = 10 + 12 * torch.rand(2, generator=generator)
        far = ((axis[:, None] - center[0]) ** 2 + (axis[None] - center[1]) ** 2).sqrt()
        radius = 5 + 4 * torch.rand((), generator=generator)
        noise = 0.5 * torch.randn(far.shape, generator=generator)
        labeled = radius * (1 + 0.15 * torch.randn((), generator=generator))
        image, label = (far < radius).float() + noise, (far < labeled).float()
        items.append({"image": image[None], "label": label[None]})
    return items


def train(loss: Loss, *, seed: int, epochs: int) -> nn.Module:
    """Train a U-Net in MONAI's trainer."""
    torch.manual_seed(seed)
    net = UNet(2, 1, CLASSES, channels=(8, 16, 32), strides=(2, 2), num_res_units=0)
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(discs(12, seed)), batch_size=4, shuffle=True),
        network=net,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-2),
        loss_function=loss,
    ).run()
    return net


def score(net: nn.Module, *, seed: int) -> dict[str, float]:
    """Score it in MONAI's evaluator, which could also save the best model by ``ece``."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(discs(60, 1000 + seed)), batch_size=10),
        network=net,
        key_val_metric={"ece": Calibration(ExpectedCalibrationError(CLASSES))},
        additional_metrics={"dice": MeanDice(False, output_transform=maps)},  # MONAI's own
        metric_cmp_fn=lambda now, best: now < best,
        decollate=False,
    )
    evaluator.run()
    return {name: float(evaluator.state.metrics[name]) for name in ("dice", "ece")}


def maps(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return prediction and label one-hot, as MONAI's Dice wants them."""
    predicted = output["pred"].argmax(1, keepdim=True)
    return one_hot(predicted, CLASSES), one_hot(output["label"], CLASSES)


def compare(seeds: Sequence[int], epochs: int) -> dict[str, dict[str, list[float]]]:
    """Return the scores of each loss, a value a seed."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in LOSSES}
    for seed in seeds:
        for name, make in LOSSES.items():
            for metric, value in score(train(make(), seed=seed, epochs=epochs), seed=seed).items():
                scores[name].setdefault(metric, []).append(value)
    return scores


def table(scores: dict[str, dict[str, list[float]]]) -> Table:
    """Return mean and standard deviation over seeds."""
    seeds = len(next(iter(scores.values()))["ece"])
    shown = Table(title=f"synthetic discs, 60 test images; mean and sd of {seeds} seeds")
    shown.add_column("loss")
    for heading in ("Dice", "ECE, 15 bins"):
        shown.add_column(heading, justify="right")
    for name, values in scores.items():
        cells = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}" for v in values.values()]
        shown.add_row(name, *cells)
    return shown


def main(args: Sequence[str] | None = None) -> None:
    """Train each loss with each seed in MONAI's trainer and print the table."""
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("--seeds", type=int, default=3, help="how many, at least 2 (default: 3)")
    p.add_argument("--epochs", type=int, default=30)
    options = p.parse_args(args)
    if options.seeds < 2:
        p.error(f"--seeds must be at least 2, got {options.seeds}")
    Console().print(table(compare(range(options.seeds), options.epochs)))


if __name__ == "__main__":
    main()
