"""Figures draw the histogram's own numbers, and their captions name them."""

import numpy as np
import pytest

from mbls.plots import (
    confidence_figure,
    multipliers_figure,
    reliability_figure,
    remove_caption,
    spread_figure,
    truth_figure,
    worst_figure,
)
from mbls.plots.case_spread import case_spread_figure
from mbls.plots.reliability import share_interval
from mbls.plots.side_by_side import side_by_side_figure
from mbls.plots.spread import case_counts
from mbls.plots.style import INCHES
from mbls.plots.truth import measured_figure
from tests.evaluation.counted import META, counted, scored
from tests.report.fake import worst

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def bins():
    return scored()[0].bins()


def test_constant_multipliers_are_in_the_caption():
    rows = [
        {"epoch": e, "train/lambda/a": 0.1 * e, "train/lambda/b": 0.2, "train/rho/a": 1, "val/x": 3}
        for e in range(3)
    ]
    about = {"dataset": "d", "network": "n", "loss": "l", "seed": 0, "origin": "phantom"}
    figure = multipliers_figure(rows, meta=about)
    assert [axes.get_ylabel() for axes in figure.axes] == ["multiplier"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    assert "Every penalty weight stayed 1" in figure.get_suptitle()
    assert "PHANTOM" in figure.get_suptitle()
    still = [{"epoch": 0, "train/lambda/a": 0.1, "train/rho/a": 1}]
    figure = multipliers_figure(still, meta=about)
    assert [axes.get_ylabel() for axes in figure.axes] == ["multiplier"]  # though none has moved
    assert "Every multiplier stayed 0.1. Every penalty weight" in figure.get_suptitle()


def heights(axes, label):
    bars = next(c for c in axes.containers if c.get_label() == label)
    return np.array([bar.get_height() for bar in bars])


def test_bars_are_the_bins(bins):
    figure = reliability_figure(bins, meta=META, n_bins=10)
    diagrams = figure.axes[::2]
    names = [axes.get_title().splitlines()[0] for axes in diagrams]
    assert names == ["top label", "background", "RV", "MYO", "heart"]
    table = bins.pool().table("all", 10)[:, 0]
    for axes, (count, hits, confidence) in zip(diagrams, table.swapaxes(0, 1), strict=True):
        filled = count > 0
        np.testing.assert_allclose(heights(axes, "hits"), hits[filled] / count[filled])
        gap = (confidence - hits)[filled] / count[filled]
        np.testing.assert_allclose(heights(axes, "gap"), gap, atol=1e-12)
    counts = [bar.get_height() for bar in figure.axes[1].patches]
    assert counts == table[0, 0].tolist()
    assert figure.axes[1].get_yscale() == "log"


@pytest.mark.parametrize(("origin", "shown"), [("phantom", "PHANTOM"), ("real", "real data")])
def test_caption(bins, origin, shown):
    figure = reliability_figure(bins, meta=META | {"origin": origin}, region="label")
    text = figure.get_suptitle()
    for part in (shown, "acdc", "3 cases", "Labeled foreground (label)", "pooled", "15"):
        assert part in text


def test_band_contains_the_shares(bins):
    patients = ["a", "b", "c"]
    low, high = share_interval(bins, patients, region="all", n_bins=15)
    count, hits, _ = bins.pool().table("all", 15)[:, 0]
    filled = count > 0
    share = hits[filled] / count[filled]
    assert ((low[filled] <= share) & (share <= high[filled])).all()
    assert np.isnan(low[~filled]).all()
    assert (high - low)[filled].max() > 0
    figure = reliability_figure(bins, meta=META, patients=patients)
    assert "95 % intervals over patients" in figure.get_suptitle()


def test_spread_counts_cases(bins):
    count = np.array([[4, 0], [4, 2], [4, 2]])
    hits = np.array([[4, 0], [2, 1], [2, 0]])
    counts = case_counts(count, hits)
    assert counts.sum() == 5
    assert counts[19, 0] == 1  # all hits
    assert counts[10, 0] == 2
    assert counts[10, 1] == counts[0, 1] == 1
    figure = spread_figure(bins, meta=META)
    assert "PHANTOM" in figure.get_suptitle()
    with pytest.raises(ValueError, match="histogram pooled"):
        spread_figure(bins.pool(), meta=META)


def test_confidence_bars_are_right_and_wrong_voxels(bins):
    figure = confidence_figure(bins, meta=META)
    titles = ["All voxels", "Labeled foreground (label)", "Labeled or predicted foreground (union)"]
    assert [" ".join(axes.get_title().split()) for axes in figure.axes] == titles
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"right", "wrong", "mean confidence", "accuracy"}
    for axes, region in zip(figure.axes, bins.regions, strict=True):
        count, hits, _ = bins.pool().table(region, 15)[:, 0, 0]
        np.testing.assert_allclose(heights(axes, "right"), hits)
        np.testing.assert_allclose(heights(axes, "wrong"), count - hits)
    assert "PHANTOM" in figure.get_suptitle()


