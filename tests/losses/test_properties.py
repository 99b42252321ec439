"""What holds for any logits and labels: symmetries, invariances, additivity (hypothesis)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbls.losses import AugmentedLagrangianLoss
from tests.losses.every_loss import NAMES, WEIGHTED, build, classes

LOOKS_AROUND = {"svls", "nacl", "nacl_gaussian_probs", "nacl_monai", "nacl_monai_gaussian"}
LOOKS_AROUND |= {"crac", "crac_classes", "cals_regions"}
ON_RAW_LOGITS = {"nacl", "nacl_monai", "nacl_monai_gaussian", "acls_raw", "crac", "crac_classes"}
NOT_SYMMETRIC = {"unified_focalpp", "mbls_dice", "nacl", "crac"}  # the background differs
VOXEL_MEANS = [
    *("ce", "ls", "focal", "focal_half", "focal_adaptive", "ecp", "l1_penalty", "mbls", "mbls_l2"),
    *("mbls_tight", "svls", "nacl", "nacl_gaussian_probs", "nacl_monai", "brier", "cpc", "fcl"),
    *("acls", "acls_raw", "acls_tight", "cals", "cals_p2", "cals_p3", "cals_regions", "cals_hr"),
    *("cals_hr_tight", "crac", "crac_classes", "adafocal", "adafocal_inverse"),
    "nacl_monai_gaussian",
]
IMAGE_MEANS = ["dice", "dscpp", "tverskypp", "focal_tverskypp"]

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(1,), (7,), (3, 4), (4, 2), (2, 3, 2)])
close = torch.testing.assert_close


def draw(name: str, space: tuple[int, ...], seed: int, n: int = 2) -> tuple[Tensor, Tensor]:
    """Logits of any spread; labels of any frequency, some ignored, at least one an image not."""
    generator = torch.Generator().manual_seed(seed)
    C = classes(name)
    spread = 10 ** (2 * torch.rand((), generator=generator, dtype=torch.float64) - 1)
    logits = spread * torch.randn(n, C, *space, generator=generator, dtype=torch.float64)
    weights = torch.rand(C, generator=generator) + 0.01
    labels = torch.multinomial(weights, n * logits[0, 0].numel(), True, generator=generator)
    target = labels.view(n, *space)
    gone = torch.rand(target.shape, generator=generator) < 0.2
    gone.flatten(1)[:, 0] = False
    return logits, target.masked_fill(gone, -100)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, space=shapes, shift=st.floats(-50, 50))
@pytest.mark.parametrize("name", NAMES)
def test_symmetries_and_additivity(
    name: str, seed: int, space: tuple[int, ...], shift: float
) -> None:
    """The value is finite, has the symmetries that its formula has, and adds up over batches.

    ECP rewards entropy, a Lagrangian constraints that hold; no other loss is ever negative.
    """
    logits, target = draw(name, space, seed, n=3)
    loss, generator = build(name), torch.Generator().manual_seed(seed)
    value = loss(logits, target)
    assert value.isfinite()
    assert value >= 0 or name == "ecp" or isinstance(loss, AugmentedLagrangianLoss)
    close(loss(logits.flip(0), target.flip(0)), value, msg="order of images")
    if name not in LOOKS_AROUND:
        order = torch.randperm(target[0].numel(), generator=generator)
        shuffled = loss(logits.flatten(2)[..., order], target.flatten(1)[..., order])
        close(shuffled, value, msg="order of voxels")
    if name not in NOT_SYMMETRIC | WEIGHTED:
        order = torch.randperm(classes(name), generator=generator)
        renamed = torch.where(target < 0, -100, order.argsort()[target.clamp_min(0)])
        close(loss(logits[:, order], renamed), value, msg="order of classes")
    if name not in ON_RAW_LOGITS:
        field = shift * torch.randn(3, 1, *space, dtype=torch.float64)
        close(loss(logits + field, target), value, rtol=1e-6, atol=1e-9, msg="constant added")
    if name in VOXEL_MEANS:  # the mean of two batches, weighted by labeled voxels
        sizes = [(target[:1] >= 0).sum(), (target[1:] >= 0).sum()]
        total = sizes[0] * loss(logits[:1], target[:1]) + sizes[1] * loss(logits[1:], target[1:])
        close(value, total / sum(sizes), msg="batches of voxels")
    if name in IMAGE_MEANS:  # weighted by images; an unlabeled one does not count
        target[2] = -100
        parts = [loss(logits[n : n + 1], target[n : n + 1]) for n in range(2)]
        close(loss(logits, target), sum(parts) / 2, msg="batches of images")
