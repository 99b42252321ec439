"""Tests against the labels of several readers: each one's, and their mean as posterior."""

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn.functional import one_hot

from mbls.evaluation import PROTOCOLS, TestRun, protocol_values, results_table, summary_table
from mbls.metrics import CalibrationHistogram, DiceScore, case_values, estimate
from mbls.metrics.bootstrap import drawn_values
from mbls.plots import truth_figure

pytestmark = pytest.mark.usefixtures("few_draws")
META = {"dataset": "nodules", "origin": "real", "tag": "best", "posterior": "readers",
        "class_names": ["background", "inner", "outer"]}  # fmt: skip
CASES, READERS = 4, 3


def histograms() -> tuple[CalibrationHistogram, list[CalibrationHistogram], DiceScore]:
    """Four cases; the last reader leaves the last one empty."""
    torch.manual_seed(0)
    probs = torch.randn(CASES, 3, 12, 13).mul(2).softmax(1)
    labels = torch.randint(3, (CASES, READERS, 12, 13), dtype=torch.int16)
    labels[-1, -1] = 0
    labels[0, :, 0] = -100
    posterior = one_hot(labels.clamp_min(0).long(), 3).float().mean(1).movedim(-1, 1)
    settings = {"num_classes": 3, "num_cases": CASES}
    all_of, dice = CalibrationHistogram(**settings), DiceScore(**settings)
    each = [CalibrationHistogram(**settings) for _ in range(READERS)]
    for n in range(CASES):
        one, index = slice(n, n + 1), torch.tensor([n])
        majority = labels[one].median(1).values
        all_of.update(probs[one], majority, index=index, posterior=posterior[one])
        dice.update(probs[one], majority.long(), index=index)
        for reader, histogram in enumerate(each):
            histogram.update(probs[one], labels[one, reader], index=index)
    return all_of, each, dice


def counted() -> TestRun:
    all_of, each, dice = histograms()
    names = [f"p{n}" for n in range(CASES)]
    return TestRun.of(all_of, dice, cases=names, patients=names, meta=META, readers=each)


def text(table) -> str:
    console = Console(width=80, record=True)
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("metric", ["ece", "cece"])
@pytest.mark.parametrize("region", ["all", "label"])
def test_the_mean_of_each_readers_error(metric: str, region: str) -> None:
    bins = counted().bins
    alone = [each.bins() for each in histograms()[1]]
    values = np.stack([case_values(one, metric, region=region) for one in alone])
    found = case_values(bins, f"readers_{metric}", region=region)
    np.testing.assert_allclose(found, np.nanmean(values, axis=0), rtol=1e-12)
    assert np.isnan(values).any() == (region == "label")  # the empty label has no foreground
    pooled = [estimate(one, metric, region=region)[0] for one in alone]
    whole, cases = estimate(bins, f"readers_{metric}", region=region)
    assert (whole, cases) == (pytest.approx(np.mean(pooled), rel=1e-12), CASES)
    for pooling, value in (("pooled", whole), ("per_case", found.mean())):
        drawn = drawn_values(
            bins, [f"readers_{metric}", metric], np.ones((1, CASES)), region=region, pooling=pooling
        )
        assert drawn[f"readers_{metric}"][0] == pytest.approx(value, rel=1e-12)


def test_curvas_has_60_bins_and_the_top_label() -> None:
    protocol = next(p for p in PROTOCOLS if p.name == "curvas")
    alone = [case_values(each.bins(), "ece", n_bins=60) for each in histograms()[1]]
    (values,) = protocol_values(counted().bins, protocol).values()
    np.testing.assert_allclose(values, np.mean(alone, axis=0), rtol=1e-12)


def test_files_hold_them(tmp_path) -> None:
    run = counted()
    run.save(tmp_path / "bins.npz")
    loaded = TestRun.load(tmp_path / "bins.npz")
    np.testing.assert_array_equal(loaded.bins.readers, run.bins.readers)
    metrics = run.summary()
    assert loaded.summary() == metrics
    cell = metrics["sound"]["all"]["per_case"]["readers_ece"]
    assert cell["low"] <= cell["value"] <= cell["high"]
    curvas = metrics["curvas"]["all"]["per_case"]["ece"]
    assert 0 < curvas["low"] <= curvas["value"]
    assert run.csv().splitlines()[0].count("readers_ece/all") == 1


def test_one_reader_has_none_of_them(tmp_path) -> None:
    all_of, _, dice = histograms()
    names = [f"p{n}" for n in range(CASES)]
    meta = {key: value for key, value in META.items() if key != "posterior"}
    run = TestRun.of(all_of, dice, cases=names, patients=names, meta=meta)
    assert "readers" not in str(run.summary())
    assert "readers" not in run.csv()
    with pytest.raises(ValueError, match="readers needs labels of several readers"):
        run.bins.table("all", 15, against="readers")


@pytest.mark.usefixtures("figures")
def test_tables_and_figures_name_the_readers_mean() -> None:
    metrics = counted().summary()
    for table in (summary_table(metrics), results_table(metrics)):
        words = " ".join(text(table).split())
        assert "against the" in words
        assert "readers' mean" in words
        assert "averaged" in words
        assert "majority of several readers" in words
        assert "true value" not in words
    figure = truth_figure(metrics)
    assert "a drawn reader" in figure.get_suptitle().replace("\n", " ")
    (legend,) = figure.legends
    labels = [label.get_text() for label in legend.get_texts()]
    assert "against the readers' mean" in labels
    assert "true" not in labels
