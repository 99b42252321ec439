"""Metrics of the fine histogram and corrected errors in a test run's files."""

import json

import numpy as np
import pytest

from mbls.evaluation import from_bins, write_results
from mbls.evaluation.results import to_json
from mbls.metrics.bootstrap import corrected, drawn_values, patient_weights
from mbls.metrics.fine_bins import FINE_METRICS, fine_values
from tests.evaluation.counted import ABOUT, counted, fine_histogram, scored
from tests.test_module import fit, module

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


@pytest.fixture(scope="module")
def written(tmp_path_factory, few_draws):
    folder = tmp_path_factory.mktemp("summary")
    run = counted(fine=fine_histogram())
    return folder, write_results(folder, run), run.fine


def test_the_fine_metrics_are_pooled_and_have_no_interval(written):
    _, metrics, fine = written
    for region in ("all", "label", "union"):
        poolings = metrics["sound"][region]
        for name, (value, floor) in fine_values(fine, 3, region).items():
            cell = {"value": value, "low": None, "high": None, "floor": floor, "n_cases": 3}
            assert poolings["pooled"][name] == cell
            assert name not in poolings["per_case"]
    assert metrics["meta"]["tace_threshold"] == 0.01


def test_the_fine_metrics_come_back_to_the_bit(written):
    folder, metrics, fine = written
    assert to_json(from_bins(folder / "bins.npz")) == (folder / "metrics.json").read_text()
    assert json.dumps(from_bins(folder / "bins.npz")) == json.dumps(metrics)
    with np.load(folder / "bins.npz") as file:
        assert (file["fine"] == fine.cells).all()
        assert file["fine_axes"].tolist() == ["region", "channel", "cell", "quantity"]
        sizes = [len(file[name]) for name in ("fine_region", "channel", "fine_lower_edge")]
        assert sizes == list(file["fine"].shape[:3])


def test_without_a_fine_histogram_there_are_no_fine_metrics():
    metrics = counted().summary()
    assert not set(FINE_METRICS) & set(metrics["sound"]["all"]["pooled"])


def test_validation_counts_no_fine_histogram():
    built = module()
    fit(built)
    assert built.val_histogram is not None
    assert not hasattr(built, "test_fine")


def test_pooled_errors_have_corrected_ones(written, few_draws):
    histogram, _ = scored()
    weights = patient_weights(ABOUT["patients"], draws=few_draws)
    for region in ("all", "label", "union"):
        cells = written[1]["sound"][region]
        for metric in ("ece", "cece"):
            settings = {"region": region, "pooling": "pooled"}
            drawn = drawn_values(histogram.bins(), [metric], weights, **settings)[metric]
            cell, plain = cells["pooled"][f"{metric}_corrected"], cells["pooled"][metric]
            found = tuple(cell[key] for key in ("value", "low", "high"))
            assert found == corrected(plain["value"], drawn, 2)
            assert cell["n_cases"] == plain["n_cases"]
            assert f"{metric}_corrected" not in cells["per_case"]


def test_one_patient_has_no_corrected_error():
    cells = counted(patients=["p1"] * 3).summary()["sound"]["all"]["pooled"]
    assert cells["ece"]["low"] is None
    assert np.isnan(cells["ece_corrected"]["value"])
    assert cells["ece_corrected"]["low"] is None
