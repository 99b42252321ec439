"""A metric is one entry of the table of metrics."""

import pytest
from rich.console import Console

from mbls.evaluation import results_table, summary_table
from mbls.metrics import catalog, estimate, expected_error_floor
from mbls.metrics.catalog import EVERYWHERE, METRICS, NamedMetric, find_metric, shown_in
from mbls.metrics.fine_bins import FINE_METRICS
from mbls.plots import truth_figure
from mbls.report.build import views_of
from mbls.report.figures import figures_of
from tests.evaluation.counted import counted
from tests.report import fake
from tests.report.fake import analysis_of, write_run
from tests.test_module import fit, module

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("few_draws")]


def share_of_misses(count, hits, confidence):
    return (count - hits).sum(-1) / count.sum(-1)


@pytest.fixture
def misses(monkeypatch):
    """A new metric."""
    entry = NamedMetric(
        "misses", "missed share", "top", share_of_misses, digits=3,
        floor=expected_error_floor, corrected=True, true=True,
        shown=(*EVERYWHERE, "summary"), logged={"misses_near": "boundary"},
    )  # fmt: skip
    monkeypatch.setattr(catalog, "METRICS", (*METRICS, entry))
    fake.count_test.cache_clear()  # its tests lack the metric
    yield
    fake.count_test.cache_clear()


@pytest.mark.usefixtures("misses")
def test_a_metric_is_one_entry(tmp_path):
    logged = fit(module()).callback_metrics
    assert 0 < logged["val/misses_near"] < 1

    run = counted()
    metrics = run.summary()
    cell = metrics["sound"]["label"]["per_case"]["misses"]
    value, _ = estimate(run.bins, "misses", region="label", pooling="per_case")
    assert (cell["value"], cell["floor"] > 0) == (value, True)
    assert {"true_misses", "misses_corrected"} <= set(metrics["sound"]["all"]["pooled"])
    assert {"misses/all", "true_misses/label"} <= set(run.rows().columns)

    for table in (results_table, summary_table):
        console = Console(width=80, record=True)
        console.print(table(metrics))
        text = console.export_text()
        assert "missed share" in text
        assert f"{metrics['sound']['all']['pooled']['misses']['value']:.3f}" in text
    assert "missed share" in [axes.get_title() for axes in truth_figure(metrics).axes]

    for loss in ("ce", "mbls"):
        write_run(tmp_path, loss, patients=2)
    found = analysis_of(tmp_path)
    assert {"misses_corrected/all/pooled", "misses/label/per_case"} <= set(found.cells)
    columns = [column for view in views_of(found) for column in view.frame.columns]
    assert any("missed share ↓" in column for column in columns)
    (figure,) = [one for one in figures_of(found) if one.name == "true_error"]
    assert "missed share, all voxels, pooled" in figure.alt


def test_keys_are_unique_and_the_fine_ones_computed():
    assert len({m.key for m in METRICS}) == len(METRICS)
    assert tuple(m.key for m in shown_in("json", "fine")) == FINE_METRICS
    with pytest.raises(ValueError, match=r"one of .*'ece'.*'eec'"):
        find_metric("eec")
