import numpy as np
import pytest

from datamodules.phantom import shapes
from datamodules.phantom.shapes import Ellipsoid, Grid, Shape, Tube

POINTS = shapes.grid_points((41, 41, 41), (1.0, 1.0, 1.0))


def volume(distance):
    return (distance < 0).sum()


def test_an_ellipsoid_is_a_ball_exactly_and_has_its_volume():
    x, y, z = POINTS
    ball = Ellipsoid((1, 2, 3), (8, 8, 8)).level(POINTS)
    exact = np.sqrt((x - 1) ** 2 + (y - 2) ** 2 + (z - 3) ** 2) - 8
    np.testing.assert_allclose(ball, exact, atol=1e-4)
    solid = Ellipsoid((0, 0, 0), (6, 9, 15)).level(POINTS)
    assert solid[20, 20, 20] == -6  # the center, where the formula is 0 / 0
    assert volume(solid) == pytest.approx(4 / 3 * np.pi * 6 * 9 * 15, rel=0.03)
    assert abs(solid[20 + 6, 20, 20]) < 1e-4


def test_a_tube_is_a_capsule_and_tapers():
    level = Tube(((0, 0, -8, 4), (0, 0, 8, 4))).level(POINTS)
    assert level[20, 20, 20] == pytest.approx(-4)
    assert level[20 + 7, 20, 20] == pytest.approx(3)
    assert level[20, 20, 20 + 15] == pytest.approx(3)
    taper = Tube(((0, 0, -8, 2), (0, 0, 8, 6))).level(POINTS)
    assert taper[20, 20, 20] == pytest.approx(-4)


def test_smooth_union_only_adds_and_only_where_they_meet():
    first, second = (Ellipsoid((x, 0, 0), (7, 7, 7)).level(POINTS) for x in (-6, 6))
    union, plain = shapes.smooth_union(first, second, 4), np.minimum(first, second)
    assert (union <= plain + 1e-6).all()
    apart = np.abs(first - second) > 4
    np.testing.assert_array_equal(union[apart], plain[apart])
    assert volume(union) > volume(plain)


def test_a_shape_has_parts_without_others_on_both_sides():
    bean = Shape(
        "bean",
        (1.0,),
        (Ellipsoid((9, 0, 0), (7, 7, 7)), Tube(((9, 0, 0, 3), (9, 0, 15, 3)))),
        minus=(Ellipsoid((3, 0, 0), (4, 4, 4)),),
        mirrored=True,
        blend_mm=1,
    )
    level = bean.level(POINTS)
    np.testing.assert_array_equal(level, level[::-1])
    assert level[20 + 9, 20, 20] < 0
    assert level[20 + 9, 20, 20 + 14] < 0
    assert level[20 + 3, 20, 20] > 0


def test_a_varied_shape_is_moved_and_scaled_as_a_whole():
    row = Shape(
        "", (), (Ellipsoid((5, 0, 0), (4, 4, 4)), Tube(((0, 0, 0, 2), (0, 0, 9, 2)))),
        minus=(Ellipsoid((9, 0, 0), (2, 2, 2)),), move_mm=3, scale=0.1,
    )  # fmt: skip
    first = row.varied(np.random.default_rng(0))
    ball, tube, hole = *first.parts, *first.minus
    assert isinstance(ball, Ellipsoid)
    assert isinstance(tube, Tube)
    assert isinstance(hole, Ellipsoid)
    shift = np.subtract(ball.center, (5, 0, 0))
    assert np.abs(shift).min() > 0
    np.testing.assert_allclose(np.subtract(hole.center, (9, 0, 0)), shift)
    np.testing.assert_allclose(tube.nodes[1][:3], np.add((0, 0, 9), shift))
    assert ball.radii[0] / 4 == pytest.approx(tube.nodes[0][3] / 2)
    assert 0.8 <= ball.radii[0] / 4 <= 1.2


def test_a_grid_looks_for_a_shape_near_it_alone():
    axes = shapes.grid_points((200, 150, 100), (1.0, 1.0, 1.0))
    x, y, z = np.broadcast_arrays(*axes)
    grid = Grid(axes, (x, y, z))
    row = Shape("", (), (Ellipsoid((40, 20, 10), (6, 7, 8)),))
    level, box = grid.level(row)
    assert level.size < 70**3
    whole = row.level(axes)
    np.testing.assert_array_equal(level, whole[box])
    assert volume(level) == volume(whole)
    assert grid.level(Shape("", (), row.parts, mirrored=True))[1][0].start < 60
    assert grid.level(Shape("", (), (Ellipsoid((900, 0, 0), (5, 5, 5)),)))[0].min() > 0


@pytest.mark.parametrize("length", [2.0, 9.0])
def test_smooth_field_is_smooth_and_about_standard(length):
    field = shapes.smooth_field((60, 50, 40), (2, 2, 2), length, np.random.default_rng(0))
    assert field.shape == (60, 50, 40)
    assert field.std() == pytest.approx(1, abs=0.2)
    step = np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1]
    assert step == pytest.approx(np.exp(-0.5 * (2 / length) ** 2), abs=0.06)


def test_box_about_contains_all_near_voxels():
    ball = Ellipsoid((3, 0, -4), (5, 6, 7)).level(POINTS)
    mask = np.zeros(ball.shape, dtype=bool)
    mask[shapes.box_about(ball, 2.0)] = True
    assert not ((ball < 2) & ~mask).any()
    assert mask.sum() < 20 * 20 * 24
    assert shapes.box_about(np.full((3, 3, 3), 9.0), 1.0) == (slice(0, 1),) * 3


def test_paint_lays_the_share_of_each_voxel():
    image = np.zeros((2, 1, 1, 5), dtype=np.float32)
    level = np.array([-5.0, -0.5, 0.0, 0.5, 5.0], dtype=np.float32).reshape(1, 1, 5)
    shapes.paint(image, shapes.textured([1.0, 3.0]), level, 2.0)
    np.testing.assert_allclose(image[0, 0, 0], [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(image[1], 3 * image[0])
