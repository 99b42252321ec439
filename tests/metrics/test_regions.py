"""Regions measured in mm, on paper and against distances between all pairs of voxels."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from mbls.metrics import CalibrationHistogram, estimate, regions
from mbls.metrics.regions import boundary_mask, dilated_mask


def near(labels, spacing, margin, wanted):
    """Voxels with a partner at most margin mm away for which wanted(own label, other's) is true."""
    mask = np.zeros(labels.shape, dtype=bool)
    places = list(itertools.product(*map(range, labels.shape)))
    for a in places:
        for b in places:
            distance = sum(((i - j) * s) ** 2 for i, j, s in zip(a, b, spacing, strict=True)) ** 0.5
            if distance <= margin and wanted(labels[a], labels[b]):
                mask[a] = True
    return mask


@pytest.mark.parametrize("shape", [(9, 7), (5, 4, 3)], ids=["2d", "3d"])
def test_against_all_pairs(shape):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 0, 0, 0, 1, 2, -100], size=shape)
    spacing = (1.0, 2.5, 0.7)[: len(shape)]
    expected = near(labels, spacing, 2.0, lambda own, other: other > 0)
    np.testing.assert_array_equal(dilated_mask(labels, spacing, 2.0), expected)
    expected = near(labels, spacing, 2.0, lambda a, b: a != b and a != -100 and b != -100)
    np.testing.assert_array_equal(boundary_mask(labels, spacing, 2.0), expected)


def dilated_by_whole_volume(labels, spacing, margin, ignore_index):
    """The definition, with one distance transform of the whole volume."""
    foreground = (labels > 0) & (labels != ignore_index)
    if not foreground.any():
        return foreground
    return distance_transform_edt(~foreground, sampling=spacing) <= margin


def boundary_by_whole_volume(labels, spacing, margin, ignore_index):
    """The definition, with one distance transform of the whole volume for each label."""
    ignored = labels == ignore_index
    near = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels[~ignored]):
        inside = (labels == label) | ignored
        if not inside.all():
            distance = distance_transform_edt(inside, sampling=spacing)
            near |= (labels == label) & (distance <= margin)
    return near


@st.composite
def labeled(draw):
    """A volume of a few boxes and stray voxels, many of them at its faces, some ignored."""
    sizes = {1: 40, 2: 24, 3: 13}
    axes = draw(st.integers(1, 3))
    shape = draw(st.tuples(*[st.integers(1, sizes[axes])] * axes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ignore_index = draw(st.sampled_from([-100, 255]))
    labels = np.full(shape, draw(st.sampled_from([0, 0, 0, 1, ignore_index])))
    for label in draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, ignore_index]), max_size=6)):
        first = [rng.integers(-2, size) for size in shape]
        box = tuple(slice(max(0, f), f + rng.integers(1, 7)) for f in first)
        labels[box] = label
    stray = rng.random(shape) < draw(st.sampled_from([0, 0, 0.02, 0.3]))
    labels[stray] = rng.choice([0, 1, 2, ignore_index], size=int(stray.sum()))
    mm = st.sampled_from([0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 10.0])  # margins are often whole steps
    margin = draw(st.one_of(st.sampled_from([0.3, 0.7, 2.1, 3.0, 5.0, 1e9]), st.floats(0.05, 12)))
    return labels, draw(st.tuples(*[mm] * axes)), margin, ignore_index


@settings(max_examples=80, deadline=None)
@given(labeled())
def test_boxes_give_the_masks_of_the_whole_volume_to_the_voxel(case):
    labels, spacing, margin, ignore_index = case
    for boxed, whole in (
        (dilated_mask, dilated_by_whole_volume),
        (boundary_mask, boundary_by_whole_volume),
    ):
        found = boxed(labels, spacing, margin, ignore_index=ignore_index)
        np.testing.assert_array_equal(found, whole(labels, spacing, margin, ignore_index))


def test_small_structures_of_a_large_volume_cost_their_own_boxes(monkeypatch):
    sizes = []

    def noted(volume, **kwargs):
        sizes.append(volume.shape)
        return distance_transform_edt(volume, **kwargs)

    monkeypatch.setattr(regions, "distance_transform_edt", noted)
    labels = np.zeros((200, 100, 40), dtype=np.uint8)
    labels[20:24, 30:33, :2], labels[60:63, 40:42, 30:32] = 1, 2
    boundary_mask(labels, (1, 1, 2.0), 3)  # 3 mm: 4 voxels in plane, 2 through it
    # background: the foreground's box; each structure: its own
    assert sorted(sizes) == [(11, 10, 6), (12, 11, 4), (51, 20, 34)]