def test_true_and_measured_errors_are_the_summarys():
    metrics = counted().summary()
    figure = truth_figure(metrics)
    assert "PHANTOM" in figure.get_suptitle()
    rows = [(r, p) for r in ("all", "label", "union") for p in ("pooled", "per_case")]
    for axes, metric in zip(figure.axes, ("ece", "cece", "signed"), strict=True):
        cells = [metrics["sound"][r][p] for r, p in rows]
        for label, name in (("measured", metric), ("true", f"true_{metric}")):
            found = [line.get_xdata()[0] for line in axes.lines if line.get_label() == label]
            assert found == [c[name]["value"] for c in cells]
        limits = [[point[0] for point in path.vertices]
                  for lines in axes.collections for path in lines.get_paths()]  # fmt: skip
        assert [cells[0][metric]["low"], cells[0][metric]["high"]] in limits
        corrected = [line for line in axes.lines if line.get_label() == "corrected"]
        assert len(corrected) == (0 if metric == "signed" else 3)


def test_true_errors_need_a_posterior():
    metrics = counted(posterior=False).summary()
    with pytest.raises(ValueError, match="had none"):
        truth_figure(metrics)


@pytest.mark.parametrize("draw", [reliability_figure, spread_figure, confidence_figure])
def test_a_figure_fits_a_page_and_its_caption_the_figure(bins, draw):
    meta = META | {"network": "unet", "loss": "mbls", "seed": 3}
    figure = draw(bins, meta=meta)
    assert figure.get_figwidth() <= INCHES
    assert figure.get_figheight() <= 10
    figure.draw_without_rendering()
    text = figure._suptitle.get_window_extent()
    assert text.x1 <= figure.bbox.x1
    assert "unet · mbls · seed 3" in figure.get_suptitle()


def box(axes):
    """Left, right, lower and upper edge in pixels, of a figure that was laid out."""
    return np.array(axes.get_window_extent().extents)[[0, 2, 1, 3]]


def is_whole(figure):
    """Return True if nothing is cut off at an edge."""
    inside = figure.get_tightbbox()
    return (np.array([inside.x0, inside.y0]) >= 0).all() and (
        np.array([inside.x1, inside.y1]) <= figure.get_size_inches() + 0.01
    ).all()


@pytest.mark.parametrize("draw", [reliability_figure, spread_figure])
def test_panels_are_square_and_bins_are_above_their_counts(bins, draw):
    figure = draw(bins, meta=META)
    figure.draw_without_rendering()
    assert is_whole(figure)
    counts = draw is reliability_figure
    for upper in figure.axes[: 10 if counts else 5 : 1 + counts]:
        left, right, low, high = box(upper)
        assert high - low == pytest.approx(right - left, rel=0.01)
    for upper, below in zip(figure.axes[::2], figure.axes[1::2], strict=False):
        assert not counts or box(upper)[:2] == pytest.approx(box(below)[:2], abs=0.01)


