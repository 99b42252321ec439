"""The part of the package, or the oracle, that gives the numbers of a golden case.

Functions of one :class:`Case`; :mod:`tests.metrics.test_golden` has the table that names them.
"""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mbls.evaluation import PROTOCOLS, protocol_values
from mbls.evaluation.protocols import protocol_entries
from mbls.metrics import (
    CalibrationHistogram,
    DiceScore,
    FineHistogram,
    case_values,
    dice_scores,
    expected_error,
    maximum_error,
    smooth_error,
    smoothed_error,
)
from tests.metrics import as_coded

FOLDER = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((FOLDER / "metrics.json").read_text())}
ARRAYS = {name: np.load(FOLDER / name) for name in {case["npz"] for case in CASES.values()}}
NAMED = {protocol.name: protocol for protocol in PROTOCOLS}
BRATS = {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}


class Case:
    """One case: its arrays, and what of the package counts them."""

    def __init__(self, name):
        self.name, case = name, CASES[name]
        self.arrays, self.inputs, self.settings = (
            ARRAYS[case["npz"]],
            case["inputs"],
            case["hyperparameters"],
        )
        self.n_bins = self.settings.get("n_bins") or self.settings.get("num_bins", 15)
        self.region = "label" if "label != 0" in self.inputs.get("selection", "") else "all"

    def __getitem__(self, name):
        return self.arrays[self.inputs[name]]

    @cached_property
    def probs(self):
        if "probs" in self.inputs:
            return torch.from_numpy(self["probs"])
        if "confidence" in self.inputs:
            return torch.from_numpy(np.stack([1 - self["confidence"], self["confidence"]], 1))
        logits = torch.from_numpy(self["logits"])
        # On the edges on purpose: as float32 has them.
        return logits.softmax(1) if "edge" in self.name else logits.double().softmax(1)

    @cached_property
    def target(self):
        return torch.from_numpy(self["outcome" if "outcome" in self.inputs else "labels"]).long()

    @cached_property
    def volume(self):
        """Slices on the batch axis as one volume of a batch."""
        return self.probs.movedim(0, -1)[None], self.target.movedim(0, -1)[None]

    def count(self, histogram, volume=False):
        histogram.update(
            *(self.volume if volume else (self.probs, self.target)),
            index=torch.arange(1 if volume else len(self.probs)),
        )
        return histogram.bins()

    @cached_property
    def bins(self):
        return self.count(CalibrationHistogram(self.probs.shape[1]))

    @cached_property
    def top(self):
        """Confidences and hits of the region, ``(voxels,)`` each."""
        confidence, predicted = self.probs.double().max(1)
        chosen = self.target > 0 if self.region == "label" else self.target >= 0
        return confidence[chosen].numpy(), (predicted == self.target)[chosen].double().numpy()

    @cached_property
    def classes(self):
        """Confidences and hits of each class up to the largest label seen."""
        chosen = self.target > 0 if self.region == "label" else self.target >= 0
        return [
            (self.probs[:, k][chosen].numpy(), (self.target == k)[chosen].double().numpy())
            for k in range(int(self.target.max()) + 1)
        ]


def metric(build, **kwargs):
    """The value of one metric class."""

    def value(case):
        built = build(case.probs.shape[1], n_bins=case.n_bins, region=case.region, **kwargs)
        built.update(case.probs, case.target)
        return built.compute().item()

    return value


def named(name):
    """The value of one name of the histogram."""
    return lambda case: case_values(case.bins, name, region=case.region, n_bins=case.n_bins)[0]


def each_class(name):
    return lambda case: [named(f"{name}/{k}")(case) for k in range(len(case.classes))]


def protocol(name, *keys):
    """Values of one protocol for a whole volume."""

    def value(case):
        histogram = CalibrationHistogram(case.probs.shape[1], num_cases=1)
        bins = case.count(histogram, volume=True)
        values = protocol_values(bins, replace(NAMED[name], n_bins=case.n_bins))
        return [values[key][0] for key in keys]

    return value


