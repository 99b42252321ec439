"""The scalar metrics are the histogram's own numbers, alone and in a collection."""

import pytest
import torch
from torchmetrics import MetricCollection

from mbls.metrics import (
    AverageCalibrationError,
    BrierScore,
    CalibrationHistogram,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    NegativeLogLikelihood,
    estimate,
)


def case():
    probs = (torch.randn(3, 4, 20, 20) * 2).softmax(1)
    return probs, torch.randint(4, (3, 20, 20))


@pytest.mark.parametrize("region", ["all", "label", "union"])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (ExpectedCalibrationError, "ece"),
        (lambda c, **k: ExpectedCalibrationError(c, norm="l2", **k), "ece_l2"),
        (ClasswiseCalibrationError, "cece"),
        (lambda c, **k: ClasswiseCalibrationError(c, norm="l2", **k), "cece_l2"),
        (AverageCalibrationError, "ace"),
        (MaximumCalibrationError, "mce"),
        (BrierScore, "brier"),
        (NegativeLogLikelihood, "nll"),
    ],
)
def test_value_is_the_histograms(build, name, region):
    probs, target = case()
    histogram, metric = CalibrationHistogram(4), build(4, n_bins=10, region=region)
    apart, each = CalibrationHistogram(4, num_cases=3), build(4, region=region, num_cases=3)
    histogram.update(probs, target)
    metric.update(probs, target)
    expected, _ = estimate(histogram.bins(), name, region=region, n_bins=10)
    assert metric.compute().item() == expected
    for one in (apart, each):
        one.update(probs, target, index=torch.arange(3))
    expected, _ = estimate(apart.bins(), name, region=region, pooling="per_case")
    assert each.compute().item() == expected


def test_regions_that_coincide_in_the_first_batch_stay_apart_in_a_collection():
    regions = ("all", "label", "union")
    collection = MetricCollection({r: ExpectedCalibrationError(3, region=r) for r in regions})
    probs = (torch.randn(2, 3, 30) * 2).softmax(1)
    everything = torch.randint(1, 3, (1, 30))  # all foreground: the regions are the same voxels
    collection.update(probs[:1], everything)
    collection.update(probs[1:], torch.zeros(1, 30))
    found = collection.compute()
    for region in regions:
        alone = ExpectedCalibrationError(3, region=region)
        alone.update(probs[:1], everything)
        alone.update(probs[1:], torch.zeros(1, 30))
        assert found[region] == alone.compute()
    assert len({v.item() for v in found.values()}) == 3


def test_refused_settings():
    with pytest.raises(ValueError, match="n_bins must divide 60"):
        ExpectedCalibrationError(3, n_bins=14)
    with pytest.raises(ValueError, match="norm must be 'l1' or 'l2'"):
        ExpectedCalibrationError(3, norm="max")
    with pytest.raises(ValueError, match="metric must be one of"):
        estimate(CalibrationHistogram(3).bins(), "acc")
    with pytest.raises(ValueError, match="pooling must be one of"):
        estimate(CalibrationHistogram(3).bins(), "ece", pooling="mean")
    with pytest.raises(ValueError, match="per_case needs a histogram with num_cases"):
        estimate(CalibrationHistogram(3).bins(), "ece", pooling="per_case")
