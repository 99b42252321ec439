"""Settings of the abdominal phantom, all of them in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import nibabel as nib

from datamodules.phantom.ranges import PhantomSettings

Release = Literal["2021", "2022", "1k"]
Folders = Literal["original", "nnunet"]

_FRACTIONS = ("bias_share", "contrast_fraction", "tube_fraction")
_POSITIVE = ("sigma_scale", "correlation_mm", "correlation_z_mm")
_RANGES = ("field_of_view_mm", "coverage_mm", "noise_hu")


@dataclass(frozen=True, kw_only=True)
class AbdomenPhantom(PhantomSettings):
    """Settings of the phantom; the organs are in ``flare_organs.py``.

    Args:
        release: Whose folders, file names and labels are written: FLARE21 (four organs), FLARE22
            (thirteen) or AbdomenCT-1K (``1k``; the organs of FLARE21).
        folders: The release's own folders, or ``imagesTr`` and ``labelsTr`` as copies have them.
        pixels: Pixels along x and y; FLARE has 512.
        field_of_view_mm: Least and greatest extent of a slice, mm.
        slices_mm: Slice distances, one of which a scan has, mm.
        coverage_mm: Least and greatest height of a scan, mm.
        orientations: Axis codes, one of which a file has, as nibabel names them: the end each
            axis points to. ``IPL``, as in KiTS, puts the slices along the first axis.
        sigma_scale: Factor on the organs' standard deviations of the annotated boundary.
        bias_share: Share of the standard deviation that a whole boundary has in common.
        correlation_mm: In-plane length l of the correlation ``exp(-d^2 / 2 l^2)``, mm.
        correlation_z_mm: The same length across slices, mm.
        noise_hu: Least and greatest standard deviation of the noise in slices of 5 mm, HU.
        contrast_fraction: Share of the scans in the portal venous phase; the rest is plain.
        tube_fraction: Share of the FLARE22 cases where aorta, inferior vena cava and oesophagus
            are labelled on a part of the slices only. The posterior says so: it is that of the
            labels as they are drawn.

    Raises:
        ValueError: A setting is out of its range.
    """

    release: Release = "2021"
    folders: Folders = "original"
    pixels: int = 128
    field_of_view_mm: tuple[float, float] = (350.0, 400.0)
    slices_mm: tuple[float, ...] = (4.0, 5.0, 5.0)
    coverage_mm: tuple[float, float] = (195.0, 235.0)
    orientations: tuple[str, ...] = ("LPS", "LPS", "RAS", "LAS", "LPI")
    sigma_scale: float = 1.0
    bias_share: float = 0.4
    correlation_mm: float = 6.0
    correlation_z_mm: float = 4.0
    noise_hu: tuple[float, float] = (8.0, 16.0)
    contrast_fraction: float = 0.75
    tube_fraction: float = 0.3

    def __post_init__(self) -> None:
        for name, known in (("release", get_args(Release)), ("folders", get_args(Folders))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}."
                )
        if self.pixels < 32:
            raise ValueError(f"pixels must be >= 32, got {self.pixels}.")
        self.check_numbers(fractions=_FRACTIONS, positive=_POSITIVE, ranges=_RANGES)
        if not self.slices_mm or min(self.slices_mm) <= 0:
            raise ValueError(f"slices_mm must be positive, got {self.slices_mm}.")
        if not self.orientations or not all(map(_is_orientation, self.orientations)):
            raise ValueError(
                f"orientations must be axis codes such as LPS or RAS, got {self.orientations}."
            )

    @classmethod
    def full_size(cls, **changes: Any) -> AbdomenPhantom:
        """Return settings with FLARE's own grid: 512 x 512 pixels, slices of 2.5 to 5 mm."""
        own: dict[str, Any] = {"pixels": 512, "slices_mm": (2.5, 2.5, 5.0)}
        return cls(**own | changes)


def _is_orientation(codes: str) -> bool:
    try:
        axes = nib.orientations.axcodes2ornt(codes)[:, 0]
    except (ValueError, KeyError):
        return False
    return sorted(axes.tolist()) == [0, 1, 2]
