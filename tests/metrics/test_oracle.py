"""Every sound metric, region, channel and pooling against single voxels in pure Python."""

import itertools
import math

import pytest
import torch

from mbls.metrics import (
    AdaptiveCalibrationError,
    CalibrationHistogram,
    SmoothCalibrationError,
    estimate,
)
from mbls.metrics.catalog import METRICS
from mbls.metrics.fine import fine_cells
from mbls.metrics.regions import REGIONS
from tests.metrics import oracle

CLASSES, CASES = 4, 3
UNIONS = {"a": (1, 2), "b": (3, 0, 1)}
CLOSE = 1e-8  # confidences are kept to 2**-31
LOG_CLOSE = 1e-6  # logarithms of float32 are good to 3e-7 of their value
SHAPES = {"2d": ((9, 8), (1.5, 2.75)), "3d": ((5, 6, 4), (1.25, 2.5, 4.0))}


def rows_of(probs):
    return probs.movedim(0, -1).flatten(0, -2).double().tolist()


def volume(shape):
    """A few smooth structures, one class missing, some voxels ignored; the last case is empty."""
    size = torch.tensor(shape)
    target = torch.zeros(CASES, *shape, dtype=torch.long)
    for n in range(CASES - 1):
        for k in (1, 2):
            low = (torch.rand(len(shape)) * size / 2).long()
            target[(n, *[slice(a, a + 2 + n) for a in low.tolist()])] = k
    target[:, :1] = -100
    probs = (torch.randn(CASES, CLASSES, *shape) * 2).softmax(1)
    return probs, target


@pytest.fixture(scope="module", params=SHAPES)
def counted(request):
    torch.manual_seed(1)
    shape, spacing = SHAPES[request.param]
    probs, target = volume(shape)
    posterior = torch.randn_like(probs).softmax(1)
    margins = {"dilated_mm": oracle.DILATED_MM, "boundary_mm": oracle.BOUNDARY_MM}
    histogram = CalibrationHistogram(
        CLASSES, regions=REGIONS, num_cases=CASES, unions=UNIONS, **margins
    )
    histogram.update(
        probs,
        target,
        index=torch.arange(CASES),
        spacing=torch.tensor([spacing] * CASES),
        posterior=posterior,
    )
    cases = [(rows_of(p), y.flatten().tolist()) for p, y in zip(probs, target, strict=True)]
    where = oracle.places(shape, spacing)
    chosen = {
        region: [oracle.selected(*case, region, where=where) for case in cases]
        for region in REGIONS
    }
    return histogram, cases, where, chosen, [rows_of(q) for q in posterior]


def test_cells_of_every_region_and_case(counted):
    histogram, cases, where, _, _ = counted
    for n, (rows, labels) in enumerate(cases):
        expected = torch.zeros_like(histogram.cells[n])
        table = oracle.histogram(rows, labels, UNIONS.values(), REGIONS, where=where)
        for (region, channel, cell), entry in table.items():
            expected[REGIONS.index(region), channel, cell] = torch.tensor(entry)
        assert torch.equal(histogram.cells[n], expected)
    sizes = histogram.sums[..., 0]
    assert (sizes[:2, 3] > sizes[:2, 1]).all()  # dilated has more voxels than the label
    assert sizes[2, 1:].tolist()[0] == 0  # without foreground


TOP, CLASSWISE, SCORES = (
    [key for m in METRICS if m.of == of
     for key in (m.key, *([f"{m.key}_floor"] if m.floor else []))]
    for of in ("top", "classes", "score")
)  # fmt: skip


