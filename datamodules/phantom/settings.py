"""Settings of the cardiac phantom, all of them in one frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datamodules.phantom.ranges import PhantomSettings

PARTS = ("train", "val", "test")

_FRACTIONS = (
    "basal_pi",
    "fine_fraction",
    "header_fault_fraction",
    "late_ed_fraction",
    "slice_drift",
)
_POSITIVE = ("sigma_mm", "correlation_mm", "correlation_z_mm", "psf_fwhm_px")
_RANGES = ("field_of_view_mm", "pixel_mm", "fine_slices_mm", "noise", "bias_field")


@dataclass(frozen=True, kw_only=True)
class CardiacPhantom(PhantomSettings):
    """Settings of the phantom; what they mean for anatomy is in ``heart.py``.

    Args:
        field_of_view_mm: Least and greatest extent of the image along x and along y, mm: as in
            real stacks, a heart takes most of one image and a small part of another.
        pixel_mm: Least and greatest in-plane spacing, mm.
        slice_distances_mm: Slice distances of the ordinary stacks, mm; slices are 0.6 to 0.8 of
            it thick, so the stack has gaps.
        fine_slices_mm: Least and greatest slice distance of the fine stacks, mm (no gaps).
        fine_fraction: Share of the patients with a fine stack.
        sigma_mm: Standard deviation of the annotated boundary about the true one, mm, in total.
        bias_mm: The part of ``sigma_mm`` that a whole frame has in common, mm: the annotator's
            habit. The rest varies along the boundary and from slice to slice.
        correlation_mm: In-plane length l of the correlation ``exp(-d^2 / 2 l^2)``, mm.
        correlation_z_mm: The same length across slices, mm.
        basal_pi: Probability that the annotator outlines the slice at the valve plane.
        noise: Least and greatest noise standard deviation, in units of the blood signal.
        bias_field: Least and greatest standard deviation of the log of the coil's sensitivity.
        slice_drift: Relative standard deviation of the signal from slice to slice.
        psf_fwhm_px: Full width at half maximum of the in-plane blur, in pixels.
        shift_mm: Standard deviation of a slice's in-plane shift between breath-holds, mm.
        header_fault_fraction: Share of the patients whose sform has unit scales while qform and
            pixdim are right, the fault of some real ACDC files.
        late_ed_fraction: Share of the patients whose end-diastolic frame is not frame 1.

    Raises:
        ValueError: A setting is out of its range.
    """

    field_of_view_mm: tuple[float, float] = (172.0, 320.0)
    pixel_mm: tuple[float, float] = (1.4, 2.0)
    slice_distances_mm: tuple[float, ...] = (8.0, 9.0, 10.0, 10.0, 10.0)
    fine_slices_mm: tuple[float, float] = (5.0, 7.0)
    fine_fraction: float = 0.1
    sigma_mm: float = 0.8
    bias_mm: float = 0.4
    correlation_mm: float = 4.0
    correlation_z_mm: float = 1.75
    basal_pi: float = 0.5
    noise: tuple[float, float] = (0.01, 0.03)
    bias_field: tuple[float, float] = (0.10, 0.22)
    slice_drift: float = 0.06
    psf_fwhm_px: float = 1.3
    shift_mm: float = 1.0
    header_fault_fraction: float = 0.1
    late_ed_fraction: float = 0.025

    def __post_init__(self) -> None:
        self.check_numbers(fractions=_FRACTIONS, positive=_POSITIVE, ranges=_RANGES)
        if not 0 <= self.bias_mm <= self.sigma_mm:
            raise ValueError(
                f"bias_mm is a part of sigma_mm={self.sigma_mm}, got bias_mm={self.bias_mm}."
            )
        if self.shift_mm < 0:
            raise ValueError(f"shift_mm must be >= 0, got {self.shift_mm}.")
        if not self.slice_distances_mm or min(self.slice_distances_mm) <= 0:
            raise ValueError(f"slice_distances_mm must be positive, got {self.slice_distances_mm}.")
        if self.pixel_mm[0] <= 0 or self.fine_slices_mm[0] <= 0:
            raise ValueError("pixel_mm and fine_slices_mm must be > 0.")


def checked_counts(patients: Mapping[str, int]) -> dict[str, int]:
    """Return the number of patients of each part, in the order train, val, test.

    Raises:
        ValueError: A part is missing or unknown, or has no patient.
    """
    if set(patients) != set(PARTS):
        raise ValueError(f"patients must name {', '.join(PARTS)}, got {sorted(patients)}.")
    for part, count in patients.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"patients[{part!r}] must be an integer >= 1, got {count!r}.")
    return {part: patients[part] for part in PARTS}
