import numpy as np
import pytest

from datamodules.phantom import shapes
from datamodules.phantom.flare_body import rounded
from datamodules.phantom.flare_render import scanner_noise

GRID = shapes.grid_points((41, 41, 41), (1.0, 1.0, 1.0))


def volume(distance):
    return (distance < 0).sum()


def test_ellipsoid_is_a_ball_exactly_and_has_its_volume():
    x, y, z = GRID
    ball = shapes.ellipsoid(GRID, (1, 2, 3), (8, 8, 8))
    exact = np.sqrt((x - 1) ** 2 + (y - 2) ** 2 + (z - 3) ** 2) - 8
    np.testing.assert_allclose(ball, exact, atol=1e-4)
    solid = shapes.ellipsoid(GRID, (0, 0, 0), (6, 9, 15))
    assert solid[20, 20, 20] == -6  # the centre, where the formula is 0 / 0
    assert volume(solid) == pytest.approx(4 / 3 * np.pi * 6 * 9 * 15, rel=0.03)
    assert abs(solid[20 + 6, 20, 20]) < 1e-4


def test_tube_is_a_capsule_and_tapers():
    tube = shapes.tube(GRID, [(0, 0, -8, 4), (0, 0, 8, 4)])
    assert tube[20, 20, 20] == pytest.approx(-4)
    assert tube[20 + 7, 20, 20] == pytest.approx(3)
    assert tube[20, 20, 20 + 15] == pytest.approx(3)
    taper = shapes.tube(GRID, [(0, 0, -8, 2), (0, 0, 8, 6)])
    assert taper[20, 20, 20] == pytest.approx(-4)
    with pytest.raises(ValueError, match="two nodes or more, got 1"):
        shapes.tube(GRID, [(0, 0, 0, 1)])


def test_smooth_union_only_adds_and_only_where_they_meet():
    first = shapes.ellipsoid(GRID, (-6, 0, 0), (7, 7, 7))
    second = shapes.ellipsoid(GRID, (6, 0, 0), (7, 7, 7))
    union = shapes.smooth_union(first, second, 4)
    plain = np.minimum(first, second)
    assert (union <= plain + 1e-6).all()
    apart = np.abs(first - second) > 4
    np.testing.assert_array_equal(union[apart], plain[apart])
    assert volume(union) > volume(plain)


@pytest.mark.parametrize("length", [2.0, 9.0])
def test_smooth_field_is_smooth_and_about_standard(length):
    field = shapes.smooth_field((60, 50, 40), (2, 2, 2), length, np.random.default_rng(0))
    assert field.shape == (60, 50, 40)
    assert field.std() == pytest.approx(1, abs=0.2)
    step = np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1]
    assert step == pytest.approx(np.exp(-0.5 * (2 / length) ** 2), abs=0.06)


def test_wavy_field_changes_sign_every_half_wavelength():
    line = (np.arange(0, 4000, 0.5, dtype=np.float32).reshape(-1, 1, 1),) + (
        np.zeros((1, 1, 1), dtype=np.float32),
    ) * 2
    changes = []
    for seed in range(6):
        wave = shapes.wavy_field(line, 20.0, np.random.default_rng(seed)).ravel()
        changes.append((np.diff(np.sign(wave)) != 0).sum())
    # Along a line through a field of one wavelength in all directions: 2 / (sqrt(3) lambda).
    assert np.mean(changes) == pytest.approx(4000 * 2 / (3**0.5 * 20), rel=0.15)


def test_box_about_holds_all_that_is_near():
    ball = shapes.ellipsoid(GRID, (3, 0, -4), (5, 6, 7))
    box = shapes.box_about(ball, 2.0)
    mask = np.zeros(ball.shape, dtype=bool)
    mask[box] = True
    assert not ((ball < 2) & ~mask).any()
    assert mask.sum() < 20 * 20 * 24
    assert shapes.box_about(np.full((3, 3, 3), 9.0), 1.0) == (slice(0, 1),) * 3


def test_paint_lays_the_share_of_each_voxel():
    image = np.zeros((2, 1, 1, 3), dtype=np.float32)
    signal = np.array([1.0, 3.0], dtype=np.float32).reshape(2, 1, 1, 1)
    distance = np.array([-5.0, 0.0, 5.0], dtype=np.float32).reshape(1, 1, 3)
    shapes.paint(image, signal, distance, 1.0)
    np.testing.assert_allclose(image[:, 0, 0], [[1, 0.5, 0], [3, 1.5, 0]])


def test_rounded_cylinder():
    x, y, _ = GRID
    level = rounded(GRID, (12.0, 8.0), power=2.0)
    np.testing.assert_array_equal(level[:, :, :1] < 0, (x / 12) ** 2 + (y / 8) ** 2 < 1)
    assert level[20 + 14, 20, 0] == pytest.approx(2, abs=0.01)
    assert -12.1 < level[20, 20, 0] < -7.9


@pytest.mark.parametrize("shape", [(64, 64, 30), (63, 65, 30)])
def test_scanner_noise_is_standard_and_correlated(shape):
    """Unit variance whatever the grid; the ramp takes the slow waves away."""
    noise = scanner_noise(shape, 0.8, np.random.default_rng(0))
    assert noise.shape == shape
    assert noise.std() == pytest.approx(1, abs=0.02)
    power = np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2
    low, peak = power[1, 1].mean(), power[shape[0] // 5, 0].mean()
    assert low < 0.35 * peak
    assert np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] > 0.2
    assert abs(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]) < 0.02
