"""Star-shaped surfaces: a radius for each angle and each level along the long axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Floats = NDArray[np.floating]

N_ANGLES = 128
ANGLES: Array = np.arange(N_ANGLES) * (2 * np.pi / N_ANGLES)


def angle_from(direction: float) -> Array:
    """Return the angle of each entry of :data:`ANGLES` to ``direction``, in [-pi, pi)."""
    return np.mod(ANGLES - direction + np.pi, 2 * np.pi) - np.pi


@dataclass(frozen=True)
class StarSurface:
    """A closed curve in each of ``Z`` planes.

    Args:
        centre: Position of the centre in each plane ``(Z, 2)``, mm.
        radius: Distance of the curve from the centre ``(Z, N_ANGLES)``, mm, at :data:`ANGLES`.
            A negative radius is an empty curve, the emptier the more negative.
    """

    centre: Array
    radius: Array

    def area(self) -> Array:
        """Return the area enclosed in each plane ``(Z,)``, mm^2."""
        return 0.5 * (np.maximum(self.radius, 0) ** 2).mean(axis=1) * 2 * np.pi

    def shifted(self, offset: Array) -> StarSurface:
        """Return the surface moved by ``offset`` ``(Z, 2)``, mm."""
        return StarSurface(self.centre + offset, self.radius)

    def signed_distance(self, x: Floats, y: Floats) -> Floats:
        r"""Return the signed distance to the curve, negative inside, to first order.

        With :math:`f = \rho - R(\theta)` it is :math:`f / |\nabla f|`; its zero set is the curve
        itself, and away from it a value is only about the distance.

        Args:
            x: Positions along the first axis ``(X,)``, mm.
            y: Positions along the second axis ``(Y,)``, mm.

        Returns:
            float32 array ``(X, Y, Z)``, mm.
        """
        centre = self.centre.astype(np.float32)
        dx = x[:, None, None] - centre[:, 0]
        dy = y[None, :, None] - centre[:, 1]
        rho = np.sqrt(dx * dx + dy * dy)
        # arctan2 is in [-pi, pi]: the table starts at -pi and repeats its first column.
        table = np.roll(self.radius, N_ANGLES // 2, axis=1).astype(np.float32)
        table = np.pad(table, ((0, 0), (0, 2)), mode="wrap")
        place = (np.arctan2(dy, dx) + np.float32(np.pi)) * np.float32(N_ANGLES / (2 * np.pi))
        low = place.astype(np.int32)
        place -= low
        low += np.arange(len(centre), dtype=np.int32) * table.shape[1]
        flat = table.ravel()
        below = flat[low]
        rise = flat[low + 1] - below
        radius = below + place * rise
        slope = rise * np.float32(N_ANGLES / (2 * np.pi))
        slope /= np.maximum(rho, np.maximum(0.5 * radius, 1.0))
        return (rho - radius) / np.sqrt(1 + slope * slope)


def coverage(distance: Floats, width: float) -> Floats:
    """Return the share of a pixel ``width`` mm wide that lies inside, for a straight edge."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)
