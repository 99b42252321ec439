"""Wrong input and wrong settings get an error that names the thing, the rule and what was found."""

import pytest
import torch

from mbls import losses
from mbls.losses import CompoundLoss, CrossEntropyLoss, MarginLoss
from tests.losses.every_loss import CONFIGS, build, classes


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_dtypes(name: str) -> None:
    loss, C = build(name), classes(name)
    logits, target = torch.zeros(2, C, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"target must have shape \(2, 4, 5\).*got \(2, 5, 4\)"):
        loss(logits, target.transpose(1, 2))
    with pytest.raises(ValueError, match=r"target must have shape.*got \(2, 4\)"):
        loss(logits, target[..., 0])
    with pytest.raises(ValueError, match=r"target must have shape.*got \(2, 2, 4, 5\)"):
        loss(logits, target.unsqueeze(1).expand(2, 2, 4, 5))
    with pytest.raises(ValueError, match=r"at least 2 classes on axis 1, got \(2, 1, 4, 5\)"):
        loss(logits[:, :1], target)
    with pytest.raises(ValueError, match=r"logits must have shape \(N, C, \*S\), got \(3,\)"):
        loss(torch.zeros(3), torch.zeros(3))
    with pytest.raises(TypeError, match=r"logits must be floating, got torch.int64"):
        loss(logits.long(), target)
    with pytest.raises(TypeError, match=r"integral floats, got torch.complex64"):
        loss(logits, target.to(torch.complex64))
    with pytest.raises(ValueError, match=r"integral labels, got 0\.5"):
        loss(logits, target + 0.5)
    with pytest.raises(ValueError, match=r"integral labels, got inf"):
        loss(logits, target.float().fill_(float("inf")))


