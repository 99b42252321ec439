"""To the cache's grid and back."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from datamodules.cache.intensity import normalize
from datamodules.cache.preprocessing import Preprocessing, prepare_case, slice_fault
from datamodules.reading.checks import RawCase
from datamodules.reading.grids import resampled_grid
from datamodules.reading.posterior import to_shares

SHAPE = (20, 24, 4)


def affine(codes: str, size: tuple[float, float, float] = (1.5, 1.5, 10.0)) -> np.ndarray:
    """An affine with an offset, whose voxel axes point along ``codes``."""
    out = np.eye(4)
    out[:3, :3] = 0
    for axis, (code, mm) in enumerate(zip(codes, size, strict=True)):
        row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        out[row, axis] = mm if code in "RAS" else -mm
    out[:3, 3] = 7, -3, 11
    assert "".join(nib.aff2axcodes(out)) == codes
    return out


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PLI", "SAL"])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", None])
def test_flips_and_permutations_come_back_exactly(codes: str, orientation: str | None) -> None:
    settings = Preprocessing(orientation=orientation)
    native = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    grid = settings.grid(SHAPE, affine(codes))
    back = grid.back(grid.forward(native, linear=True))
    assert torch.equal(back, torch.from_numpy(native))


def test_orientation_is_where_the_voxels_are() -> None:
    """In RAS, index grows to the right, so a voxel of an LPS file moves to the mirrored index."""
    native = np.zeros((1, *SHAPE), np.float32)
    native[0, 2, 5, 1] = 1
    settings = Preprocessing(orientation="RAS")
    grid = settings.grid(SHAPE, affine("LPS"))
    where = np.argwhere(grid.forward(native, linear=False)[0].numpy())[0]
    assert where.tolist() == [17, 18, 1]
    np.testing.assert_allclose(grid.affine @ [*where, 1], affine("LPS") @ [2, 5, 1, 1])


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PLI"])
def test_resampled_logits_come_back(codes: str) -> None:
    """A linear ramp is what linear interpolation keeps; only the borders are cut."""
    settings = Preprocessing(spacing=(1.0, 1.0))
    x, y, z = np.indices(SHAPE, dtype=np.float32)
    native = np.stack([x + 2 * y + 3 * z, x - y])
    grid = settings.grid(SHAPE, affine(codes))
    moved = grid.forward(native, linear=True)
    assert tuple(moved.shape[1:]) == grid.shape == ((30, 36, 4) if codes != "PLI" else (36, 30, 4))
    back = grid.back(moved)
    assert back.shape == (2, *SHAPE)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(back.numpy()[inner], native[inner], atol=1e-3)


def test_slices_do_not_mix() -> None:
    settings = Preprocessing(spacing=(0.9, 1.1))
    native = np.zeros((1, *SHAPE), np.float32)
    native[..., 2] = 1
    moved = settings.grid(SHAPE, affine("LPS")).forward(native, linear=True)
    assert torch.unique(moved[..., 2]).tolist() == [1]
    assert torch.unique(moved[..., [0, 1, 3]]).tolist() == [0]


def test_resampled_grid_by_hand() -> None:
    """4 voxels of 3 mm are 6 of 2 mm: the first center moves from 1.5 to 1 mm behind the edge."""
    shape, new = resampled_grid((4, 5, 6), np.diag([3.0, 3.0, 10.0, 1.0]), (2.0, 3.0005))
    assert shape == (6, 5, 6)
    expected = np.diag([2.0, 3.0, 10.0, 1.0])
    expected[0, 3] = -0.5
    np.testing.assert_allclose(new, expected)
    assert resampled_grid((4, 5, 6), np.eye(4), None)[0] == (4, 5, 6)
    assert resampled_grid((4, 5, 6), np.eye(4), (100.0, 1.0))[0] == (1, 5, 6)


def raw(label: np.ndarray, posterior: np.ndarray | None = None) -> RawCase:
    image = np.random.default_rng(1).gamma(2, 100, size=(1, *label.shape)).astype(np.float32)
    return RawCase(image, label, posterior, affine("RAS"), affine("RAS"))


@pytest.mark.parametrize("spacing", [None, (1.0, 1.2), (2.1, 2.1)])
def test_label_and_posterior_move_together(spacing: tuple[float, float] | None) -> None:
    """The posterior's most probable class, moved, is the label that was moved by itself."""
    rng = np.random.default_rng(0)
    posterior = to_shares(rng.dirichlet(np.ones(4), size=SHAPE).transpose(3, 0, 1, 2))
    label = posterior.argmax(0).astype(np.uint8)
    label[0] = 255
    prepared = prepare_case(raw(label, posterior), Preprocessing(spacing=spacing))
    assert prepared.label is not None
    assert prepared.posterior is not None
    known = prepared.label != 255
    assert prepared.label.dtype == np.uint8
    assert set(np.unique(prepared.label)) == {0, 1, 2, 3, 255}
    np.testing.assert_array_equal(prepared.posterior.argmax(0)[known], prepared.label[known])
    assert prepared.posterior.dtype == np.uint16
    assert (prepared.posterior.sum(0, dtype=int) == 65535).all()
    assert prepared.spacing == pytest.approx((*(spacing or (1.5, 1.5)), 10.0))


