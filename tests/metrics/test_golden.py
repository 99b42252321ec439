"""Every metrics case of the reference implementations, and its counterpart here.

``ANSWERS`` has one row for each output of a method. Its kind says whether a class of the package
gives the number, a protocol, or, where no histogram can give it, the oracle of
:mod:`tests.metrics.as_coded`, and then why. Outputs whose name ends in ``_float32_as_is`` are the
same calls of the reference left in float32.
"""

from collections import Counter

import numpy as np
import pytest

from mbls.metrics import (
    AverageCalibrationError,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    NegativeLogLikelihood,
    average_error,
    expected_error,
    maximum_error,
)
from tests.metrics import answers as by
from tests.metrics.answers import CASES, Case

AS_IS = "_float32_as_is"
# Why a histogram does not give a number.
CUT = "equal-mass edges: ranks of single voxels, cut each code's own way"
INSIDE = "the threshold 1e-3 lies inside the first bin"
ORDER = "ECE-sweep: the number of bins depends on the order of the voxels"
NEIGHBORS = "label-based Brier: the target is a neighborhood of labels"
HALF_OPEN = "bins are [lo, hi): an edge is in the bin above"
SHAPE = "distances in voxels, both directions together, 0 where one is missing"

PAPERS = "mbls-voc, cals-voc"
BINS, MED = "CalibrationHistogram", "murugesan-med"
ECE = ("class", "ExpectedCalibrationError", by.metric(ExpectedCalibrationError))
ECE_L2 = ("class", "ExpectedCalibrationError", by.metric(ExpectedCalibrationError, norm="l2"))
MCE = ("class", "MaximumCalibrationError", by.metric(MaximumCalibrationError))
ACE = ("class", "AverageCalibrationError", by.metric(AverageCalibrationError))
CECE = ("class", "ClasswiseCalibrationError", by.metric(ClasswiseCalibrationError))
ANSWERS = {
    "ece_cece_aece_mce_ace": {
        "ece": ("protocol", PAPERS, by.papers("ece")),
        "cece": ("protocol", PAPERS, by.papers("cece")),
        "cece_per_class": ("class", BINS, by.each_class("ece")),
        "aece": ("oracle", CUT, by.interpolated),
        "fn_ece": ECE,
        "fn_mce": MCE,
        "fn_ace": ACE,
        "fn_l2": ECE_L2,
        "bin_table": ("class", BINS, by.mean_table),
        "accuracy": ("class", BINS, by.accuracy),
        "nll": ("class", "NegativeLogLikelihood", by.metric(NegativeLogLikelihood)),
        "calib_metrics_rounded4": ("protocol", MED, by.protocol("murugesan-med", "ece", "cece")),
        "thresh_cece_1e-3": ("oracle", INSIDE, lambda case: np.mean(by.thresholded(case))),
        "thresh_cece_per_class": ("oracle", INSIDE, by.thresholded),
    },
    "torchmetrics_multiclass_calibration_error": {"l1": ECE, "l2": ECE_L2, "max": MCE},
    "classwise_ece_ace_mce_per_image": {
        "expected": ("class", BINS, lambda c: expected_error(*by.image_tables(c))),
        "average": ("class", BINS, lambda c: average_error(*by.image_tables(c))),
        "maximum": ("class", BINS, lambda c: maximum_error(*by.image_tables(c))),
        "expected_mean_aggregate": ("protocol", "acl", by.image_aggregate(expected_error, "ece")),
        "average_mean_aggregate": ("protocol", "acl", by.image_aggregate(average_error, "ace")),
        "maximum_mean_aggregate": ("protocol", "acl", by.image_aggregate(maximum_error, "mce")),
        "bin_mean_p": ("class", BINS, by.image_means(1)),
        "bin_mean_gt": ("class", BINS, by.image_means(0)),
        "bin_count": ("class", BINS, lambda case: by.image_tables(case)[0]),
    },
    "crac_seg_brier": {
        "value": (
            "oracle",
            NEIGHBORS,
            lambda case: by.as_coded.neighborhood_brier(case.probs.numpy(), case["labels"]),
        )
    },
    "bin_edge_conventions": {
        "ece": ("protocol", "cals-voc", by.papers("ece")),
        "cece": ("protocol", "cals-voc", by.papers("cece")),
        "aece": ("oracle", CUT, by.interpolated),
        "fn_ece": ECE,
        "fn_mce": MCE,
        "fn_ace": ACE,
        "bin_table": ("class", BINS, by.mean_table),
        "torchmetrics_l1": ("oracle", HALF_OPEN, by.half_open("l1")),
        "torchmetrics_l2": ("oracle", HALF_OPEN, by.half_open("l2")),
        "torchmetrics_max": ("oracle", HALF_OPEN, by.half_open("max")),
        "monai_bin_count": ("class", BINS, by.class_counts),
        "monai_bin_count_right": ("class", BINS, by.class_counts),
    },
    "dice": {
        "dice_rounded4": ("protocol", MED, by.rounded_dice),
        "hd95": ("oracle", SHAPE, by.distances),
        "per_class": ("class", "DiceScore", by.exact_dice(unions=False)),
        "brats_ET_TC_WT": ("class", "DiceScore", by.exact_dice(unions=True)),
    },
    "dice_brats_regions": {
        "dice_rounded4": ("protocol", MED, by.rounded_dice),
        "hd95": ("oracle", SHAPE, by.distances),
    },
    "case_mean_evaluator": {
        "dice_per_case": ("protocol", MED, by.evaluated_dice),
        "hd_per_case": ("oracle", SHAPE, by.evaluated_distances),
        "ece_per_case": ("protocol", MED, lambda c: by.evaluated(c)[0]["ece"][:, None]),
        "cece_per_case": ("protocol", MED, lambda c: by.evaluated(c)[0]["cece"][:, None]),
        "mean": ("protocol", "murugesan-med; its distance by oracle", by.evaluated_means),
    },
    "verified_calibration": {
        "ece_plugin_equal_width_top_label": ECE,
        "ece_plugin_equal_width_marginal": CECE,
        "l2_debiased_equal_width_top_label": ("class", "debiased_square", by.debiased_width(False)),
        "l2_debiased_equal_width_marginal": ("class", "debiased_square", by.debiased_width(True)),
        "l1_plugin_equal_mass_top_label": ("oracle", CUT, by.halfway("l1")),
        "l2_plugin_equal_mass_top_label": ("oracle", CUT, by.halfway("l2")),
        "l2_debiased_equal_mass_top_label": ("oracle", CUT, by.halfway("debiased")),
        "l1_plugin_equal_mass_marginal": ("oracle", CUT, by.halfway("l1", marginal=True)),
        "l2_plugin_equal_mass_marginal": ("oracle", CUT, by.halfway("l2", marginal=True)),
        "l2_debiased_equal_mass_marginal": ("oracle", CUT, by.halfway("debiased", marginal=True)),
    },
    "general_calibration_error": {
        "ece": ECE,
        "rmsce_top": ("oracle", CUT, by.rounded_ranks_of_the_top),
        "sce_class_conditional": CECE,
        "sce_pooled": ("class", BINS, by.pooled_classes),
        "ace": ("oracle", CUT, by.rounded_ranks(-1)),
        "tace": ("oracle", CUT, by.rounded_ranks(0.01)),
    },
    "mdca_metrics": {
        "ece": ECE,
        "mce": MCE,
        "oe": ("class", BINS, by.weighted_overconfidence),
        "sce": CECE,
        "ace": ("oracle", CUT, by.stepped_ranks(0)),
        "tace": ("oracle", CUT, by.stepped_ranks(0.01)),
    },
    "ece_sweep": {
        "em_n_bins": ("oracle", ORDER, by.swept(True, 0)),
        "em_ece_l1": ("oracle", ORDER, by.swept(True, 1)),
        "ew_n_bins": ("oracle", ORDER, by.swept(False, 0)),
        "ew_ece_l1": ("oracle", ORDER, by.swept(False, 1)),
    },
    "smooth_ece": {
        "smece": ("class", "smooth_error", by.smooth()),
        "sigma": ("class", "smooth_error", by.smooth()),
        "smece_sigma_0p05": ("class", "smoothed_error", by.smooth(0.05)),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_published_value(name):
    case = Case(name)
    # A confidence is kept to 2**-31, a log-likelihood to 2**-27; an oracle works on the voxels.
    given, kept = CASES[name]["suggested_tolerance"], {"rtol": 1e-7, "atol": 1e-9}
    exact = {key: max(given[key], kept[key]) for key in kept}
    for output, key in CASES[name]["outputs"].items():
        kind, _, answer = ANSWERS[CASES[name]["method"]][output.removesuffix(AS_IS)]
        tolerance = given if kind == "oracle" else exact
        if output.endswith(AS_IS):
            tolerance = {"rtol": 1e-5, "atol": 2e-6}
        if output in ("smece", "sigma"):
            tolerance = {"rtol": 0, "atol": 1.1e-3}  # the published width comes in steps of 2**-10
        found = np.asarray(answer(case), dtype=np.float64)
        np.testing.assert_allclose(found, case.arrays[key], **tolerance, err_msg=output)


def test_every_output_has_an_answer_and_every_answer_an_output():
    outputs = Counter(
        (case["method"], output.removesuffix(AS_IS))
        for case in CASES.values()
        for output in case["outputs"]
    )
    assert set(outputs) == {(method, output) for method in ANSWERS for output in ANSWERS[method]}
    kinds = Counter()
    for (method, output), times in outputs.items():
        kinds[ANSWERS[method][output][0]] += times
    assert len(CASES) == 68
    assert kinds == {"class": 244, "protocol": 96, "oracle": 99}
