"""Reliability diagrams draw the histogram's own numbers and say what they are."""

import numpy as np
import pytest

from mbls.plots import reliability_figure, save_figure
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
