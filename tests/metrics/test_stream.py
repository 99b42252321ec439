"""A stream of known calibration error, far beyond what float32 sums can count."""

from fractions import Fraction

import pytest
import torch

from mbls.metrics import CalibrationHistogram, estimate

CHUNK = 1_000_000


def known_stream():
    """One chunk with its exact error: 90 % of the voxels at high confidence, too sure by 0.03."""
    values = torch.cat([torch.linspace(0.98, 0.9999, 40), torch.linspace(0.51, 0.97, 60)])
    share = [22_500] * 40 + [1_666] * 59 + [1_706]
    counts = torch.tensor(share)
    assert counts.sum() == CHUNK
    hits = (counts * (values - 0.03)).long()
    confidence = values.repeat_interleave(counts)
    first = torch.cat([torch.arange(n) < h for n, h in zip(share, hits.tolist(), strict=True)])
    probs = torch.stack([confidence, 1 - confidence])[None]
    target = 1 - first.long()[None]
    gaps: dict[int, Fraction] = {}
    for value, n, h in zip(values.tolist(), share, hits.tolist(), strict=True):
        bin_ = int(-(-Fraction(value) * 15 // 1))  # the smallest b with value <= b / 15
        gaps[bin_] = gaps.get(bin_, Fraction(0)) + h - n * Fraction(value)
    return probs, target, float(sum(abs(g) for g in gaps.values()) / CHUNK)


def streamed(chunks):
    probs, target, error = known_stream()
    histogram = CalibrationHistogram(2, regions=("all",))
    size = histogram.cells.numel()
    for n in range(chunks):
        shift = 37 * n  # another cut into pieces each time
        histogram.update(probs.roll(shift, -1), target.roll(shift, -1))
    assert histogram.cells.numel() == size
    assert histogram.sums[0, 0] == chunks * CHUNK
    return estimate(histogram.bins(), "ece")[0], error


def test_ece_of_twenty_million_voxels_is_exact():
    found, error = streamed(20)  # 18 in one bin: float32 counts stop at 16.8 million
    assert found == pytest.approx(error, rel=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ece_of_a_thousand_million_voxels_is_exact():
    found, error = streamed(1000)
    assert found == pytest.approx(error, rel=1e-9)
