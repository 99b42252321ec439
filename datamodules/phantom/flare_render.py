"""The CT of an abdomen from the mean shapes, in HU, with nothing of the annotator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter

from datamodules.phantom.flare_body import Build, lay
from datamodules.phantom.flare_organs import Frame, Organ
from datamodules.phantom.random_field import Floats
from datamodules.phantom.shapes import Node, Points, smooth_field, tube

FLOOR, CEILING = -1024, 3071
ATTENUATION = {  # HU without contrast medium and in the portal venous phase
    "liver": (57, 114),
    "spleen": (48, 120),
    "stomach": (40, 84),
    "duodenum": (38, 78),
    "right kidney": (32, 182),
    "left kidney": (32, 182),
    "pancreas": (38, 92),
    "postcava": (40, 128),
    "aorta": (40, 146),
    "oesophagus": (38, 70),
    "gallbladder": (10, 13),
    "right adrenal": (24, 72),
    "left adrenal": (24, 72),
}
_PORTAL: list[Node] = [(0, -2, -34, 5), (-8, -2, -2, 6.5), (-34, -10, 22, 6.5), (-62, -8, 38, 5)]


def render(
    body: Floats,
    frame: Frame,
    organs: Mapping[str, Organ],
    build: Build,
    *,
    spacing: tuple[float, float, float],
    noise_hu: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the CT ``(X, Y, Z)``: the ``body`` with organs, blur and correlated noise."""
    image, grid, pixel = body, body.shape, spacing[0]
    texture = smooth_field(grid, spacing, 4.5, rng)
    vessels = smooth_field(grid, spacing, 6.0, rng)
    phase = 1 if build.contrast else 0
    values = {name: pair[phase] + rng.normal(0, 7) for name, pair in ATTENUATION.items()}
    values["left kidney"] = values["right kidney"]
    portal = tube(frame.points, _PORTAL)
    lay(image, values["postcava"] + 8, portal, pixel)
    for name, organ in organs.items():
        part, points = image[organ.box], frame.within(organ.box)
        grain, distance = texture[organ.box], organ.distance
        lay(part, values[name] + 5 * grain, distance, pixel)
        if name == "liver":
            contrast = values["postcava"] + 12 - values["liver"]
            branch = np.maximum(distance + 8, 7 * (1.3 - vessels[organ.box]))
            branch = np.minimum(branch, np.maximum(portal[organ.box], distance + 1))
            lay(part, values["liver"] + contrast, branch, 1.5 * pixel)
        elif name.endswith("kidney"):
            # Pyramids, less enhanced than the cortex, and fat in the sinus.
            pyramids = np.maximum(distance + 7, 9 * (-0.1 - vessels[organ.box]))
            lay(part, values[name] - 45 * phase, pyramids, 2 * pixel)
        elif name == "pancreas":
            lobules = np.maximum(distance, 5 * (0.9 - vessels[organ.box]))
            lay(part, values[name] - 75, np.maximum(lobules, -distance - 5), 2 * pixel)
        elif name == "spleen":
            lay(part, values[name] + 10 * phase, distance + 6, 6 * pixel)
        elif name in ("stomach", "duodenum", "oesophagus"):
            _fill(part, name, points, distance, grain, pixel)
    circle = np.hypot(frame.axes[0], frame.axes[1]) > spacing[0] * grid[0] / 2
    blur = 0.45
    image = gaussian_filter(image, (blur, blur, 0.33), mode="nearest")
    strength = noise_hu * (5 / spacing[2]) ** 0.5
    radius = np.hypot(frame.axes[0], frame.axes[1])
    image += scanner_noise(grid, pixel, rng) * (
        strength * (0.75 + 0.5 * np.exp(-((radius / 110) ** 2)))
    ).astype(np.float32)
    image[np.broadcast_to(circle, grid)] = FLOOR
    return np.clip(np.rint(image), FLOOR, CEILING)


def _fill(
    part: Floats, name: str, points: Points, distance: Floats, grain: Floats, pixel: float
) -> None:
    """Paint what is in stomach, duodenum or oesophagus: liquid, and gas in front of it."""
    wall = {"stomach": 4.5, "duodenum": 3.0, "oesophagus": 3.5}[name]
    lay(part, 24 + 8 * grain, distance + wall, pixel)
    _, y, _ = points
    if name == "stomach":
        lay(part, -940, np.maximum(distance + wall, y + 52), pixel)
    elif name == "oesophagus":
        lay(part, -500, distance + 6.5, 2 * pixel)


def scanner_noise(shape: tuple[int, int, int], pixel: float, rng: np.random.Generator) -> Floats:
    r"""Draw noise of unit variance with the in-plane spectrum of filtered back-projection.

    Its power rises with the frequency f, from the ramp, and falls with the soft kernel:
    :math:`f \exp(-(f / f_0)^2)`, :math:`f_0` = 0.35 cycles/mm. Slices are independent.
    """
    across, down = fft.fftfreq(shape[0], pixel), fft.rfftfreq(shape[1], pixel)
    f = np.hypot(across[:, None], down)
    gain = np.sqrt(f * np.exp(-((f / 0.35) ** 2)))
    twice = np.full(gain.shape[1], 2.0)  # all columns but the first and an even size's last
    twice[0] = 1.0
    if shape[1] % 2 == 0:
        twice[-1] = 1.0
    gain /= np.sqrt((gain**2 * twice).sum() / (shape[0] * shape[1]))
    noise = rng.standard_normal((shape[2], *shape[:2]), dtype=np.float32)
    noise = fft.irfft2(
        fft.rfft2(noise, workers=1) * gain.astype(np.float32), s=shape[:2], workers=1
    )
    return np.ascontiguousarray(noise.transpose(1, 2, 0))
