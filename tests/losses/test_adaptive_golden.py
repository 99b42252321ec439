"""Multipliers over epochs, penalties and constraints that the published code gave, in float64."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mbls.losses import (
    AdaFocalLoss,
    AdaptiveLoss,
    ClassAdaptiveMarginLoss,
    HeuristicMarginLoss,
    NeighborConstraint,
    RegionAdaptiveLoss,
    neighbor_proportions,
)
from mbls.losses._neighborhood import mixed_windows
from mbls.losses.adaptive import adafocal
from mbls.losses.adaptive.penalty_functions import p2, p3, phr
from tests.losses.test_golden import FOLDER, read

CASES = {case["name"]: case for case in json.loads((FOLDER / "adaptive.json").read_text())}

Settings = dict[str, Any]
Arrays = dict[str, np.ndarray]


def names(kind: str) -> list[str]:
    return [name for name, case in CASES.items() if case["kind"] == kind]


def load(name: str) -> tuple[dict[str, Any], Arrays]:
    case = CASES[name]
    return case, read(f"losses_{case['npz']}")


def lagrangian(s: Settings) -> dict[str, Any]:
    same = {key: s[key] for key in ("penalty", "rho_min", "rho_max", "rho_step", "gamma")}
    return same | {"tau": s["tao"], "lambda_min": s["lambd_min"], "lambda_max": s["lambd_max"],
                   "lambda_step": s["lambd_step"]}  # fmt: skip


def build(method: str, s: Settings) -> AdaptiveLoss:
    if method == "cals_hr":
        return HeuristicMarginLoss(
            4, s["margin"], alpha=s["alpha"], gamma=s["gamma"], tau=s["tao"], step=s["step_size"],
            lambda_min=s["lambd_min"], lambda_max=s["lambd_max"],
        )  # fmt: skip
    if method == "cals_alm":
        return ClassAdaptiveMarginLoss(4, s["margin"], normalize=s["normalize"], **lagrangian(s))
    if method == "crac":
        return RegionAdaptiveLoss(
            4, s["margin"], statistics="all", border="background", **lagrangian(s)
        )
    return AdaFocalLoss(
        s["num_bins"], rate=s["adafocal_lambda"], gamma=s["gamma_initial"], switch=s["switch_pt"],
        gamma_min=s["gamma_min"], gamma_max=s["gamma_max"],
    )  # fmt: skip


def batches(case: dict[str, Any], arrays: Arrays, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    inputs = case["inputs"]
    logits_name = inputs.get("logits_pattern", inputs.get("validation_logits_pattern"))
    labels_name = inputs.get("target_pattern", inputs.get("validation_labels_pattern"))
    for batch in range(inputs.get("batches_per_epoch", 1)):
        place = {"epoch": epoch, "batch": batch}
        logits = torch.from_numpy(arrays[logits_name.format(**place)]).double()
        target = torch.zeros((logits.shape[0], *logits.shape[2:]), dtype=torch.long)
        if labels_name:
            target = torch.from_numpy(arrays[labels_name.format(**place)])
        yield logits, target


STATES = {"lambda": "multipliers", "rho": "weights", "gamma": "gammas", "edges": "edges"}
MEANS = {"mean_constraint": "previous", "score": "previous"}


@pytest.mark.parametrize("name", names("multiplier_trajectory"))
def test_trajectory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in force before each epoch's training, and the means that made it so."""
    monkeypatch.setattr(adafocal, "CELLS", 1 << 21)  # so that each sample has its own
    case, arrays = load(name)
    loss = build(case["method"], case["hyperparameters"])
    wanted = {key: arrays[value] for key, value in case["outputs"].items()}

    def meet(key: str, buffer: str, epoch: int) -> None:
        found = getattr(loss, buffer).flatten().numpy()
        np.testing.assert_allclose(
            found, wanted[key][epoch], err_msg=f"{key} {epoch}", **case["suggested_tolerance"]
        )

    for key in STATES.keys() & wanted:
        meet(key, STATES[key], 0)
    for epoch in range(case["hyperparameters"]["epochs"]):
        for number, (logits, target) in enumerate(batches(case, arrays, epoch)):
            if "penalty_per_batch_before_update" in wanted:
                penalty = loss.terms(logits, target)["margin"].item()
                stored = wanted["penalty_per_batch_before_update"][epoch][number]
                assert penalty == pytest.approx(stored, rel=1e-7)
            loss.observe(logits, target)
        loss.adapt()
        for key in STATES.keys() & wanted:
            meet(key, STATES[key], epoch + 1)
        for key in MEANS.keys() & wanted:
            meet(key, MEANS[key], epoch)