def test_a_volume_without_voxels_has_empty_masks():
    nothing = np.zeros((0, 4, 5), dtype=np.int64)
    assert dilated_mask(nothing, (1, 1, 1), 3).shape == (0, 4, 5)
    assert boundary_mask(nothing, (1, 1, 1), 3).shape == (0, 4, 5)


def test_a_line_on_paper_respects_spacing():
    labels = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert dilated_mask(labels, (1, 1), 2)[0].tolist() == [False] * 2 + [True] * 6
    assert dilated_mask(labels, (1, 2), 2)[0].tolist() == [False] * 3 + [True] * 5
    assert boundary_mask(labels, (1, 1), 2)[0].tolist() == [False] * 2 + [True] * 4 + [False] * 2
    assert boundary_mask(labels, (1, 3), 2)[0].tolist() == [False] * 8


def test_without_foreground_or_with_one_label_there_is_nothing():
    assert not dilated_mask(np.zeros((4, 4)), (1, 1), 9).any()
    assert not boundary_mask(np.ones((4, 4)), (1, 1), 9).any()
    assert not boundary_mask(np.array([[1, -100, 1]]), (1, 1), 9).any()


def test_ignored_voxels_of_a_positive_label_are_no_foreground():
    labels = np.array([[255, 0, 0, 0, 1, 0]])
    near = dilated_mask(labels, (1, 1), 1, ignore_index=255)[0]
    assert near.tolist() == [False, False, False, True, True, True]
    results = []
    for ignore_index in (-100, 255):
        histogram = CalibrationHistogram(
            2, regions=("dilated", "boundary"), dilated_mm=1, ignore_index=ignore_index
        )
        target = torch.from_numpy(np.where(labels == 255, ignore_index, labels))
        probs = torch.tensor([0.25, 0.75]).view(1, 2, 1).expand(1, 2, 6)[:, :, None]
        histogram.update(probs, target[None], spacing=torch.ones(1, 2))
        results.append(histogram.cells)
    assert torch.equal(*results)


def test_histogram_counts_the_voxels_of_the_masks():
    regions = ("all", "boundary", "label", "dilated")
    probs = torch.randn(2, 3, 11, 9, 6).mul(2).softmax(1)
    target = torch.zeros(2, 11, 9, 6, dtype=torch.long)
    target[0, 3:6, 3:6, 2:4] = 1
    target[1, 5:, 2:7] = 2
    target[:, 0] = -100
    spacing = torch.tensor([[1.5, 1.5, 10], [1.25, 1.25, 4]])
    options = {"regions": regions, "num_cases": 2, "unions": {"u": (1, 2)}}
    histogram = CalibrationHistogram(3, **options, dilated_mm=4, boundary_mm=3)
    index = torch.arange(2)
    histogram.update(probs, target, spacing=spacing, index=index)
    labels = target.numpy()
    masks = {
        "dilated": [dilated_mask(labels[n], spacing[n].tolist(), 4) for n in range(2)],
        "boundary": [boundary_mask(labels[n], spacing[n].tolist(), 3) for n in range(2)],
    }
    for name, mask in masks.items():
        outside = torch.from_numpy(~np.stack(mask))
        plain = CalibrationHistogram(3, regions=("all",), num_cases=2, unions={"u": (1, 2)})
        plain.update(probs, target.masked_fill(outside, -100), index=index)
        position = regions.index(name)
        assert torch.equal(histogram.cells[:, position], plain.cells[:, 0])
        assert torch.equal(histogram.sums[:, position], plain.sums[:, 0])
        assert 0 < histogram.sums[0, position, 0] < histogram.sums[0, 0, 0]
    assert estimate(histogram.bins(), "ece", region="dilated", pooling="per_case")[1] == 2


def test_2d_slices_and_missing_spacing():
    histogram = CalibrationHistogram(2, regions=("boundary",))
    probs = torch.full((2, 2, 5, 5), 0.5)
    target = torch.zeros(2, 5, 5)
    target[:, 2, 2] = 1
    histogram.update(probs, target, spacing=torch.full((2, 2), 2.0))
    assert histogram.sums[0, 0] == 2 * 9
    with pytest.raises(ValueError, match=r"pass spacing \(2, 2\)"):
        histogram.update(probs, target)
    with pytest.raises(ValueError, match="positive voxel sizes"):
        histogram.update(probs, target, spacing=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="boundary_mm must be a positive distance"):
        CalibrationHistogram(2, boundary_mm=0)
