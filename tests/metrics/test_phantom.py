"""On a phantom the labels' distribution is known: measured errors agree with true ones."""

from itertools import product

import numpy as np
import pytest
import torch

from datamodules.phantom import ACDC, Patient, PhantomSettings, draw_labels, posterior
from datamodules.phantom.posterior import stream
from mbls.cli import main
from mbls.evaluation import TestRun, from_bins
from mbls.metrics import CalibrationHistogram, estimate
from mbls.metrics.estimates import POOLINGS

PATIENTS = 16
DRAWS = 39
REGIONS = ("all", "label", "union")


def draw_hearts(patients, **settings):
    """Each patient's end-diastolic posterior, the labels written, and a way to redraw them."""
    found = []
    for number in range(1, patients + 1):
        patient = Patient(number, name=ACDC.name("", number))
        scan = ACDC.draw(patient, ACDC.settled(PhantomSettings(**settings)), 0)[0][0]
        case = scan.annotation
        known = torch.from_numpy(posterior(case))[None]

        def draw(rng, case=case):
            return torch.from_numpy(draw_labels(case, rng))[None]

        found.append((known, draw(stream(0, number, f"labels {scan.name}")), draw))
    return found


@pytest.fixture(scope="module")
def redrawn():
    """The first four patients that ``make data`` writes, and their labels drawn again."""
    hearts = draw_hearts(4)
    generators = [np.random.default_rng(1 + i) for i in range(DRAWS)]
    return hearts, [[draw(rng) for _, _, draw in hearts] for rng in generators]


@pytest.fixture(scope="module")
def coarse_hearts():
    """Patients on a grid of a quarter of the voxels."""
    return draw_hearts(PATIENTS, coarsen=2.0)


def counted(hearts, sharpness=1.0, labels=None):
    """The histogram of predictions: of the written labels with the posterior, or of given ones."""
    histogram = CalibrationHistogram(4, num_cases=len(hearts))
    for n, (known, written, _) in enumerate(hearts):
        probs = known if sharpness == 1 else (known.clamp_min(1e-12).log() * sharpness).softmax(1)
        target, truth = (written, known) if labels is None else (labels[n], None)
        histogram.update(probs, target, index=torch.tensor([n]), posterior=truth)
    return histogram.bins()


def test_the_posteriors_own_error_is_that_of_redrawn_labels(redrawn):
    hearts, draws = redrawn
    written = counted(hearts)
    again = [counted(hearts, labels=labels) for labels in draws]
    for region, pooling, metric in product(REGIONS, POOLINGS, ("ece", "cece", "brier", "nll")):
        settings = {"region": region, "pooling": pooling}
        drawn = [estimate(bins, metric, **settings)[0] for bins in again]
        low, high = np.quantile(drawn, [0.025, 0.975])
        value = estimate(written, metric, **settings)[0]
        assert low <= value <= high, (region, pooling, metric, low, value, high)
        assert high > low
    # The posterior is calibrated, to the precision it is stored with.
    assert estimate(written, "true_ece")[0] < 1e-6
    assert estimate(written, "true_cece")[0] < 1e-6


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_measured_error_meets_the_true_one(coarse_hearts, sharpness, few_draws):
    bins = counted(coarse_hearts, sharpness)
    names = ["background", "RV", "MYO", "LV"]
    about = {"dataset": "acdc", "origin": "phantom", "class_names": names}
    patients = [str(n) for n in range(PATIENTS)]
    counts = np.ones((PATIENTS, 4, 3), dtype=np.int64)
    metrics = TestRun(bins, counts, patients, patients, about).summary()["sound"]
    for region in ("label", "union"):
        cells = metrics[region]["pooled"]
        for metric in ("ece", "cece", "signed"):
            measured, true = cells[metric], cells[f"true_{metric}"]["value"]
            assert measured["low"] <= true <= measured["high"], (region, metric, measured, true)
    # Over all voxels the error is small against what whole slices drawn in or out add to it: the
    # measured one is too high per case, while the signed one has no such bias. Pooled the bias is
    # no larger than the difference of two draws of the labels; the draws of patients show it.
    for metric in ("ece", "cece"):
        for region in REGIONS:
            better = metrics[region]["pooled"][f"{metric}_corrected"]
            true = metrics[region]["pooled"][f"true_{metric}"]["value"]
            assert better["low"] <= true <= better["high"], (region, metric, better, true)
    for pooling in POOLINGS:
        cells = metrics["all"][pooling]
        measured, true = cells["signed"], cells["true_signed"]["value"]
        assert measured["low"] <= true <= measured["high"]
        assert true * (1 if sharpness > 1 else -1) > 0
        for metric in ("ece", "cece") if pooling == "per_case" else ():
            assert cells[metric]["value"] > cells[f"true_{metric}"]["value"]


def test_per_case_errors_exceed_the_true_ones_as_redrawn_labels_do(redrawn):
    """One labelling differs from the next by whole slices, which voxels' independence ignores."""
    hearts, draws = redrawn
    written = counted(hearts, 2.0)
    again = [counted(hearts, 2.0, labels) for labels in draws]
    for metric in ("ece", "cece"):
        settings = {"region": "all", "pooling": "per_case"}
        drawn = np.array([estimate(bins, metric, **settings)[0] for bins in again])
        value, true, floor = (
            estimate(written, name, **settings)[0]
            for name in (metric, f"true_{metric}", f"{metric}_floor")
        )
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert low <= value <= high
        assert true < low  # no labeling shows as little
        assert drawn.mean() - true > 2 * floor  # the floor is a lower bound of the noise


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The test results of a network trained for two epochs on the default phantom."""
    folder = tmp_path_factory.mktemp("trained")
    args = ["--dataset", "acdc", "--loss", "mbls", "--network", "unet", "--preset", "quick"]
    args += ["--epochs", "2", "--accelerator", "cpu", "--run", str(folder / "run")]
    args += ["--data.init_args.phantom_root", str(folder / "phantom")]
    args += ["--data.init_args.cache_dir", str(folder / "cache")]
    args += ["--trainer.callbacks", "null", "--trainer.enable_progress_bar", "false"]
    assert main(["train", *args]) == 0
    return from_bins(folder / "run" / "test" / "best" / "bins.npz")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("metric", ["ece", "cece", "signed"])
def test_measured_error_of_a_trained_network_meets_the_true_one(trained, metric):
    assert trained["dice"]["mean"]["value"] > 0.5
    for region, pooling in product(REGIONS, POOLINGS):
        cells = trained["sound"][region][pooling]
        true = cells[f"true_{metric}"]["value"]
        for name in (metric, f"{metric}_corrected"):
            if name in cells:
                low, high = cells[name]["low"], cells[name]["high"]
                assert low <= true <= high, (region, pooling, name, low, true, high)
