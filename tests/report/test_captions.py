"""Every table and figure names its data, and how its numbers were computed."""

import json
from pathlib import Path

import pytest

from mbls.report.analysis import Analysis
from mbls.report.build import views_of
from mbls.report.figures import figures_of
from mbls.report.views import selection_view
from tests.report.fake import analysis_of, write_run

CURVES = (
    "epoch,step,val/dice,val/dice_se,val/ece,val/nll,train/lambda/rv\n"
    "0,9,0.60,0.02,0.09,0.40,1.0\n1,19,0.70,0.02,0.03,0.30,1.2\n2,29,0.71,0.02,0.05,0.35,1.5\n"
)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Two seeds of a loss that adapts and of one that was swept; the choice of NLL was tested."""
    root = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        for margin in (5.0, 10.0):
            write_run(
                root, f"mbls,margin={margin:g}", seed, settings={"margin": margin}, patients=3
            )
        write_run(root, "cals", seed, patients=3, sharpness=1.0, noise=0.1, tag="best-nll")
        folder = write_run(root, "cals", seed, patients=3, pictures=True, surfaces=("hd95",))
        (folder / "metrics.csv").write_text(CURVES)
    return analysis_of(root)


def test_every_table_names_its_data_and_metric(analysis: Analysis) -> None:
    views = views_of(analysis)
    assert {v.title for v in views} >= {"Effect of checkpoint selection"}
    for view in views:
        assert "acdc (PHANTOM, synthetic), 6 cases of 3 patients; preprocessed grid" in view.caption
        assert "Mean over cases" in view.caption or "15 equal right-closed bins" in view.caption


def test_every_figure_names_its_data_and_metric(analysis: Analysis) -> None:
    figures = figures_of(analysis)
    assert all(len(figure.alt) > 40 for figure in figures)
    drawn = {one.name: " ".join(one.figure.get_suptitle().split()) for one in figures}
    assert {"multipliers_0", "worst_cases", "sweep_margin", "cases", "true_error"} <= set(drawn)
    for name, caption in drawn.items():
        assert "acdc (PHANTOM, synthetic)" in caption, name
        assert "preprocessed grid" in caption, name
    bins = {name for name, caption in drawn.items() if "15 equal right-closed bins" in caption}
    assert set(drawn) - bins == {"multipliers_0", "worst_cases"}
    assert "all voxels of the validation cases, pooled" in drawn["multipliers_0"]
    assert "per case" in drawn["worst_cases"]
    assert "labeled foreground (label)" in drawn["reliability_label"]
    assert "all voxels, no bins" in drawn["worst_cases"]


def test_the_selected_epoch_has_its_validation_and_test_values(analysis: Analysis) -> None:
    view = selection_view(analysis)
    assert view is not None
    rows = view.frame.set_index(["loss", "rule"])
    assert len(rows) == 3 * 4
    assert list(rows.loc[("cals", "nll")][:4]) == ["1 1", "0.7000", "0.3000", "0.0300"]
    runs = next(arm.runs for arm in analysis.group.arms if arm.name == "cals")
    for name, column in {"dice": "test Dice", "nll": "test NLL", "ece": "test ECE"}.items():
        for rule, tag in (("nll", "best-nll"), ("dice", "best")):
            values = [of_test(run.folder / "test" / tag)[name] for run in runs]
            assert rows.loc[("cals", rule), column] == f"{sum(values) / 2:.4f}"
        assert rows.loc[("cals", "ece"), column] == ""


def of_test(folder: Path) -> dict[str, float]:
    """Overlap and errors over all voxels in a test's own file."""
    metrics = json.loads((folder / "metrics.json").read_text())
    pooled = metrics["sound"]["all"]["pooled"]
    return {"dice": metrics["dice"]["mean"]["value"]} | {
        name: pooled[name]["value"] for name in ("nll", "ece")
    }
