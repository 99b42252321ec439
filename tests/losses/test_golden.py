"""Values and gradients that the published code gave, in float64.

``CLASSES`` says which class meets a method's cases, ``FAULTS`` which cases show a fault of the
published code and are met by an oracle of a few lines instead, ``ELSEWHERE`` what is not here.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mbls.losses import (
    AccuracyConfidenceLoss,
    AdaFocalLoss,
    AdaptiveConditionalSmoothingLoss,
    AdaptiveFocalLoss,
    BinnedCalibrationLoss,
    BrierLoss,
    ClassAdaptiveMarginLoss,
    ClasswiseMeanCalibrationLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceCrossEntropyLoss,
    DiceLoss,
    DicePlusPlusLoss,
    EntropyPenaltyLoss,
    FocalLoss,
    HeuristicMarginLoss,
    KernelCalibrationLoss,
    Loss,
    MarginLoss,
    NeighborAwareLoss,
    PairwiseConstraintLoss,
    RegionAdaptiveLoss,
    SpatialLabelSmoothingLoss,
    UnifiedFocalPlusPlusLoss,
    asymmetric_focal,
    asymmetric_focal_tversky,
    classwise_gap,
    dice_plus_plus,
    neighbor_proportions,
    tversky_plus_plus,
)
from tests.losses import as_coded

FOLDER = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((FOLDER / "losses.json").read_text())}
ELSEWHERE = ("crac_penalty_as_is",)  # with the boundary that rounding made

Settings = dict[str, Any]
Function = Callable[[Tensor, Tensor], Tensor]


def nacl(s: Settings, border: str) -> Loss:
    return NeighborAwareLoss(
        s["alpha"],
        kernel=s["kernel_ops"],
        kernel_size=s["kernel_size"],
        distance=s["distance_type"],
        on="probs" if s.get("is_softmax") else "logits",
        border=border,
    )


def ace(s: Settings, binning: str) -> Loss:
    return BinnedCalibrationLoss(
        binning,
        n_bins=s["num_bins"],
        include_background=s["include_background"],
        ignore_empty_classes=s.get("ignore_empty_classes", True),
    )


def ace_dice_ce(s: Settings, binning: str) -> Loss:
    assert s["dice_params"]["squared_pred"]
    dice = DiceLoss(
        s["dice_params"]["include_background"],
        squared=True,
        smooth_nr=s["dice_params"]["smooth_nr"],
        smooth_dr=s["dice_params"]["smooth_dr"],
    )
    parts = {
        "ace": (s["ace_weight"], ace(s["ace_params"], binning)),
        "dice": (s["dice_weight"], dice),
        "ce": (s["ce_weight"], CrossEntropyLoss()),
    }
    return CompoundLoss(parts)


def margin(s: Settings, **more: Any) -> Loss:
    return MarginLoss(s["margin"], alpha=s["alpha"], ignore_index=s["ignore"], **more)


def focal_tversky(s: Settings) -> Function:
    return lambda p, y: asymmetric_focal_tversky(
        p, y, delta=s["delta"], gamma=s["gamma"], gamma_plus_plus=s["gamma_plus_plus"]
    )


def unified(s: Settings) -> Function:
    """The class on logits; its two functions where the case gives probabilities."""
    if s.get("input") == "softmax(logits)":
        return UnifiedFocalPlusPlusLoss(
            s["weight"], delta=s["delta"], gamma=s["gamma"], gamma_plus_plus=s["gamma_plus_plus"]
        )
    first, second = (1, 1) if s["weight"] is None else (s["weight"], 1 - s["weight"])
    tversky = focal_tversky(s)
    return lambda p, y: (
        first * tversky(p, y)
        + second * asymmetric_focal(p.log(), y, delta=s["delta"], gamma=s["gamma"])
    )


def with_state(loss: Loss, s: Settings, **names: str) -> Loss:
    """Give a loss the multipliers of the case, where it has any."""
    for buffer, name in names.items():
        if name in s["arrays"]:
            values = torch.from_numpy(s["arrays"][name])
            getattr(loss, buffer).copy_(values.reshape(getattr(loss, buffer).shape))
    return loss


def cals_hr(s: Settings) -> Loss:
    loss = HeuristicMarginLoss(4, s["margin"], alpha=s["alpha"], ignore_index=s["ignore"])
    return with_state(loss, s, multipliers="lambda")


def penalty_alone(loss: Loss, name: str) -> Function:
    return lambda z, y: loss.terms(z, y)[name]


def cals(s: Settings) -> Function:
    loss = ClassAdaptiveMarginLoss(4, s["margin"], s["penalty"], normalize=s["normalize"])
    return penalty_alone(with_state(loss, s, multipliers="lambda", weights="rho"), "margin")


def crac(s: Settings) -> Function:
    loss = RegionAdaptiveLoss(4, s["margin"], s["penalty"], border="background")
    return penalty_alone(with_state(loss, s, multipliers="lambda", weights="rho"), "neighbors")


def adafocal(s: Settings) -> Function:
    """The published loss is a sum."""
    loss = AdaFocalLoss(s.get("num_bins") or len(s["gamma"]))
    for buffer in ("gamma", "edges"):
        if buffer in s:
            name = "gammas" if buffer == "gamma" else buffer
            getattr(loss, name).copy_(torch.tensor(s[buffer]))
    return lambda z, y: loss(z, y) * y.numel()


# Published method -> our class (or function, where the case gives probabilities).
CLASSES: dict[str, Callable[[Settings], Function]] = {
    "cross_entropy": lambda s: CrossEntropyLoss(ignore_index=s["ignore"]),
    "label_smoothing": lambda s: CrossEntropyLoss(s["alpha"], ignore_index=s["ignore"]),
    "focal": lambda s: FocalLoss(s["gamma"], ignore_index=s["ignore"]),
    "focal_adaptive_flsd53": lambda s: AdaptiveFocalLoss(
        s["gamma_if_pt_ge_0p5"], ignore_index=s["ignore"]
    ),
    "entropy_penalty_ecp": lambda s: EntropyPenaltyLoss(s["alpha"], ignore_index=s["ignore"]),
    "mbls_l1": margin,
    "mbls_l1_plus_dice": lambda s: margin(s, base=DiceCrossEntropyLoss(False)),
    "ce_plus_dice": lambda s: DiceCrossEntropyLoss(True),
    "brier": lambda s: BrierLoss(),
    "cpc": lambda s: PairwiseConstraintLoss(
        s["lambd_bdc"], exclusion=s["lambd_bec"], ignore_index=s["ignore"]
    ),
    "mmce": lambda s: KernelCalibrationLoss(s["lamda"]),
    "svls": lambda s: SpatialLabelSmoothingLoss(s["sigma"]),
    "nacl": lambda s: nacl(s, "background" if s["kernel_ops"] == "mean" else "replicate"),
    "nacl_monai": lambda s: nacl(s, "monai"),
    "ml1ace_hard": lambda s: ace(s, "hard"),
    "ml1ace_soft": lambda s: ace(s, "soft"),
    "ml1ace_hard_dice_ce": lambda s: ace_dice_ce(s, "hard"),
    "ml1ace_soft_dice_ce": lambda s: ace_dice_ce(s, "soft"),
    "asymmetric_unified_focal_plus_plus": unified,
    "asymmetric_focal_tversky_plus_plus": focal_tversky,
    "asymmetric_focal": lambda s: (
        lambda p, y: asymmetric_focal(p.log(), y, delta=s["delta"], gamma=s["gamma"])
    ),
    "acls": lambda s: AdaptiveConditionalSmoothingLoss(
        s["alpha"],
        margin=s["margin"],
        positive_weight=s["pos_lambda"],
        negative_weight=s["neg_lambda"],
        positive="raw",
    ),
    "mdca_term": lambda s: lambda z, y: classwise_gap(z.softmax(1), y),
    "nll_mdca": lambda s: ClasswiseMeanCalibrationLoss(s["beta"]),
    "focal_mdca": lambda s: ClasswiseMeanCalibrationLoss(s["beta"], base=FocalLoss(s["gamma"])),
    "ls_mdca": lambda s: (
        lambda z, y: ClasswiseMeanCalibrationLoss(  # spread over C - 1 classes
            s["beta"], base=CrossEntropyLoss(s["alpha"] * z.shape[1] / (z.shape[1] - 1))
        )(z, y)
    ),
    "nll_dca": lambda s: AccuracyConfidenceLoss(s["beta"]),
    "cals_hr": cals_hr,
    "cals_alm_penalty": cals,
    "crac_penalty": crac,
    "adafocal": adafocal,
}

# Cases of a fault of the published code: what is wrong, and the oracle that has it.
FAULTS: dict[str, tuple[str, Callable[[Settings], Function]]] = {
    "l1_penalty": (
        "divides by the number of images",
        lambda s: lambda z, y: as_coded.l1_per_image(z, y, s["alpha"]),
    ),
    "mbls_l2_as_in_code": (
        "squares before the hinge",
        lambda s: (
            lambda z, y: as_coded.margin_squared_first(z, y, s["margin"], s["alpha"], s["ignore"])
        ),
    ),
    "mmce_weighted": (
        "divides by the number of pairs twice",
        lambda s: lambda z, y: as_coded.mmce_divided_twice(z, y, s["lamda"]),
    ),
    "nacl_gaussian_l1_logits_a0p1_k5_s1__2d": (
        "takes the wrong element for the kernel's center",
        lambda s: lambda z, y: as_coded.nacl_wrong_center(z, y, s["alpha"], s["kernel_size"]),
    ),
    "dsc_plus_plus": (
        "clips the one-hot target",
        lambda s: (
            lambda p, y: as_coded.dice_plus_plus_clipped(
                p.softmax(1) if s.get("input") else p, y, s["gamma"]
            )
        ),
    ),
    "tversky_plus_plus": (
        "clips the one-hot target",
        lambda s: lambda p, y: as_coded.tversky_plus_plus_clipped(p, y, s["gamma"], s["delta"]),
    ),
    "focal_tversky_plus_plus": (
        "clips the one-hot target",
        lambda s: (
            lambda p, y: as_coded.tversky_plus_plus_clipped(
                p, y, s["gamma"], s["delta"], s["focal_exponent"]
            )
        ),
    ),
    "ce_on_probabilities": (
        "no fault: takes probabilities as free inputs, ours logits",
        lambda s: as_coded.ce_of_probabilities,
    ),
    "ignore_m100_ecp": (
        "the entropy averages over ignored voxels",
        lambda s: lambda z, y: as_coded.entropy_over_all(z, y, s["alpha"]),
    ),
    "ignore_m100_mbls_l1": (
        "the penalty averages over ignored voxels",
        lambda s: lambda z, y: as_coded.margin_over_all(z, y, s["margin"], s["alpha"]),
    ),
    "ignore_inrange_mbls_dice": (
        "Dice counts ignored voxels",
        lambda s: lambda z, y: as_coded.dice_over_all(z, y, s["margin"], s["alpha"], s["ignore"]),
    ),
    "acls_ignore_m100__2d": (
        "the penalties average over ignored voxels",
        lambda s: (
            lambda z, y: as_coded.acls_over_all(
                z, y, s["pos_lambda"], s["neg_lambda"], s["alpha"], s["margin"]
            )
        ),
    ),
}


def fault(case: dict[str, Any]) -> tuple[str, Callable[[Settings], Function]] | None:
    return FAULTS.get(case["name"]) or FAULTS.get(case["method"])


@cache
def read(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as stored:
        return dict(stored)


def load(case: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any], Settings]:
    name = case["npz"]
    arrays = read(name if name.startswith("losses") else f"losses_{name}")
    names = case["inputs"]
    scores = next(names[k] for k in ("logits", "probs_channel_first") if k in names)
    outputs = {
        key: arrays[value] for key, value in case["outputs"].items() if isinstance(value, str)
    }
    settings = {"ignore": -100} | case["hyperparameters"]
    settings["ignore"] = settings.get("ignore_index", -100)
    settings["arrays"] = {key: arrays[value] for key, value in names.items()}
    inputs = torch.from_numpy(arrays[scores]).double().requires_grad_()
    if "target" not in names:  # a penalty of the logits alone
        target = torch.zeros((inputs.shape[0], *inputs.shape[2:]), dtype=torch.long)
    else:
        target = torch.from_numpy(arrays[names["target"]]).long()
    return inputs, target, outputs, settings


HERE = {name: case for name, case in CASES.items() if case["method"] not in ELSEWHERE}


@pytest.mark.parametrize("name", HERE)
def test_value_and_gradient(name: str) -> None:
    case = HERE[name]
    inputs, target, outputs, settings = load(case)
    found = fault(case)
    function = found[1](settings) if found else CLASSES[case["method"]](settings)
    loss = function(inputs, target)
    loss.backward()
    close = case["suggested_tolerance"]
    np.testing.assert_allclose(loss.item(), outputs["loss"], **close)
    key = "grad" if "grad" in outputs else "grad_probs_channel_first"
    np.testing.assert_allclose(inputs.grad.numpy(), outputs[key], **close)


def test_every_case_is_met_once() -> None:
    """No case is forgotten, no entry of the tables is unused; the counts are those of the files."""
    methods = {case["method"] for case in HERE.values()}
    assert methods == set(CLASSES) | {key for key in FAULTS if key not in CASES}
    assert len(CASES) == 258
    by_class = [case for case in HERE.values() if fault(case) is None]
    by_oracle = [case for case in HERE.values() if fault(case) is not None]
    elsewhere = [case for case in CASES.values() if case["method"] in ELSEWHERE]
    assert len(by_class) + len(by_oracle) + len(elsewhere) == 258


@pytest.mark.parametrize("name", [n for n, c in HERE.items() if c["method"].startswith("nacl")])
def test_neighbor_proportions(name: str) -> None:
    case = HERE[name]
    if fault(case):
        pytest.skip(fault(case)[0])
    _, target, outputs, s = load(case)
    if "soft_target_tau" not in outputs:
        pytest.skip("the case stores no proportions")
    monai = case["method"] == "nacl_monai"
    mean = "background" if s["kernel_ops"] == "mean" else "replicate"
    tau = neighbor_proportions(
        target,
        outputs["soft_target_tau"].shape[1],
        kernel=s["kernel_ops"],
        kernel_size=s["kernel_size"],
        border="monai" if monai else mean,
        dtype=torch.float64,
    )
    np.testing.assert_allclose(tau.numpy(), outputs["soft_target_tau"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [n for n, c in HERE.items() if "tversky_plus" in c["method"] or c["method"] == "dsc_plus_plus"],
)
def test_the_sound_form_of_the_plus_plus_family_is_near_the_published_one(name: str) -> None:
    """Without clipping the target the values move by less than 1e-5, but where a class is empty."""
    case = HERE[name]
    inputs, target, outputs, s = load(case)
    classes = range(inputs.shape[1])
    if not all((target == k).flatten(1).any(1).all() for k in classes):
        pytest.skip("an image lacks a class, where the clipped target costs")
    if case["method"].startswith("asymmetric"):
        pytest.skip("met by the class")
    if s.get("input"):
        value = DicePlusPlusLoss(s["gamma"])(inputs, target)
    elif case["method"] == "dsc_plus_plus":
        value = dice_plus_plus(inputs, target, s["gamma"])
    else:
        value = tversky_plus_plus(
            inputs, target, s["gamma"], delta=s["delta"], focal=s.get("focal_exponent", 1.0)
        )
    assert value.item() == pytest.approx(float(outputs["loss"]), rel=1e-5)
