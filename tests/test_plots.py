"""Reliability diagrams draw the histogram's own numbers and say what they are."""

import numpy as np
import pytest

from mbls.plots import confidence_figure, reliability_figure, save_figure, spread_figure
from mbls.plots.reliability import share_interval
from mbls.plots.spread import case_counts
from tests.metrics.test_results import META, scored


@pytest.fixture(scope="module")
def bins():
    return scored()[0].bins()


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
    assert [axes.get_title() for axes in figure.axes] == list(bins.regions)
    for axes, region in zip(figure.axes, bins.regions, strict=True):
        count, hits, _ = bins.pool().table(region, 15)[:, 0, 0]
        np.testing.assert_allclose(heights(axes, "right"), hits)
        np.testing.assert_allclose(heights(axes, "wrong"), count - hits)
    assert "PHANTOM" in figure.get_suptitle()