def expected_values(chosen, n_bins, region, pairs=None):
    """All metrics of one set of voxels; NaN where there is none."""
    names = ["top", *map(str, range(CLASSES)), *UNIONS]
    if not chosen:
        return dict.fromkeys(
            [*TOP, *CLASSWISE, *SCORES] + [f"{m}/{c}" for m in TOP for c in names[1:]], math.nan
        )
    find = oracle.errors if pairs else oracle.counted_errors
    pairs = pairs or oracle.channel_pairs(chosen, UNIONS.values())
    each = {name: find(column, n_bins) for name, column in zip(names, pairs, strict=True)}
    values = dict(each["top"])
    values |= {f"{m}/{c}": each[c][m] for c in names[1:] for m in each[c]}
    classes = [str(k) for k in range(1 if region == "label" else 0, CLASSES)]
    for name in CLASSWISE:
        if name[1:] in each["top"]:
            values[name] = sum(each[k][name[1:]] for k in classes) / len(classes)
    return values


@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize("region", REGIONS)
def test_every_metric_pooled_and_per_case(counted, region, n_bins):
    histogram, _, _, chosen, _ = counted
    bins = histogram.bins()
    together = list(itertools.chain(*chosen[region]))
    pooled = expected_values(together, n_bins, region) | oracle.scores(together)
    each = [expected_values(c, n_bins, region) for c in chosen[region]]
    each = [v | (oracle.scores(c) if c else {}) for v, c in zip(each, chosen[region], strict=True)]
    assert set(pooled) >= {*TOP, *CLASSWISE, *SCORES, "ece/a", "mce/b", "ace/0"}
    for name, value in pooled.items():
        close = LOG_CLOSE if name == "nll" else CLOSE
        found, cases = estimate(bins, name, region=region, n_bins=n_bins)
        assert found == pytest.approx(value, abs=close), name
        known = [v[name] for v in each if not math.isnan(v[name])]
        assert cases == len(known)
        found, cases = estimate(bins, name, region=region, pooling="per_case", n_bins=n_bins)
        assert found == pytest.approx(sum(known) / len(known), abs=close), name
        assert cases == len(known)


@pytest.mark.parametrize("region", ["all", "label", "union"])
def test_every_true_error_over_all_labels(counted, region):
    histogram, cases, _, _, posterior = counted
    rows, chances = [], []
    for (one, labels), known in zip(cases, posterior, strict=True):
        kept = [n for n, label in enumerate(labels) if label != -100]
        rows += [one[n] for n in kept]
        chances += [known[n] for n in kept]
    pairs = oracle.expected_pairs(rows, chances, region, UNIONS.values())
    for name, value in expected_values(rows, 15, region, pairs).items():
        found, _ = estimate(histogram.bins(), f"true_{name}", region=region)
        # The weights too are kept to 2**-31.
        assert found == pytest.approx(value, abs=1e-7), name


def test_errors_of_the_fine_grid_where_no_two_voxels_share_a_cell():
    kept, seen = [], [set() for _ in range(4)]
    for row in (torch.randn(60, 3) * 1.5).softmax(1):
        cells = fine_cells(torch.cat([row.amax()[None], row])).tolist()
        if not any(cell in before for cell, before in zip(cells, seen, strict=True)):
            kept.append(row)
            for cell, before in zip(cells, seen, strict=True):
                before.add(cell)
    probs, target = torch.stack(kept), torch.randint(3, (len(kept),))
    assert len(probs) > 30
    rows, labels = probs.double().tolist(), target.tolist()
    top, *classes = oracle.channel_pairs(list(zip(rows, labels, strict=True)), ())
    adaptive = AdaptiveCalibrationError(3, n_bins=7)
    thresholded = AdaptiveCalibrationError(3, n_bins=7, threshold=0.05)
    smooth = SmoothCalibrationError(3)
    for metric in (adaptive, thresholded, smooth):
        metric.update(probs, target)
    assert adaptive.compute().item() == pytest.approx(oracle.equal_mass_error(top, 7), abs=CLOSE)
    kept = [[pair for pair in column if pair[0] > 0.05] for column in classes]
    assert any(len(k) < len(c) for k, c in zip(kept, classes, strict=True))
    expected = sum(oracle.equal_mass_error(column, 7) for column in kept) / 3
    assert thresholded.compute().item() == pytest.approx(expected, abs=CLOSE)
    assert smooth.compute().item() == pytest.approx(oracle.smooth_error(top), abs=2e-4)
