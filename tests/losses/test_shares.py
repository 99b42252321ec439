"""A batch shared among processes: which terms are means over its labelled voxels."""

import pytest
import torch
from torch import nn

from mbls.losses import CompoundLoss, DiceLoss, MarginLoss
from tests.losses.every_loss import NAMES, batch, build, classes

ALIKE = {"dca"}  # an absolute value of a mean: of parts that err to the same side it is one


@pytest.mark.parametrize("name", NAMES)
def test_terms_of_the_parts_give_those_of_the_whole(name: str) -> None:
    loss = build(name)
    loss.bind(classes(name))
    logits, target = batch(name, n=4)
    target[:2, :3] = -100
    whole = loss.terms(logits, target)
    parts = [loss.terms(logits[half], target[half]) for half in (slice(2), slice(2, 4))]
    voxels = [int((target[half] != -100).sum()) for half in (slice(2), slice(2, 4))]
    assert voxels[0] < voxels[1]
    for term, value in whole.items():
        mean = sum(n * part[term] for n, part in zip(voxels, parts, strict=True)) / sum(voxels)
        same = torch.isclose(mean, value, rtol=1e-9, atol=1e-12)
        if term not in ALIKE:
            assert bool(same) == (term not in loss.batch_statistics()), term


def test_the_names_are_those_of_the_terms() -> None:
    compound = CompoundLoss({
        "a": (1.0, MarginLoss(base=DiceLoss())),
        "b": (1.0, DiceLoss()),
        "c": (1.0, nn.CrossEntropyLoss()),
        "d": (1.0, MarginLoss(base=nn.CrossEntropyLoss())),
    })  # fmt: skip
    logits, target = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4))
    terms = set(compound.terms(logits, target))
    assert terms - compound.batch_statistics() == {"a/margin", "d/margin"}
    assert {"a/dice", "b", "c", "d/base"} <= terms
