"""Patches of a slice or a volume."""

import numpy as np
import pytest
import torch

from datamodules.loading.patches import begin_around, cut_at, empty_pair, patch_begin


@pytest.mark.parametrize(
    ("length", "wanted", "share", "begin"),
    [
        (10, 4, 0.5, 3),
        (11, 4, 0.5, 3),
        (10, 4, 0.0, 0),
        (10, 4, 0.999999, 6),
        (10, 4, 1.0, 6),
        (4, 10, 0.5, -3),
        (4, 11, 0.9, -3),
        (5, 5, 0.3, 0),
    ],
)
def test_begin(length: int, wanted: int, share: float, begin: int) -> None:
    assert patch_begin(length, wanted, share) == begin


def test_begin_around_a_voxel() -> None:
    assert [begin_around(20, 8, v) for v in (0, 3, 4, 5, 10, 16, 19)] == [0, 0, 0, 1, 6, 12, 12]
    assert begin_around(5, 8, 3) == patch_begin(5, 8, 0.3) == -1


def test_cut_by_hand() -> None:
    """3 x 5 to 5 x 3: one row of padding on each side, one column cut on each side."""
    pixels = np.arange(1, 16, dtype=np.float16).reshape(1, 3, 5)
    classes = np.arange(15, dtype=np.uint8).reshape(3, 5) % 4
    image, label = cut_at(pixels, classes, (-1, 1), empty_pair(1, (5, 3)))
    assert image[0].tolist() == [[0, 0, 0], [2, 3, 4], [7, 8, 9], [12, 13, 14], [0, 0, 0]]
    assert label.tolist() == [[255] * 3, [1, 2, 3], [2, 3, 0], [3, 0, 1], [255] * 3]
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)


@pytest.mark.parametrize("begin", [(2, 0, 5), (-3, 4, -1), (0, 0, 0)])
def test_cut_voxel_by_voxel(begin: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 12, 13, 14)).astype(np.float16)
    classes = rng.integers(0, 4, (12, 13, 14)).astype(np.uint8)
    image, label = cut_at(pixels, classes, begin, empty_pair(2, (9, 8, 9)))
    for x, y, z in np.ndindex(9, 8, 9):
        where = (begin[0] + x, begin[1] + y, begin[2] + z)
        inside = all(0 <= w < n for w, n in zip(where, classes.shape, strict=True))
        assert label[x, y, z] == (classes[where] if inside else 255)
        assert image[0, x, y, z] == (float(pixels[0][where]) if inside else 0)
