"""Cropping, resampling and smoothing against slower ways to the same."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, SpatialResample

from datamodules.cache.intensity import box_above
from datamodules.cache.preprocessing import Preprocessing, prepare_case
from datamodules.reading.checks import RawCase
from datamodules.reading.grids import Grid
from datamodules.reading.posterior import to_shares

NATIVE = np.array([[0.0, -0.8, 0, 5], [0.7, 0, 0, -3], [0, 0, 3.0, 9], [0, 0, 0, 1]])  # PRS
SHAPE = (21, 18, 9)


def random(seed: int = 0, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.53, 1.31, 4.07), (2.1, 2.3, 1.9)])
@pytest.mark.parametrize("linear", [True, False])
def test_resampling_is_monai_s(spacing: tuple[float, float, float], linear: bool) -> None:
    grid = Grid(SHAPE, NATIVE, "LPS", spacing)
    volume = MetaTensor(torch.from_numpy(random()), affine=torch.from_numpy(NATIVE))
    expected = SpatialResample(
        mode="bilinear" if linear else "nearest",
        padding_mode="border",
        align_corners=False,
        dtype=torch.float64,
    )(
        Orientation(axcodes="LPS", labels=None)(volume),
        dst_affine=torch.from_numpy(grid.affine),
        spatial_size=grid.shape,
    )
    found = grid.forward(random(), linear=linear)
    off = (found - expected.as_tensor().float()).abs() > 2e-5
    assert off.float().mean() <= (0 if linear else 0.05)  # a plane may lie between two voxels


def test_integers_keep_their_type() -> None:
    grid = Grid(SHAPE, NATIVE, "LPS", (1.1, 1.1, 2.0))
    for dtype in (np.uint8, np.uint16):
        values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (1, *SHAPE), dtype=dtype)
        moved = grid.forward(values, linear=False).numpy()
        assert moved.dtype == dtype
        wide = grid.forward(values.astype(np.int64), linear=False).numpy()
        np.testing.assert_array_equal(moved, wide)


def test_smoothing_before_a_coarser_grid() -> None:
    """A chequerboard finer than the new voxels turns grey; without smoothing it stays a pattern."""
    board = (np.indices((32, 32, 8)).sum(0) % 2).astype(np.float32)[None]
    grid = Grid((32, 32, 8), np.eye(4), None, (3.9, 3.9, 1.0))
    rough = grid.forward(board, linear=True)
    smooth = grid.forward(board, linear=True, antialias=True)
    assert rough[:, 1:-1, 1:-1].sub(0.5).abs().max() > 0.1
    assert smooth[:, 1:-1, 1:-1].sub(0.5).abs().max() < 0.01
    finer = Grid((32, 32, 8), np.eye(4), None, (0.7, 0.7, 1.0))
    plain = finer.forward(board, linear=True)
    assert torch.equal(finer.forward(board, linear=True, antialias=True), plain)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", None])
def test_a_crop_is_undone(orientation: str | None) -> None:
    box = ((3, 15), (0, 11), (4, 9))
    grid = Grid(SHAPE, NATIVE, orientation, None, box)
    native = random()
    back = grid.back(grid.forward(native, linear=True)).numpy()
    inside = np.zeros(SHAPE, bool)
    inside[3:15, :11, 4:9] = True
    np.testing.assert_array_equal(back[:, inside], native[:, inside])
    assert set(back[0][~inside]) == {20.0}
    assert set(back[1][~inside]) == {0.0}


def test_a_crop_stays_where_it_is_in_the_world() -> None:
    """The voxel that a crop keeps has the same place in mm on both grids."""
    native = np.zeros((1, *SHAPE), np.float32)
    native[0, 7, 5, 6] = 1
    grid = Grid(SHAPE, NATIVE, "LPS", None, ((3, 15), (2, 11), (4, 9)))
    (where,) = np.argwhere(grid.forward(native, linear=False)[0].numpy())
    np.testing.assert_allclose(grid.affine @ [*where, 1], NATIVE @ [7, 5, 6, 1])


def test_box_by_hand() -> None:
    image = np.full((2, 5, 6, 7), -1.0, np.float32)
    assert box_above(image, 0) == ((0, 5), (0, 6), (0, 7))
    image[0, 1, 2, 3] = image[1, 3, 2, 5] = 1
    assert box_above(image, 0) == ((1, 4), (2, 3), (3, 6))
    assert box_above(image, -2) == ((0, 5), (0, 6), (0, 7))


def test_each_modality_is_normalized_by_itself_within_the_crop() -> None:
    image = np.zeros((2, *SHAPE), np.float32)
    inner = (slice(5, 15), slice(4, 12), slice(2, 7))
    rng = np.random.default_rng(3)
    image[(0, *inner)] = rng.gamma(2, 100, (10, 8, 5))
    image[(1, *inner)] = rng.gamma(2, 7, (10, 8, 5))
    label = np.zeros(SHAPE, np.uint8)
    label[8:10, 6:9, 3:5] = 2
    posterior = to_shares(np.eye(3)[label].transpose(3, 0, 1, 2))
    raw = RawCase(image, label, posterior, NATIVE, NATIVE)
    settings = Preprocessing(None, normalize="zscore_nonzero", crop_above=0.0, dtype="float16")
    case = prepare_case(raw, settings)
    assert case.box == ((5, 15), (4, 12), (2, 7))
    assert case.image.shape == (2, 10, 8, 5)
    assert case.image.dtype == np.float16
    for channel in case.image.astype(np.float64):
        assert channel.mean() == pytest.approx(0, abs=2e-3)
        assert channel.std() == pytest.approx(1, abs=2e-3)
    assert case.label is not None
    assert case.posterior is not None
    np.testing.assert_array_equal(case.label, label[inner])
    np.testing.assert_array_equal(case.posterior.argmax(0), label[inner])
