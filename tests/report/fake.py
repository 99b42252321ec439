"""Run folders without a training: made-up predictions, real files."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml

from mbls.evaluation import TestRun
from mbls.evaluation.results import to_json
from mbls.metrics import CalibrationHistogram, DiceScore
from mbls.metrics.bootstrap import patient_weights
from mbls.plots.worst_cases import Picture, save_pictures
from mbls.report.analysis import Analysis, analyze
from mbls.report.groups import Group, groups_of
from mbls.report.runs import LeftOut, find_runs

DRAWS = 200  # of patients: enough for these tests, and quick
CLASSES = ["background", "right ventricle", "myocardium"]


def predictions(
    case: int, *, seed: int, sharpness: float, noise: float
) -> tuple[torch.Tensor, ...]:
    """Probabilities, labels and the labels' distribution of a volume; all runs share the labels."""
    world = torch.Generator().manual_seed(case)
    shift = torch.randn(1, generator=world)
    known = torch.randn(1, 3, 6, 6, 3, generator=world).mul(2).add(0.3 * shift).softmax(1)
    label = torch.multinomial(known[0].flatten(1).T, 1, generator=world).view(1, 6, 6, 3)
    run = torch.Generator().manual_seed(1000 * seed + case)
    logits = known.log() * sharpness + noise * torch.randn(known.shape, generator=run)
    return logits.softmax(1), label, known


def distances(seed: int, cases: int) -> np.ndarray:
    """Surface distances of each case and class, the background's unknown."""
    found = np.random.default_rng(seed).uniform(1, 9, (cases, len(CLASSES)))
    found[:, 0] = np.nan
    return found


def worst(case: str, seed: int) -> Picture:
    """A picture of a case with a shifted prediction."""
    label = np.zeros((24, 20), np.uint8)
    label[6:16, 5:14], label[9:13, 8:11] = 1, 2
    image = label + np.random.default_rng(seed).normal(0, 0.3, label.shape)
    confidence = np.random.default_rng(seed).uniform(0.4, 1, label.shape).astype(np.float16)
    return Picture(
        0, case, 0.4, 1, (1.5, 1.5), image.astype(np.float16), label, np.roll(label, 2 + seed, 0),
        confidence,
    )  # fmt: skip


@cache
def count_test(
    make: Callable[..., tuple[torch.Tensor, ...]], names: tuple[str, ...], seed: int, first: int,
    patients: int, surfaces: tuple[str, ...], **shape: float,
) -> tuple[TestRun, dict[str, Any]]:  # fmt: skip
    """Count the predictions of ``make``; return the test and its summary, without meta."""
    cases = [f"p{p}_{frame}" for p in range(first, first + patients) for frame in ("ED", "ES")]
    made = [make(2 * first + n, seed=seed, **shape) for n in range(len(cases))]
    probs, label, known = (torch.cat(parts) for parts in zip(*made, strict=True))
    histogram = CalibrationHistogram(3, num_cases=len(cases))
    dice = DiceScore(3, num_cases=len(cases))
    histogram.update(probs, label, index=torch.arange(len(cases)), posterior=known)
    dice.update(probs, label, index=torch.arange(len(cases)))
    tested = TestRun(
        histogram.bins(), dice.counts.numpy(), cases, [case.partition("_")[0] for case in cases],
        {"dataset": "acdc", "origin": "phantom", "class_names": list(names)},
        {name: distances(seed, len(cases)) for name in surfaces},
    )  # fmt: skip
    with patch("mbls.evaluation.summary.patient_weights", partial(patient_weights, draws=DRAWS)):
        return tested, tested.summary()


def write_run(
    root: Path,
    loss: str = "ce",
    seed: int = 0,
    *,
    settings: dict[str, Any] | None = None,
    patients: int = 8,
    first: int = 0,
    sharpness: float = 1.5,
    noise: float = 0.5,
    meta: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
    tag: str = "best",
    surfaces: tuple[str, ...] = (),
    pictures: bool = False,
) -> Path:
    """Write a run folder ``root/unet-<loss>/seed<k>`` and return it; a patient has two cases.

    ``first`` is the first patient's number, ``surfaces`` names distances that the test measured,
    ``pictures`` keeps those of worst cases; a ``fold`` in ``card`` names the folder too.
    """
    fold = (card or {}).get("fold")
    leaf = f"seed{seed}" if fold is None else f"seed{seed}-fold{fold}"
    folder = root / f"unet-{loss}" / leaf
    test = folder / "test" / tag
    test.mkdir(parents=True, exist_ok=True)
    about = {
        "dataset": "acdc", "network": "unet", "loss": loss, "seed": seed, "origin": "phantom",
        "data_fingerprint": "f" * 64, "class_names": CLASSES, "class_keys": ["bg", "rv", "myo"],
        "tag": tag, "grid": "preprocessed", "mirror": [],
    } | (meta or {})  # fmt: skip
    tested, summary = count_test(
        predictions, tuple(about["class_names"]), seed, first, patients, surfaces,
        sharpness=sharpness, noise=noise,
    )  # fmt: skip
    tested = replace(tested, meta=about)
    if pictures:
        save_pictures(test / "worst.npz", [worst(tested.cases[0], seed)])
    tested.save(test / "bins.npz")
    counted = {name: value for name, value in summary["meta"].items() if name not in about}
    (test / "metrics.json").write_text(to_json(summary | {"meta": about | counted}))
    (test / "cases.csv").write_text(tested.csv())
    arguments = {"alpha": 0.1, "ignore_index": -100} | (settings or {})
    content = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 3, "devices": 1},
        "model": {"loss": {"class_path": f"my.{loss.partition(',')[0]}", "init_args": arguments},
                  "network": {"class_path": "UNet", "init_args": {"channels": [4, 8]}}},
        "checkpoint": {"select": "dice", "monitor": None},
        "data": {"class_path": "Data", "init_args": {"root": None, "batch_size": 4}},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(content | (config or {})))
    facts = {
        "dataset": "acdc", "network": "unet", "loss": loss, "seed": seed, "preset": "quick",
        "fold": None, "data_origin": "phantom", "finished": True, "commit": "abc",
        "command": f"mbls train --dataset acdc --loss {loss} --seed {seed}", "wall_seconds": 1.0,
        "epochs": 3, "adapts_on": None, "versions": {"torch": "2"},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts | (card or {})))
    (folder / "metrics.csv").write_text(
        "epoch,step,val/dice,val/dice_se,val/ece,val/nll\n"
        "0,9,0.60,0.02,0.09,0.40\n1,19,0.70,0.02,0.03,0.30\n2,29,0.71,0.02,0.05,0.35\n"
    )
    return folder


def grouped(*roots: Path) -> tuple[list[Group], list[LeftOut]]:
    """Return the groups of all finished runs, and the runs that these leave out."""
    return groups_of(find_runs(roots)[0])


def group_of(*roots: Path) -> Group:
    """Return the only group of all finished runs."""
    (group,), _ = grouped(*roots)
    return group


def analysis_of(*roots: Path) -> Analysis:
    """Return the analysis of the only group of all finished runs."""
    return analyze(group_of(*roots), draws=DRAWS)
