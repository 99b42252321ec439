"""Rotated patches of slices and volumes, compared with scipy's."""

import math

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from datamodules.loading.patches import cut_at, empty_pair
from datamodules.loading.rotation import rotated_patch, rotation_matrix


def arrays(*shape: int, channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    classes = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), shape)
    return rng.normal(size=(channels, *shape)).astype(np.float16), classes


def rotated(pixels, classes, begin, matrix, size):
    out = empty_pair(len(pixels), size)
    out[0].fill_(math.nan)
    rotated_patch(pixels, classes, begin, matrix, out)
    return out[0].numpy(), out[1].numpy()


def matrix_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(-3, 3, 1 if kind == "slice" else 3)
    if kind == "columns":
        angles[1:] = 0
    spacing = 10 ** rng.uniform(-0.5, 1, 2 if kind == "slice" else 3)
    mirror = np.flatnonzero(rng.random(len(spacing)) < 0.5)
    factor = 2 ** rng.uniform(-1, 1)
    return rotation_matrix(angles, spacing=spacing, factor=factor, mirror=mirror)


@pytest.mark.parametrize("kind", ["slice", "columns", "tilted"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scipy_finds_the_same(kind: str, dtype: type) -> None:
    """Axes of one voxel, patches larger than the array or next to it, voxels longer than wide."""
    rng = np.random.default_rng(2)
    axes = 2 if kind == "slice" else 3
    for turn in range(25):
        most = 24 if turn else 70  # the first is of several pieces and blocks
        shape, size = (tuple(rng.integers(most - 20 if not turn else 1, most, axes).tolist())
                       for _ in range(2))  # fmt: skip
        pixels, classes = arrays(*shape, channels=int(rng.integers(1, 5)))
        begin, matrix = rng.integers(-9, 18, axes), matrix_of(kind, rng)
        image, label = rotated(pixels.astype(dtype), classes, begin.tolist(), matrix, size)
        middle = (np.array(size) - 1) / 2
        options: dict = {"offset": begin + middle - matrix @ middle, "output_shape": size}
        options["mode"] = "grid-constant"
        for found, source in zip(image, pixels, strict=True):
            wanted = affine_transform(source.astype(np.float64), matrix, order=1, **options)
            np.testing.assert_allclose(found, wanted, atol=2e-4)
        wanted = affine_transform(classes, matrix, order=0, cval=255, **options)
        places = np.tensordot(matrix, np.indices(size), 1)
        places += options["offset"].reshape(-1, *[1] * axes)
        tie = (np.abs(places % 1 - 0.5) < 1e-4).any(0)
        assert (label == wanted)[~tie].all()


@pytest.mark.parametrize(
    ("shape", "begin", "size"),
    [((21, 26), (3, -7), (15, 40)), ((15, 16, 7), (2, 3, 1), (10, 9, 8)),
     ((15, 16, 7), (-2, 5, -1), (10, 9, 8))],
)  # fmt: skip
def test_no_rotation_is_the_plain_patch(shape, begin, size) -> None:
    pixels, classes = arrays(*shape)
    plain = cut_at(pixels, classes, begin, empty_pair(2, size))
    image, label = rotated(pixels, classes, begin, np.eye(len(size)), size)
    np.testing.assert_allclose(image, plain[0], atol=2e-4)
    np.testing.assert_array_equal(label, plain[1])


@pytest.mark.parametrize(
    ("axes", "angles", "plane"),
    [(2, (1,), (0, 1)), (3, (1, 0, 0), (0, 1)), (3, (0, 1, 0), (1, 2)), (3, (0, 0, 1), (2, 0))],
)
def test_a_quarter_turn(axes: int, angles: tuple[int, ...], plane: tuple[int, int]) -> None:
    pixels, classes = arrays(*[8] * axes)
    matrix = rotation_matrix(np.array(angles) * math.pi / 2, spacing=[1] * axes)
    image, label = rotated(pixels, classes, [0] * axes, matrix, [8] * axes)
    np.testing.assert_array_equal(label, np.rot90(classes, axes=plane))
    np.testing.assert_allclose(image[0], np.rot90(pixels[0], axes=plane), atol=2e-3)


def test_enlargement() -> None:
    """Twice as large: the middle half fills the patch, and half as large leaves a border."""
    pixels, classes = arrays(8, 8)
    _, label = rotated(pixels, classes, (0, 0), np.eye(2) / 2, (8, 8))
    np.testing.assert_array_equal(label, np.kron(classes[2:6, 2:6], np.ones((2, 2))))
    image, label = rotated(pixels, classes, (0, 0), np.eye(2) * 2, (8, 8))
    assert (label[:2] == 255).all()
    assert (image[:, :2] == 0).all()
    assert (label[2:6, 2:6] != 255).any()


def test_a_tilt_keeps_lengths_in_mm() -> None:
    """A quarter tilt brings what is 10 mm away along z to 10 mm along y, four voxels of 2.5 mm."""
    matrix = rotation_matrix((0, math.pi / 2, 0), spacing=(1, 2.5, 10))
    np.testing.assert_allclose(np.abs(matrix @ [0, 4, 0]), [0, 0, 1], atol=1e-9)