@pytest.mark.parametrize(
    ("codes", "size", "orientation", "fix"),
    [
        ("LPS", (1.5, 1.5, 10.0), "LPS", None),
        ("RAS", (1.5, 1.5, 10.0), "LPS", None),
        ("SAL", (10.0, 1.5, 1.5), "LPS", None),  # turned, the slices are where they should be
        ("PIL", (1.5, 1.5, 10.0), "LPS", "--data.init_args.preprocessing.orientation null"),
        ("PIL", (1.5, 1.5, 10.0), None, None),
        ("LPS", (10.0, 1.5, 1.5), "LPS", "third axis, and take orientation null"),
        ("LPS", (10.0, 1.5, 1.5), None, "third axis."),
        ("LPS", (10.0, 1.5, 1.5), "PSL", None),
        ("PIL", (1.5, 1.5, 1.6), "LPS", None),  # no stack
    ],
)
def test_slices_are_cut_along_the_stack(
    codes: str, size: tuple[float, float, float], orientation: str | None, fix: str | None
) -> None:
    fault = slice_fault(affine(codes, size), Preprocessing(orientation=orientation))
    if fix is None:
        assert fault is None
    else:
        assert fault is not None
        assert f"10 mm from slice to slice along {codes[size.index(10)]}" in fault[1]
        assert fix in fault[2]


def test_oblique_ramp_comes_back_in_place() -> None:
    """Logits that are their voxel's position in mm come back as the native voxels' positions."""
    for seed in range(12):
        turn = Rotation.random(rng=seed).as_matrix()
        native = np.eye(4)
        native[:3, :3], native[:3, 3] = turn @ np.diag([1.5, 1.4, 8.0]), (30, -40, 50)
        for orientation in ("LPS", "RAS", None):
            settings = Preprocessing(orientation=orientation, spacing=(1.0, 1.2))
            grid = settings.grid(SHAPE, native)
            positions = affine_positions(grid.affine, grid.shape)
            back = grid.back(torch.from_numpy(positions)).numpy()
            inner = (slice(None), slice(1, -1), slice(1, -1), slice(1, -1))
            expected = affine_positions(native, SHAPE)
            assert np.abs(back - expected)[inner].max() < 1e-3 * 1.4


def affine_positions(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World position of each voxel, float32 ``(3, *shape)``, mm."""
    index = np.indices(shape).reshape(3, -1)
    return (matrix[:3, :3] @ index + matrix[:3, 3:]).reshape(3, *shape).astype(np.float32)


def test_normalization() -> None:
    data = np.random.default_rng(0).gamma(2, 100, size=SHAPE)
    scored = normalize(data, "zscore")
    assert scored.dtype == np.float32
    assert scored.mean() == pytest.approx(0, abs=1e-6)
    assert scored.std() == pytest.approx(1, abs=1e-6)
    ramp = normalize(np.arange(101.0), "percentile", percentiles=(10, 90))
    assert ramp[[0, 10, 50, 90, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_window_and_nonzero_scores_by_hand() -> None:
    values = np.array([-2000.0, -160.0, 40.0, 240.0, 900.0], np.float32)
    windowed = normalize(values, "window", window=(-160, 240))
    assert windowed.tolist() == [0, 0, 0.5, 1, 1]
    assert windowed.dtype == np.float32
    scored = normalize(np.array([0, 2, 4, 0, 6, 4], np.float32), "zscore_nonzero")
    deviation = np.sqrt(2)
    expected = [0, -2 / deviation, 0, 0, 2 / deviation, 0]
    assert scored.tolist() == pytest.approx(expected)
    assert normalize(np.zeros(3, np.float32), "zscore_nonzero").tolist() == [0, 0, 0]


def test_dtype() -> None:
    label = np.zeros(SHAPE, np.uint8)
    assert prepare_case(raw(label), Preprocessing(dtype="float16")).image.dtype == np.float16
    assert prepare_case(raw(label), Preprocessing()).image.dtype == np.float32


def test_wrong_grid() -> None:
    with pytest.raises(ValueError, match=r"spatial shape \(20, 24, 4\), got \(24, 20, 4\)"):
        Preprocessing().grid(SHAPE, affine("LPS")).back(torch.zeros(2, 24, 20, 4))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"orientation": "LPX"}, "three axis codes.*got 'LPX'"),
        ({"orientation": "LRS"}, "three axis codes"),
        ({"spacing": (0.0, 1.0)}, "spacing must be positive"),
        ({"spacing": (float("nan"), 1.0)}, "spacing must be positive"),
        ({"normalize": "zcore"}, "normalize must be zscore or .* or none, got 'zcore'"),
        ({"percentiles": (99.0, 1.0)}, "percentiles must rise"),
        ({"dtype": "int8"}, "dtype must be float16 or float32"),
        ({"normalize": "window"}, "window must be given for normalize: window"),
        ({"window": (0, 1)}, r"for nothing else, got \(0, 1\) with zscore"),
        ({"normalize": "window", "window": (5.0, 5.0)}, "two finite values that rise"),
        ({"crop_above": float("nan")}, "crop_above must be null or finite"),
    ],
)
def test_bad_settings(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Preprocessing(**settings)
