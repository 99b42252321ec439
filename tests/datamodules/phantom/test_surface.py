import numpy as np
import pytest

from datamodules.phantom.surface import ANGLES, StarSurface, angle_from, coverage


def test_distance_to_a_circle_is_exact():
    x, y = np.linspace(-30, 30, 25), np.linspace(-20, 40, 31)
    circle = StarSurface(np.array([[3.0, -2.0], [0.0, 1.0]]), np.full((2, len(ANGLES)), 12.0))
    found = circle.signed_distance(x, y)
    for plane, (cx, cy) in enumerate(circle.centre):
        expected = np.hypot(x[:, None] - cx, y[None] - cy) - 12
        np.testing.assert_allclose(found[..., plane], expected, atol=1e-4)


def test_distance_to_an_ellipse_near_its_edge():
    """Against the nearest of 4000 points of the ellipse, within 3 mm of it."""
    outline = 1 / np.sqrt((np.cos(ANGLES) / 26) ** 2 + (np.sin(ANGLES) / 20) ** 2)
    ellipse = StarSurface(np.zeros((1, 2)), outline[None])
    x = np.arange(-32, 32, 2.3)
    found = ellipse.signed_distance(x, x)[..., 0]
    turn = np.linspace(0, 2 * np.pi, 4000)
    edge = np.stack([26 * np.cos(turn), 20 * np.sin(turn)], -1)
    points = np.stack(np.meshgrid(x, x, indexing="ij"), -1)
    nearest = np.linalg.norm(points[:, :, None] - edge, axis=-1).min(-1)
    near = np.abs(found) < 3
    assert near.sum() > 50
    np.testing.assert_allclose(np.abs(found[near]), nearest[near], atol=0.15)


def test_empty_curve_contains_nothing():
    gone = StarSurface(np.zeros((1, 2)), np.full((1, len(ANGLES)), -1.0))
    assert gone.signed_distance(np.linspace(-5, 5, 11), np.linspace(-5, 5, 11)).min() > 0
    assert gone.area() == pytest.approx(0)


def test_angle_from_is_the_short_way_round():
    turn = angle_from(np.pi + 0.3)
    assert -np.pi <= turn.min() < turn.max() < np.pi
    assert np.abs(turn).min() < 2 * np.pi / len(ANGLES)


def test_coverage_of_a_straight_edge():
    found = coverage(np.array([-2.0, -0.5, 0.0, 0.5, 2.0]), 2.0)
    np.testing.assert_allclose(found, [1, 0.75, 0.5, 0.25, 0])