def papers(key):
    """The margin-based codes: their foreground is one protocol, all voxels another."""
    return lambda case: protocol("mbls-voc" if case.region == "label" else "cals-voc", key)(case)


def accuracy(case):
    count, hits, _ = case.bins.table(case.region, 1)[:, 0, 0]
    return hits / count


def mean_table(case):
    count, hits, confidence = case.bins.table(case.region, case.n_bins)[:, 0, 0]
    n = np.maximum(count, 1)
    return np.stack([count, confidence / n, hits / n], -1)


def image_tables(case):
    """Each image's bins of each class ``(3, images, classes, n_bins)``."""
    histogram = CalibrationHistogram(case.probs.shape[1], num_cases=len(case.probs))
    first = 1 if case.settings.get("include_background", True) else 2
    return case.count(histogram).table("all", case.n_bins)[:, :, first:]


def image_means(quantity):
    def value(case):
        count, *sums = image_tables(case)
        return np.where(count > 0, sums[quantity] / np.maximum(count, 1), np.nan)

    return value


def image_aggregate(function, key):
    """Mean over images and classes; of foreground classes it is a protocol's."""

    def value(case):
        if case.settings["include_background"]:
            return function(*image_tables(case)).mean()
        histogram = CalibrationHistogram(case.probs.shape[1], num_cases=len(case.probs))
        values = protocol_values(case.count(histogram), replace(NAMED["acl"], n_bins=case.n_bins))
        return values[key].mean()

    return value


def class_counts(case):
    return case.bins.table("all", case.n_bins)[0, 0, 1:]


def counted_dice(predicted, target):
    """Dice as the published evaluators score it: absent structures 1, four decimals."""
    predicted, target = (torch.from_numpy(a)[None] for a in (predicted, target))
    classes = max(4, int(torch.stack([predicted, target]).max()) + 1)
    probs = torch.nn.functional.one_hot(predicted, classes).movedim(-1, 1).float()
    dice = DiceScore(classes, unions=BRATS, num_cases=1)
    dice.update(probs, target, index=torch.tensor([0]))
    return dice, np.round(dice_scores(dice.counts.numpy(), absent="one")[0], 4)


def region_order(scores):
    """Index 0 of the published regions repeats the whole tumor."""
    return scores[[-1, -3, -2, -1]]


def rounded_dice(case):
    _, scores = counted_dice(case["pred"], case["label"])
    if case.settings["dataset_type"]:
        return region_order(scores)
    return scores[: case.settings["num_classes"]]


def exact_dice(unions):
    def value(case):
        scores = counted_dice(case["pred"], case["label"])[0].compute()[0]
        return scores[-3:] if unions else scores[:-3]

    return value


def region_distances(predicted, target):
    members = [BRATS[name] for name in ("WT", "ET", "TC", "WT")]
    return [as_coded.hd95_in_voxels(np.isin(predicted, m), np.isin(target, m)) for m in members]


def distances(case):
    if case.settings["dataset_type"]:
        return region_distances(case["pred"], case["label"])
    return [
        as_coded.hd95_in_voxels(case["pred"] == k, case["label"] == k)
        for k in range(case.settings["num_classes"])
    ]


def volumes(case):
    for logits, labels in case.inputs["cases"]:
        yield case.arrays[logits], case.arrays[labels]


def evaluated(case):
    """Calibration of several volumes by the protocol: values of each, and the table's means."""
    histogram, dice = CalibrationHistogram(4, num_cases=3), DiceScore(4, num_cases=3)
    for n, (logits, labels) in enumerate(volumes(case)):
        probs = torch.from_numpy(logits).softmax(1).movedim(0, -1)[None]
        target, index = torch.from_numpy(labels).movedim(0, -1)[None], torch.tensor([n])
        histogram.update(probs, target, index=index)
        dice.update(probs, target, index=index)
    rule, bins = NAMED["murugesan-med"], histogram.bins()
    entries = protocol_entries(
        bins, dice.counts.numpy(), rule, {str(k): "" for k in range(4)}, None
    )
    return protocol_values(bins, rule), entries["label"]["per_case"]