def test_both_kinds_of_gap_are_explained(bins):
    figure = reliability_figure(bins, meta=META, patients=["a", "b", "c"])
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    for label in ("share of hits", "overconfident", "underconfident", "95 % interval"):
        assert label in legend


@pytest.mark.parametrize("number", [1, 3, 6])
def test_diagrams_side_by_side_are_whole(bins, number):
    table = bins.pool().table("all", 15)[:, 0, 0]
    tables = {f"a loss of a long name, margin={k}": [table] for k in range(number)}
    caption = ["acdc (real data). " * 12]
    figure = side_by_side_figure(tables, caption=caption)
    figure.draw_without_rendering()
    assert is_whole(figure)
    title = figure.axes[0].title.get_window_extent()
    assert title.y1 < figure._suptitle.get_window_extent().y0
    left, right, low, high = box(figure.axes[0])
    assert high - low == pytest.approx(right - left, rel=0.01)
    (voxels,) = [c for c in figure.axes[0].containers if c.get_label() == "voxels"]
    assert [bar.get_width() for bar in voxels] == pytest.approx([1 / 15] * 15)


def test_long_names_leave_the_columns_of_the_worst_cases_where_they_are():
    long = "mbls margin=5 alpha=0.1, seed 1: patient040_frame01, slice 4, Dice 0.432 " * 2
    pictures = [worst("a", 0), worst("b", 1)]
    figure = worst_figure(pictures, meta=META, names=[long, "b"])
    figure.draw_without_rendering()
    assert is_whole(figure)
    lefts = [box(axes)[0] for axes in figure.axes[:5]]
    assert np.diff(lefts) == pytest.approx([np.diff(lefts).mean()] * 4, rel=0.02)
    for axes in figure.axes[3:10:5]:  # the confidence of three classes is at least a third
        assert axes.images[-1].get_clim() == pytest.approx((1 / 3, 1))


@pytest.mark.parametrize(
    ("draw", "origin"), [(reliability_figure, "phantom"), (confidence_figure, "real")]
)
def test_a_caption_can_be_taken_off(bins, draw, origin):
    figure = draw(bins, meta=META | {"origin": origin})
    figure.draw_without_rendering()
    before, caption, high = box(figure.axes[0]), figure.get_suptitle(), figure.get_figheight()
    assert remove_caption(figure) == caption
    figure.draw_without_rendering()
    left, right, low, up = box(figure.axes[0])
    assert [right - left, up - low] == pytest.approx(np.diff(before)[[0, 2]], rel=0.01)
    assert figure.get_figheight() < high
    assert figure.get_suptitle() == ("PHANTOM, synthetic data" if origin == "phantom" else "")


def test_cases_without_a_value_are_counted():
    values = {"Dice": {"ce": np.array([0.5, np.nan, 0.7])}, "ECE": {"ce": np.array([0.1] * 3)}}
    dice, ece = case_spread_figure(values, caption=["acdc"]).axes
    assert "2 of 3 cases" in dice.get_xlabel()
    assert ece.get_xlabel() == "ECE"
    empty = side_by_side_figure({"ce": [np.zeros((3, 15))]}, caption=["acdc"])
    assert empty.axes[0].get_title() == "ce\nno voxels"


def test_regions_have_the_same_name_in_every_figure(bins):
    name = "labeled foreground (label)"
    metrics = counted().summary()
    truth = [label.get_text() for label in truth_figure(metrics).axes[0].get_yticklabels()]
    values = {f"ECE, {name}, pooled": {"ce": ((0.1, 0.0, 0.2), (0.1, 0.0, 0.2))}}
    measured = measured_figure(values, caption=["acdc"])
    measured.draw_without_rendering()
    assert is_whole(measured)
    for text in (
        reliability_figure(bins, meta=META, region="label").get_suptitle(),
        confidence_figure(bins, meta=META).axes[1].get_title(),
        *[label for label in truth if "label)" in label],
        measured.axes[0].get_xlabel(),
    ):
        assert name in " ".join(text.lower().split())