@pytest.mark.parametrize("name", [name for name in names("multiplier_trajectory") if "ada" in name])
def test_adafocal_while_it_adapts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training loss under each epoch's exponents, and the last one's gradient."""
    monkeypatch.setattr(adafocal, "CELLS", 1 << 21)
    case, arrays = load(name)
    loss = build(case["method"], case["hyperparameters"])
    logits = torch.from_numpy(arrays[case["inputs"]["train_logits"]]).double().requires_grad_()
    target = torch.from_numpy(arrays[case["inputs"]["train_target"]])
    wanted = arrays[case["outputs"]["train_loss"]]
    for epoch in range(len(wanted)):
        value = loss(logits, target) * target.numel()
        assert value.item() == pytest.approx(wanted[epoch], rel=1e-9)
        if epoch + 1 < len(wanted):
            loss.observe(*next(batches(case, arrays, epoch)))
            loss.adapt()
    value.backward()
    stored = arrays[case["outputs"]["train_grad"]]
    np.testing.assert_allclose(logits.grad.numpy(), stored, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", names("penalty_function"))
def test_penalty_and_its_derivative(name: str) -> None:
    case, arrays = load(name)
    penalty = {"p2": p2, "p3": p3, "phr": phr}[name.removeprefix("penalty_table_")]
    h = torch.from_numpy(arrays["penalty_table_h"]).requires_grad_()
    for row, pair in enumerate(case["hyperparameters"]["lambda_rho_rows"]):
        value, slope = penalty(h, *torch.tensor(pair, dtype=torch.float64))
        (derivative,) = torch.autograd.grad(value.sum(), h)
        for found, key in ((value, "value"), (slope, "derivative"), (derivative, "derivative")):
            stored = arrays[case["outputs"][key]][row]
            if found is derivative:  # at h = 0 exactly two pieces meet
                found, stored = found[h != 0], stored[h.detach().numpy() != 0]
            found = found.detach().numpy()
            np.testing.assert_allclose(found, stored, **case["suggested_tolerance"])


@pytest.mark.parametrize("name", names("constraints"))
def test_constraints(name: str) -> None:
    case, arrays = load(name)
    out, close = case["outputs"], case["suggested_tolerance"]
    logits, target = (torch.from_numpy(arrays[key]) for key in ("logits", "target"))
    boundary = mixed_windows(target, border="background")
    np.testing.assert_array_equal(boundary.numpy(), arrays[out["region_exact"]] != 0)
    tau = neighbor_proportions(target, 4, border="background", dtype=torch.float64)
    np.testing.assert_allclose(tau.numpy(), arrays[out["tau"]], **close)
    constraint = NeighborConstraint(case["hyperparameters"]["margin"])
    h = constraint.values(logits.double(), constraint.goal(tau, boundary))
    stored = arrays[out["constraints_with_exact_region"]]
    np.testing.assert_allclose(h.numpy(), stored, **close)


def test_every_case_is_met() -> None:
    kinds = ("multiplier_trajectory", "penalty_function", "constraints")
    assert sorted(len(names(kind)) for kind in kinds) == [2, 3, 13]
    assert len(CASES) == 18