def evaluated_dice(case):
    return [region_order(counted_dice(z.argmax(1), y)[1]) for z, y in volumes(case)]


def evaluated_distances(case):
    return [region_distances(logits.argmax(1), labels) for logits, labels in volumes(case)]


def evaluated_means(case):
    regions = (np.mean([v[1:] for v in f(case)]) for f in (evaluated_dice, evaluated_distances))
    means = evaluated(case)[1]
    return [*regions, means["ece"]["value"], means["cece"]["value"]]


def cut(case, cuts, channels=None, above=-1):
    """Yield the table of each channel's confidences above a threshold; of the top label if None."""
    for confidence, hits in channels or [case.top]:
        confidence, hits = confidence[confidence > above], hits[confidence > above]
        bins = cuts(confidence, case.n_bins)
        yield as_coded.table(bins, confidence, hits, case.n_bins)


def thresholded(case):
    return [
        as_coded.l1_error(*t) for t in cut(case, as_coded.closed_cuts, case.classes, above=1e-3)
    ]


def interpolated(case):
    (summed,) = cut(case, as_coded.interpolated_cuts)
    return as_coded.l1_error(*summed, total=len(case.top[0]))


def half_open(norm):
    def value(case):
        confidence, hits = case.top
        bins = as_coded.open_cuts(confidence, case.n_bins)
        summed = as_coded.table(bins, confidence, hits, case.n_bins + 1)
        if norm == "max":
            return maximum_error(*summed)
        return expected_error(*summed, norm=norm)

    return value


def halfway(formula, marginal=False):
    """Equal-mass errors of verified_calibration: of the top label, or of the classes' powers."""

    def value(case):
        tables = list(cut(case, as_coded.halfway_cuts, case.classes if marginal else None))
        if formula == "l1":
            return np.mean([as_coded.l1_error(*t) for t in tables])
        squares = [as_coded.l2_square(*t, debiased=formula == "debiased") for t in tables]
        return np.mean(np.maximum(squares, 0)) ** 0.5

    return value


def debiased_width(marginal):
    def value(case):
        squares = each_class("ece_debiased_square")(case)
        if not marginal:
            squares = [named("ece_debiased_square")(case)]
        return np.mean(np.maximum(squares, 0)) ** 0.5  # each class cut at zero first

    return value


def pooled_classes(case):
    count, hits, confidence = case.bins.table("all", case.n_bins)[:, 0, 1:].sum(1)
    return expected_error(count, hits, confidence)


def weighted_overconfidence(case):
    """Overconfidence of each bin weighted by its mean confidence."""
    count, hits, confidence = case.bins.table("all", case.n_bins)[:, 0, 0]
    n = np.maximum(count, 1)
    return (confidence / n * np.maximum(confidence - hits, 0)).sum() / count.sum()


def rounded_ranks(threshold):
    return lambda case: np.mean([
        as_coded.l1_error(*t) for t in cut(case, as_coded.rounded_cuts, case.classes, threshold)
    ])  # fmt: skip


def rounded_ranks_of_the_top(case):
    return as_coded.l2_square(*next(cut(case, as_coded.rounded_cuts))) ** 0.5


def stepped_ranks(threshold):
    """Probabilities below the threshold count as 0, in the edges and in the weights too."""

    def value(case):
        errors = []
        for confidence, hits in case.classes:
            confidence = np.where(confidence < threshold, 0, confidence)
            bins = as_coded.stepped_cuts(confidence, case.n_bins)
            summed = as_coded.table(bins, confidence, hits, case.n_bins)
            errors.append(as_coded.l1_error(*summed, total=len(confidence)))
        return np.mean(errors)

    return value


def swept(mass, which):
    return lambda case: as_coded.sweep(*case.top, mass=mass)[which]


def smooth(width=None):
    """Of the fine grid's class 1, at the width that equals its error or at a given one."""

    def value(case):
        fine = FineHistogram(2, regions=("all",))
        fine.update(case.probs, case.target)
        table = fine.table("all")[:, 2]
        return smooth_error(table) if width is None else smoothed_error(table, width)

    return value
