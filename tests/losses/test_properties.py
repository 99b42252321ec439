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
NOT_SYMMETRIC = {
    "unified_focalpp",
    "mbls_dice",
    "nacl",
    "crac",
}  # the background has a role of its own
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
few = settings(max_examples=8, deadline=None)


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


@few
@given(seed=seeds, space=shapes)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in LOOKS_AROUND])
def test_the_order_of_voxels_does_not_matter(name: str, seed: int, space: tuple[int, ...]) -> None:
    logits, target = draw(name, space, seed)
    order = torch.randperm(target[0].numel(), generator=torch.Generator().manual_seed(seed))
    shuffled = build(name)(logits.flatten(2)[..., order], target.flatten(1)[..., order])
    torch.testing.assert_close(shuffled, build(name)(logits, target))


@few
@given(seed=seeds, space=shapes)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_images_does_not_matter(name: str, seed: int, space: tuple[int, ...]) -> None:
    logits, target = draw(name, space, seed, n=3)
    torch.testing.assert_close(build(name)(logits.flip(0), target.flip(0)),
                               build(name)(logits, target))  # fmt: skip


@few
@given(seed=seeds, space=shapes)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_SYMMETRIC | WEIGHTED])
def test_the_order_of_classes_does_not_matter(name: str, seed: int, space: tuple[int, ...]) -> None:
    logits, target = draw(name, space, seed)
    order = torch.randperm(classes(name), generator=torch.Generator().manual_seed(seed))
    renamed = torch.where(target < 0, -100, order.argsort()[target.clamp_min(0)])
    torch.testing.assert_close(build(name)(logits[:, order], renamed), build(name)(logits, target))


@few
@given(seed=seeds, space=shapes, shift=st.floats(-50, 50))
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ON_RAW_LOGITS])
def test_a_constant_added_to_a_voxels_logits_does_not_matter(
    name: str, seed: int, space: tuple[int, ...], shift: float
) -> None:
    logits, target = draw(name, space, seed)
    field = shift * torch.randn(2, 1, *space, dtype=torch.float64)
    torch.testing.assert_close(build(name)(logits + field, target), build(name)(logits, target),
                               rtol=1e-6, atol=1e-9)  # fmt: skip


@few
@given(seed=seeds, space=shapes)
@pytest.mark.parametrize("name", VOXEL_MEANS)
def test_voxel_means_add_up(name: str, seed: int, space: tuple[int, ...]) -> None:
    """Two batches together: the mean of theirs, weighted by labeled voxels."""
    logits, target = draw(name, space, seed, n=3)
    loss = build(name)
    parts = [(slice(0, 1), (target[:1] >= 0).sum()), (slice(1, 3), (target[1:] >= 0).sum())]
    total = sum(count * loss(logits[part], target[part]) for part, count in parts)
    torch.testing.assert_close(loss(logits, target), total / sum(count for _, count in parts))


@few
@given(seed=seeds, space=shapes)
@pytest.mark.parametrize("name", IMAGE_MEANS)
def test_image_means_add_up(name: str, seed: int, space: tuple[int, ...]) -> None:
    """Two batches together: the mean of theirs, weighted by images; an unlabeled one is none."""
    logits, target = draw(name, space, seed, n=4)
    target[3] = -100
    loss = build(name)
    total = loss(logits[:1], target[:1]) + 2 * loss(logits[1:], target[1:])
    torch.testing.assert_close(loss(logits, target), total / 3)


@few
@given(seed=seeds, space=shapes)
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_not_negative_and_finite(name: str, seed: int, space: tuple[int, ...]) -> None:
    """ECP rewards entropy, a Lagrangian constraints that hold; no other is ever negative."""
    logits, target = draw(name, space, seed)
    value = build(name)(logits, target)
    assert value.isfinite()
    if name != "ecp" and not isinstance(build(name), AugmentedLagrangianLoss):
        assert value >= 0
