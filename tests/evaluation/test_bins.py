"""``n_bins`` is one number for validation, test, files and figures; protocols have their own."""

import json
from types import SimpleNamespace

import pytest

from mbls.callbacks import results
from mbls.evaluation import PROTOCOLS, TestRun, results_table, summary_table, write_results
from mbls.metrics import case_values, estimate
from tests.evaluation.counted import META, counted, fine_histogram
from tests.test_module import fit, module

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("few_draws")]


def test_a_test_has_the_module_s_bins(monkeypatch):
    built = module(n_bins=10)
    trainer = fit(built)
    run = SimpleNamespace(dataset="d", network="n", loss="l", seed=0, tag="best")
    monkeypatch.setattr(results, "folder_callback", lambda _: run)
    trainer.datamodule.origin, trainer.datamodule.fingerprint = "real", "f"
    built.test_nsd = SimpleNamespace(tolerance=2.0)
    meta = results.TestResults()._meta(trainer, built)
    assert (meta["n_bins"], meta["precision"]) == (10, "32-true")
    with pytest.raises(ValueError, match=r"n_bins .* got 7"):
        module(n_bins=7)


@pytest.mark.usefixtures("figures")
def test_files_captions_and_figures_have_the_run_s_bins(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("mbls.plots.save_figure", lambda f, path: drawn.update({path.name: f}))
    run = counted(meta=META | {"n_bins": 10}, fine=fine_histogram())
    metrics = write_results(tmp_path, run)
    usual = counted(fine=fine_histogram()).summary()
    assert (metrics["meta"]["n_bins"], usual["meta"]["n_bins"]) == (10, 15)
    for region in run.bins.regions:
        value, _ = estimate(run.bins, "cece", region=region, n_bins=10)
        cells = metrics["sound"][region]["pooled"]
        assert cells["cece"]["value"] == value
        assert cells["adaptive_ece"] != usual["sound"][region]["pooled"]["adaptive_ece"]
        column = run.rows()[f"ece/{region}"].to_numpy()
        assert (column == case_values(run.bins, "ece", region=region, n_bins=10)).all()
    for protocol in PROTOCOLS:
        same = [json.dumps(m.get(protocol.name)) for m in (metrics, usual)]
        assert same[0] == same[1]
    assert "10 equal right-closed bins" in results_table(metrics).caption
    assert "10 bins" in summary_table(metrics).caption
    assert len(drawn) == 4
    assert all("10 right-closed bins" in figure.get_suptitle() for figure in drawn.values())
    assert TestRun.load(tmp_path / "bins.npz").n_bins == 10
