"""Values that the reference implementations gave, under their own arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.metrics import (
    CalibrationHistogram,
    average_error,
    estimate,
    expected_error,
    maximum_error,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "metrics_calibration.npz")
# The stored values hold to 1e-7; each confidence is kept to 2**-31 = 5e-10.
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def counted(volume, **kwargs):
    probs = torch.from_numpy(GOLDEN[f"logits_vol{volume}"]).double().softmax(1)
    target = torch.from_numpy(GOLDEN[f"labels_vol{volume}"])
    histogram = CalibrationHistogram(probs.shape[1], **kwargs)
    index = torch.arange(len(probs)) if histogram.num_cases else None
    histogram.update(probs, target, index=index)
    return histogram.bins()


@pytest.mark.parametrize("volume", [0, 1])
@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize(("scope", "region"), [("all", "all"), ("foreground", "label")])
def test_top_label(volume, n_bins, scope, region):
    bins = counted(volume)
    stem = f"vol{volume}_{scope}_b{n_bins}__"
    published = {
        "ece": ("ece", "fn_ece"),
        "ece_l2": ("fn_l2",),
        "ace": ("fn_ace",),
        "mce": ("fn_mce",),
        "nll": ("nll",),
    }
    for metric, keys in published.items():
        value, _ = estimate(bins, metric, region=region, n_bins=n_bins)
        for key in keys:
            np.testing.assert_allclose(value, GOLDEN[stem + key], **CLOSE, err_msg=key)
    stem = f"torchmetrics_{stem}"
    for metric, key in (("ece", "l1"), ("ece_l2", "l2"), ("mce", "max")):
        value, _ = estimate(bins, metric, region=region, n_bins=n_bins)
        np.testing.assert_allclose(value, GOLDEN[stem + key], **CLOSE, err_msg=key)


@pytest.mark.parametrize("volume", [0, 1])
@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize(("scope", "region"), [("all", "all"), ("foreground", "label")])
def test_each_class(volume, n_bins, scope, region):
    bins = counted(volume)
    published = GOLDEN[f"vol{volume}_{scope}_b{n_bins}__cece_per_class"]
    ours = [
        estimate(bins, f"ece/{k}", region=region, n_bins=n_bins)[0] for k in range(len(published))
    ]
    np.testing.assert_allclose(ours, published, **CLOSE)


@pytest.mark.parametrize("volume", [0, 1])
@pytest.mark.parametrize("n_bins", [15, 20])
@pytest.mark.parametrize("first", [0, 1], ids=["bg", "nobg"])
def test_monai(volume, n_bins, first):
    bins = counted(volume, num_cases=2)
    stem = f"monai_vol{volume}_b{n_bins}_{'nobg' if first else 'bg'}__"
    table = bins.table("all", n_bins)[:, :, 1 + first :]
    count, hits, confidence = table
    np.testing.assert_array_equal(count, GOLDEN[stem + "bin_count"])
    with np.errstate(invalid="ignore"):
        for values, key in ((hits / count, "bin_mean_gt"), (confidence / count, "bin_mean_p")):
            stored = GOLDEN[stem + key]
            filled = count > 0
            np.testing.assert_allclose(values[filled], stored[filled], rtol=1e-6, atol=1e-8)
    for function, key in (
        (expected_error, "expected"),
        (average_error, "average"),
        (maximum_error, "maximum"),
    ):
        np.testing.assert_allclose(function(*table), GOLDEN[stem + key], rtol=1e-7, atol=1e-8)
        mean = function(*table).mean()
        np.testing.assert_allclose(mean, GOLDEN[f"{stem}{key}_aggregate"], rtol=1e-7, atol=1e-8)
