"""The fine histogram's sums as arrays: the classes' numbers, floors that noise explains, a file."""

import numpy as np
import pytest
import torch

from mbls.metrics import AdaptiveCalibrationError, FineHistogram, SmoothCalibrationError
from mbls.metrics.fine import fine_cells
from mbls.metrics.fine_bins import (
    FINE_METRICS,
    TACE_THRESHOLD,
    FineBins,
    fine_lower_edges,
    fine_values,
)


def drawn(voxels, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    known = (torch.randn(voxels, 3, generator=generator) * 2).softmax(1)
    target = torch.multinomial(known, 1, generator=generator)[:, 0]
    return (known.log() * sharpness).softmax(1), target


@pytest.mark.parametrize("region", ["all", "label", "union"])
def test_values_are_those_of_the_metric_classes(region):
    probs, target = drawn(5000, 1.5, 0)
    histogram = FineHistogram(3)
    histogram.update(probs, target)
    values = fine_values(histogram.bins(), 3, region)
    assert tuple(values) == FINE_METRICS
    for name, metric in {
        "adaptive_ece": AdaptiveCalibrationError(3, region=region),
        "tace": AdaptiveCalibrationError(3, region=region, threshold=TACE_THRESHOLD),
        "smece": SmoothCalibrationError(3, region=region),
    }.items():
        metric.update(probs, target)
        assert values[name][0] == metric.compute().item(), name
        assert values[name][0] > 0.03
    assert values["smece"][1] is None


def test_labeled_foreground_has_no_background_class():
    probs = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    histogram = FineHistogram(2)
    histogram.update(probs, torch.tensor([1, 1]))
    assert fine_values(histogram.bins(), 2, "label")["tace"][0] == 0.5
    histogram.update(probs, torch.tensor([0, 0]))
    assert fine_values(histogram.bins(), 2, "all")["tace"][0] == 0
    assert fine_values(histogram.bins(), 2, "label")["tace"][0] == 0.5


def test_floors_are_the_mean_errors_of_a_calibrated_model():
    found = {name: [] for name in FINE_METRICS}
    for seed in range(40):
        histogram = FineHistogram(3, regions=("all",))
        histogram.update(*drawn(2000, 1.0, seed))
        for name, pair in fine_values(histogram.bins(), 3, "all").items():
            found[name].append(pair)
    for name in ("adaptive_ece", "tace"):
        values, floors = np.array(found[name]).T
        error = values.std() / np.sqrt(len(values))
        # bins of different confidences scatter a little less than one of their mean
        assert -0.1 * floors.mean() - 3 * error < values.mean() - floors.mean() < 3 * error, name


def test_edges_are_those_of_the_cells():
    edges = fine_lower_edges()
    inside = torch.from_numpy((edges[:-1] + edges[1:]) / 2)[600:-600]  # where float64 separates
    assert (fine_cells(inside) == torch.arange(4095)[600:-600]).all()


def test_arrays_name_their_axes_and_come_back():
    histogram = FineHistogram(3, regions=("all", "union"))
    histogram.update(*drawn(500, 2.0, 1))
    bins = histogram.bins()
    arrays = bins.arrays()
    assert len(arrays["fine_axes"]) == arrays["fine"].ndim
    assert len(arrays["fine_lower_edge"]) == arrays["fine"].shape[2]
    again = FineBins.from_arrays(arrays)
    assert again.regions == ("all", "union")
    assert fine_values(again, 3, "union") == fine_values(bins, 3, "union")
    assert FineBins.from_arrays({}) is None


def test_sums_that_wrapped_around_and_unknown_regions_are_refused():
    cells = torch.zeros(1, 3, 4096, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"those counted, \('all',\), got 'label'"):
        FineBins.from_state(cells, ("all",)).table("label")
    cells[0, 0, 5, 2] = -1
    with pytest.raises(OverflowError, match="fewer voxels"):
        FineBins.from_state(cells, ("all",))
