"""Tests of made-up patients: two cases each, a union, margins, phases."""

from typing import Any

import torch

from mbls.decisions.quantities import Quantity
from mbls.evaluation import TestRun
from mbls.metrics import CalibrationHistogram, DiceScore
from mbls.metrics.margins import MarginCounts

UNIONS = {"heart": (1, 2)}
SPACING = (1.5, 2.0, 4.0)
QUANTITIES = [
    {"name": "EF", "unit": "%", "sum": {"myo ED": 100, "myo ES": -100}, "over": {"myo ED": 1}},
    {"name": "mass", "unit": "g", "sum": {"rv ED": 1.05}},
]


def volumes(cases: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of two overlapping balls of random size, and labels drawn from them."""
    generator = torch.Generator().manual_seed(first)
    axes = torch.meshgrid(*(torch.arange(n) - n / 2 + 0.5 for n in (14, 12, 6)), indexing="ij")
    radius = torch.stack([axes[0] ** 2 + axes[1] ** 2, axes[2] ** 2 * 4]).sum(0).sqrt()
    sizes = 2 + 2.5 * torch.rand(cases, generator=generator)
    outer = torch.stack([torch.sigmoid(1.5 * (size + 1.5 - radius)) for size in sizes])
    inner = torch.stack([torch.sigmoid(1.5 * (size - 1 - radius)) for size in sizes])
    probs = torch.stack([1 - outer, outer * (1 - inner), outer * inner], dim=1)
    shift = 0.8 * torch.randn(cases, 1, 1, 1, generator=generator)
    rolled = (probs.log() + shift[:, None] * torch.tensor([-1.0, 1, 1]).view(1, 3, 1, 1, 1)).exp()
    rows = rolled.movedim(1, -1).reshape(-1, 3)
    label = torch.multinomial(rows, 1, generator=generator).view(cases, 14, 12, 6)
    label[:, 0] = -100
    return probs, label


def run_of(patients: int, *, first: int = 0, **meta: Any) -> TestRun:
    """Return the counts of patients ``p<first>``, ... with the cases ED and ES."""
    cases = 2 * patients
    probs, label = volumes(cases, first)
    where = {"spacing": torch.tensor([SPACING] * cases), "index": torch.arange(cases)}
    metrics = [
        CalibrationHistogram(3, unions=UNIONS, num_cases=cases),
        DiceScore(3, unions=UNIONS, num_cases=cases),
        MarginCounts(3, cases, unions=UNIONS),
    ]
    for metric in metrics:
        metric.update(probs, label, **where)
    names = [f"p{first + n // 2}_{('ED', 'ES')[n % 2]}" for n in range(cases)]
    about = {
        "dataset": "acdc", "origin": "phantom", "class_names": ["background", "RV", "MYO"],
        "class_keys": ["bg", "rv", "myo"], "phases": ["ED", "ES"] * patients,
        "quantities": QUANTITIES, "grid": "native", "probabilities": "abc",
    }  # fmt: skip
    histogram, dice, margins = metrics
    return TestRun.of(
        histogram, dice, margins=margins, cases=names,
        patients=[name.partition("_")[0] for name in names], meta=about | meta,
        voxel_ml=torch.tensor(SPACING, dtype=torch.float64).prod().expand(cases).numpy() / 1000,
    )  # fmt: skip


def poisoned(one: Quantity) -> Quantity:
    """The same with labels of no use."""
    return Quantity(
        one.name, one.unit, one.rows, one.patients, one.expected, one.predicted,
        one.labeled * 0 + 1e6, one.scale,
    )  # fmt: skip
