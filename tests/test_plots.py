"""Reliability diagrams draw the histogram's own numbers and say what they are."""

import numpy as np
import pytest

from mbls.metrics.summary import summarize
from mbls.plots import (
    confidence_figure,
    multipliers_figure,
    reliability_figure,
    save_figure,
    spread_figure,
    truth_figure,
)
from mbls.plots.reliability import share_interval
from mbls.plots.spread import case_counts
from mbls.plots.style import INCHES
from tests.metrics.test_results import ABOUT, META, scored


@pytest.fixture(scope="module")
def bins():
    return scored()[0].bins()


def test_multipliers_that_stayed_are_told_in_words():
    rows = [
        {"epoch": e, "train/lambda/a": 0.1 * e, "train/lambda/b": 0.2, "train/rho/a": 1, "val/x": 3}
        for e in range(3)
    ]
    about = {"dataset": "d", "network": "n", "loss": "l", "seed": 0, "origin": "phantom"}
    figure = multipliers_figure(rows, meta=about)
    assert [axes.get_ylabel() for axes in figure.axes] == ["multiplier"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    assert "Every penalty weight stayed 1." in figure.get_suptitle()
    assert "PHANTOM" in figure.get_suptitle()
    still = [{"epoch": 0, "train/lambda/a": 0.1, "train/rho/a": 1}]
    figure = multipliers_figure(still, meta=about)
    assert [axes.get_ylabel() for axes in figure.axes] == ["multiplier"]  # though none has moved
    assert "Every multiplier stayed 0.1. Every penalty weight stayed" in figure.get_suptitle()


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


@pytest.mark.parametrize(("origin", "word"), [("phantom", "PHANTOM"), ("real", "real data")])
def test_caption(bins, origin, word):
    figure = reliability_figure(bins, meta=META | {"origin": origin}, region="label")
    text = figure.get_suptitle()
    for part in (word, "acdc", "3 cases", "labelled foreground", "pooled", "sound", "15"):
        assert part in text


def test_files(bins, tmp_path):
    save_figure(reliability_figure(bins, meta=META), tmp_path / "reliability")
    assert (tmp_path / "reliability.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "reliability.pdf").read_bytes()[:4] == b"%PDF"


def test_band_holds_the_shares(bins):
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
    with pytest.raises(ValueError, match="got a pooled one"):
        spread_figure(bins.pool(), meta=META)


def test_confidence_bars_are_right_and_wrong_voxels(bins):
    figure = confidence_figure(bins, meta=META)
    titles = ["All voxels", "Labelled foreground", "Labelled or predicted foreground"]
    assert [axes.get_title() for axes in figure.axes] == titles
    for axes, region in zip(figure.axes, bins.regions, strict=True):
        count, hits, _ = bins.pool().table(region, 15)[:, 0, 0]
        np.testing.assert_allclose(heights(axes, "right"), hits)
        np.testing.assert_allclose(heights(axes, "wrong"), count - hits)
    assert "PHANTOM" in figure.get_suptitle()


def test_true_and_measured_errors_are_the_summarys():
    histogram, dice = scored()
    metrics = summarize(histogram.bins(), dice.counts.numpy(), **ABOUT)
    figure = truth_figure(metrics)
    assert "PHANTOM" in figure.get_suptitle()
    rows = [(r, p) for r in ("all", "label", "union") for p in ("pooled", "per_case")]
    for axes, metric in zip(figure.axes, ("ece", "cece", "signed"), strict=True):
        cells = [metrics["sound"][r][p] for r, p in rows]
        for word, name in (("measured", metric), ("true", f"true_{metric}")):
            found = [line.get_xdata()[0] for line in axes.lines if line.get_label() == word]
            assert found == [c[name]["value"] for c in cells]
        limits = [[point[0] for point in path.vertices]
                  for lines in axes.collections for path in lines.get_paths()]  # fmt: skip
        assert [cells[0][metric]["low"], cells[0][metric]["high"]] in limits
        corrected = [line for line in axes.lines if line.get_label() == "corrected"]
        assert len(corrected) == (0 if metric == "signed" else 3)


def test_true_errors_need_a_posterior():
    histogram, dice = scored(posterior=False)
    metrics = summarize(histogram.bins(), dice.counts.numpy(), **ABOUT)
    with pytest.raises(ValueError, match="this run knew none"):
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
