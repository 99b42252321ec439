"""Masks of margins are those of distances between all pairs of voxels."""

import numpy as np
import pytest
import torch

from mbls.metrics.margins import MARGINS, MarginCounts, margin_mask, margin_places

SPACING = (1.5, 2.0, 5.0)


def signed_distances(mask: np.ndarray) -> np.ndarray:
    """Distance to the nearest voxel of the mask, or minus that to the nearest one outside."""
    axes = [np.arange(n) * mm for n, mm in zip(mask.shape, SPACING, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    gaps = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    inside = mask.ravel()
    outer, inner = gaps[:, inside].min(axis=1), gaps[:, ~inside].min(axis=1)
    return np.where(inside, -inner, outer).reshape(mask.shape)


@pytest.fixture
def mask() -> np.ndarray:
    found = np.random.default_rng(0).random((12, 9, 5)) < 0.02
    found[3:8, 2:7, 1:4] = True
    return found


def test_masks_are_those_within_the_margin(mask: np.ndarray) -> None:
    signed = signed_distances(mask)
    for margin in MARGINS:
        expected = signed <= margin + 1e-5
        assert np.array_equal(margin_mask(mask, SPACING, margin), expected), margin
    assert np.array_equal(margin_mask(mask, SPACING, 0.0), mask)


def test_the_grid_may_end_within_the_structure(mask: np.ndarray) -> None:
    """What is beyond the image is unknown, so it is no border to be eroded from."""
    mask[:] = False
    mask[:, :, :3] = True
    assert np.array_equal(margin_mask(mask, SPACING, -5.0)[0, 0], [1, 1, 1, 0, 0])
    assert np.array_equal(margin_mask(mask, SPACING, -5.5)[0, 0], [1, 1, 0, 0, 0])
    assert margin_mask(np.ones_like(mask), SPACING, -10.0).all()


def test_an_empty_mask_has_no_margin() -> None:
    assert (margin_places(np.zeros((4, 4), dtype=bool), (1, 1)) == len(MARGINS)).all()


def test_a_voxel_size_in_float32_changes_nothing(mask: np.ndarray) -> None:
    sizes = torch.tensor([1.1, 0.7, 1.4])
    rough, exact = sizes.tolist(), [1.1, 0.7, 1.4]
    assert np.array_equal(margin_places(mask, rough), margin_places(mask, exact))


def test_counts_are_those_of_the_masks() -> None:
    generator = torch.Generator().manual_seed(1)
    probs = torch.randn(2, 3, 12, 9, 5, generator=generator).softmax(1)
    label = torch.randint(3, (2, 12, 9, 5), generator=generator)
    label[:, 0] = -100
    spacing = torch.tensor([SPACING, SPACING])
    metric = MarginCounts(3, 3, unions={"both": (1, 2)})
    for n in (1, 0):  # case 2 is not scored
        one = slice(n, n + 1)
        index = torch.tensor([n])
        metric.update(probs[one], label[one], spacing=spacing[one], index=index)
    found = metric.compute().numpy()
    assert found.shape == (3, 4, len(MARGINS), 2)
    assert found[2].sum() == found[:, 0].sum() == 0
    predicted = probs.argmax(1).numpy()
    for case in range(2):
        kept = label[case].numpy() >= 0
        for place, members in ((1, [1]), (2, [2]), (3, [1, 2])):
            truth = np.isin(label[case].numpy(), members)
            for k in (0, 17, 20, 23, 45, 80):
                mask = margin_mask(np.isin(predicted[case], members), SPACING, MARGINS[k])
                expected = [(mask & truth & kept).sum(), (mask & kept).sum()]
                assert found[case, place, k].tolist() == expected, (case, place, k)


def test_margins_need_the_voxel_size() -> None:
    with pytest.raises(ValueError, match="Margins are measured in mm"):
        MarginCounts(2, 1).update(
            torch.rand(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), index=torch.tensor([0])
        )
