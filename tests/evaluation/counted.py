"""A small test run: two patients, three cases, a union, a known posterior."""

import torch

from mbls.evaluation import TestRun
from mbls.metrics import CalibrationHistogram, DiceScore, FineHistogram

META = {"dataset": "acdc", "origin": "phantom", "tag": "best",
        "class_names": ["background", "RV", "MYO"]}  # fmt: skip
ABOUT = {"cases": ["p1_ED", "p1_ES", "p2_ED"], "patients": ["p1", "p1", "p2"], "meta": META}


def scored(order=(0, 1, 2), posterior=True):
    torch.manual_seed(3)
    known = torch.randn(3, 3, 12, 13, 4).mul(2).softmax(1)
    target = torch.distributions.Categorical(known.movedim(1, -1)).sample()
    target[1][target[1] == 2] = 0
    probs = (known.log() * 1.5).softmax(1)
    histogram = CalibrationHistogram(3, unions={"heart": (1, 2)}, num_cases=3)
    dice = DiceScore(3, unions={"heart": (1, 2)}, num_cases=3)
    for n in order:
        index, one = torch.tensor([n]), slice(n, n + 1)
        histogram.update(
            probs[one], target[one], index=index, posterior=known[one] if posterior else None
        )
        dice.update(probs[one], target[one], index=index)
    return histogram, dice


def fine_histogram():
    torch.manual_seed(5)
    probs = torch.randn(3, 3, 200).mul(2).softmax(1)
    fine = FineHistogram(3, unions={"heart": (1, 2)})
    fine.update(probs, torch.randint(3, (3, 200)))
    return fine


def counted(*, posterior=True, order=(0, 1, 2), **changes):
    """The test run of :func:`scored`, with ``changes`` to the arguments of TestRun.of."""
    return TestRun.of(*scored(order, posterior), **(ABOUT | changes))
