"""Over random divisions of patients, promises are kept as stated."""

import numpy as np

from experiments.coverage.splits import ALPHA, divided
from tests.decisions.made import run_of


def test_promises_are_kept_over_divisions_of_the_patients() -> None:
    validation, test = run_of(14, first=0), run_of(10, first=100)
    found = list(divided([validation, test], splits=400))
    volumes = [one for one in found if one.what == "volume"]
    assert [one.structure for one in volumes] == ["RV", "MYO", "heart", "EF", "mass"]
    exact = 1 - np.ceil(15 * (1 - ALPHA)) / 15
    for one in volumes:
        assert abs(one.share - exact) <= 4 * one.error, one
        assert one.size > 0
    masks = [one for one in found if one.what.endswith("mask")]
    assert len(masks) == 3 * 2 * 2 * 2  # structures, families, promises, outer and inner
    for one in masks:
        assert one.share <= one.bound + 4 * one.error, one
    outer = {one.how: one for one in masks if (one.what, one.structure) == ("outer mask", "RV")}
    assert outer["threshold, share above"].size > 1