@pytest.mark.parametrize("name", CONFIGS)
def test_labels_out_of_range_under_validate(name: str) -> None:
    C = classes(name)
    logits, target = torch.zeros(2, C, 4), torch.zeros(2, 4, dtype=torch.long)
    loss = build(name, validate=True)
    target[0, 0] = -100
    assert loss(logits, target).isfinite()
    for wrong in (C, -1, 255):
        target[1, 1] = wrong
        with pytest.raises(ValueError, match=rf"0..{C - 1} or ignore_index -100, got \[{wrong}"):
            loss(logits, target)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        ("MarginLoss", {"margin": -1.0}, "margin must be >= 0 and finite, got -1.0"),
        ("MarginLoss", {"margin": float("nan")}, "margin must be >= 0 and finite, got nan"),
        ("MarginLoss", {"alpha": -0.1}, "alpha must be >= 0 and finite, got -0.1"),
        ("MarginLoss", {"norm": "l3"}, "norm must be one of 'l1', 'l2', got 'l3'"),
        ("CrossEntropyLoss", {"label_smoothing": 1.1}, r"label_smoothing must lie in \[0, 1\]"),
        ("FocalLoss", {"gamma": -1.0}, "gamma must be >= 0"),
        ("AdaptiveFocalLoss", {"gamma": -1.0}, "gamma must be >= 0"),
        ("FocalCalibrationLoss", {"gamma": -1.0}, "gamma must be >= 0"),
        ("FocalCalibrationLoss", {"alpha": -1.0}, "alpha must be >= 0"),
        ("EntropyPenaltyLoss", {"alpha": -1.0}, "alpha must be >= 0"),
        ("UniformPenaltyLoss", {"alpha": -1.0}, "alpha must be >= 0"),
        ("SpatialLabelSmoothingLoss", {"sigma": 0.0}, "sigma must be > 0"),
        ("SpatialLabelSmoothingLoss", {"kernel_size": 4}, "must be an odd integer >= 1, got 4"),
        ("SpatialLabelSmoothingLoss", {"kernel_size": 3.0}, "an odd integer >= 1, got 3.0"),
        ("NeighborAwareLoss", {"alpha": -1.0}, "alpha must be >= 0"),
        ("NeighborAwareLoss", {"kernel_size": 0}, "kernel_size must be an odd integer >= 1, got 0"),
        ("NeighborAwareLoss", {"sigma": -1.0}, "sigma must be > 0"),
        ("NeighborAwareLoss", {"border": "zero"}, "border must be one of 'replicate', 'backg"),
        ("NeighborAwareLoss", {"kernel": "max"}, "kernel must be one of"),
        ("NeighborAwareLoss", {"on": "both"}, "on must be one of 'logits', 'probs'"),
        ("NeighborAwareLoss", {"distance": "l0"}, "distance must be one of"),
        ("KernelCalibrationLoss", {"alpha": -1.0}, "alpha must be >= 0"),
        ("KernelCalibrationLoss", {"max_samples": 0}, "max_samples must be an integer >= 1, got 0"),
        ("PairwiseConstraintLoss", {"discrimination": -1.0}, "discrimination must be >= 0"),
        ("PairwiseConstraintLoss", {"exclusion": -1.0}, "exclusion must be >= 0"),
        ("DiceLoss", {"smooth_nr": -1.0}, "smooth_nr must be >= 0"),
        ("DiceLoss", {"smooth_dr": 0.0}, "smooth_dr must be > 0"),
        ("DicePlusPlusLoss", {"gamma": 0.5}, "gamma must be >= 1"),
        ("TverskyPlusPlusLoss", {"gamma": 0.5}, "gamma must be >= 1"),
        ("TverskyPlusPlusLoss", {"delta": 1.5}, r"delta must lie in \[0, 1\]"),
        ("FocalTverskyPlusPlusLoss", {"focal": 0.0}, "focal must be > 0"),
        ("UnifiedFocalPlusPlusLoss", {"weight": 2.0}, r"weight must lie in \[0, 1\]"),
        ("UnifiedFocalPlusPlusLoss", {"delta": -0.1}, r"delta must lie in \[0, 1\]"),
        ("UnifiedFocalPlusPlusLoss", {"gamma": 2.0}, r"gamma must lie in \[0, 1\]"),
        ("UnifiedFocalPlusPlusLoss", {"gamma_plus_plus": 0.0}, "gamma_plus_plus must be >= 1"),
        ("BinnedCalibrationLoss", {"binning": "firm"}, "binning must be one of 'hard', 'soft'"),
        ("BinnedCalibrationLoss", {"n_bins": 0}, "n_bins must be an integer >= 1, got 0"),
        ("BinnedCalibrationLoss", {"n_bins": 9.5}, "n_bins must be an integer >= 1, got 9.5"),
        ("BinnedCalibrationLoss", {"binning": "soft", "n_bins": 1}, "integer >= 2, got 1"),
        ("AdaptiveConditionalSmoothingLoss", {"margin": -1.0}, "margin must be >= 0"),
        ("AdaptiveConditionalSmoothingLoss", {"positive": "min"}, "positive must be one of"),
        ("AdaptiveConditionalSmoothingLoss", {"alpha": -1.0}, "alpha must be >= 0"),
        ("AdaptiveConditionalSmoothingLoss", {"positive_weight": -1.0}, "positive_weight must be"),
        ("AdaptiveConditionalSmoothingLoss", {"negative_weight": -1.0}, "negative_weight must be"),
        ("ClasswiseMeanCalibrationLoss", {"beta": -1.0}, "beta must be >= 0"),
        ("ClasswiseMeanCalibrationLoss", {"scope": "patch"}, "scope must be one of"),
        ("AccuracyConfidenceLoss", {"beta": -1.0}, "beta must be >= 0"),
    ],
)
def test_settings(cls: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(losses, cls)(**settings)


def test_a_label_that_is_no_class_is_an_error_on_the_cpu_anyway() -> None:
    with pytest.raises(ValueError, match=r"0..2 or ignore_index -100, got \[3\]"):
        CrossEntropyLoss()(torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match=r"0..2 or ignore_index -100, got \[-1\]"):
        MarginLoss()(torch.zeros(2, 3), torch.tensor([2, -1]))
    parts = CompoundLoss({"ce": (1.0, CrossEntropyLoss(ignore_index=7))})
    assert parts(torch.zeros(2, 3), torch.tensor([7, 1])).isfinite()  # the parts know theirs
