"""Settings of the glioma phantom, all of them in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from datamodules.phantom.ranges import PhantomSettings

Release = Literal["2018", "2019", "2020", "2021", "2023", "2024"]

_FRACTIONS = (
    "bias_share",
    "no_enhancing_fraction",
    "no_necrosis_fraction",
    "satellite_fraction",
    "satellite_pi",
    "thick_fraction",
    "followup_fraction",
    "cavity_fraction",
)
_POSITIVE = ("voxel_mm", "correlation_mm")
_RANGES = ("noise", "bias_field")


@dataclass(frozen=True, kw_only=True)
class BrainPhantom(PhantomSettings):
    """Settings of the phantom; what they mean for the tumour is in ``brats_tumour.py``.

    Args:
        release: Whose folders, file names and label values are written: BraTS 2018 to 2021
            (enhancing tumour 4) or 2023 and 2024 (enhancing tumour 3; in 2024, after treatment,
            the resection cavity is 4).
        suffix: ``.nii.gz`` as BraTS has it, or ``.nii`` as some copies have it.
        shape: Voxels along each axis; BraTS has 240 x 240 x 155.
        voxel_mm: Voxel size, mm; BraTS has 1.
        sigma_mm: Standard deviation of the annotated boundary about the true one, mm: of the
            whole tumour, of its core, of the enhancing part (and of the cavity).
        bias_share: Share of ``sigma_mm`` that a whole boundary has in common.
        correlation_mm: Length l of the displacement's correlation ``exp(-d^2 / 2 l^2)``, mm.
        no_enhancing_fraction: Share of the patients without enhancing tumour (low grade).
        no_necrosis_fraction: Share of the others whose core enhances throughout.
        satellite_fraction: Share of the patients with a patch of faint oedema apart from the
            tumour, which an annotator may or may not outline.
        satellite_pi: Probability that the annotator outlines it.
        noise: Least and greatest standard deviation of the noise, relative to white matter.
        bias_field: Least and greatest standard deviation of the log of the coil's sensitivity.
        thick_fraction: Share of the T2 and FLAIR images that were acquired in thick slices.
        followup_fraction: Share of the patients with a second time point (2023 and 2024).
        cavity_fraction: Share of the cases with a resection cavity (2024).

    Raises:
        ValueError: A setting is out of its range.
    """

    release: Release = "2021"
    suffix: Literal[".nii.gz", ".nii"] = ".nii.gz"
    shape: tuple[int, int, int] = (80, 96, 72)
    voxel_mm: float = 2.0
    sigma_mm: tuple[float, float, float] = (1.8, 1.4, 1.1)
    bias_share: float = 0.4
    correlation_mm: float = 5.0
    no_enhancing_fraction: float = 0.12
    no_necrosis_fraction: float = 0.06
    satellite_fraction: float = 0.25
    satellite_pi: float = 0.5
    noise: tuple[float, float] = (0.02, 0.05)
    bias_field: tuple[float, float] = (0.03, 0.10)
    thick_fraction: float = 0.3
    followup_fraction: float = 0.2
    cavity_fraction: float = 0.6

    def __post_init__(self) -> None:
        if self.release not in get_args(Release):
            raise ValueError(
                f"release must be one of {', '.join(get_args(Release))}, got {self.release!r}."
            )
        if self.suffix not in (".nii.gz", ".nii"):
            raise ValueError(f"suffix must be .nii.gz or .nii, got {self.suffix!r}.")
        if len(self.shape) != 3 or min(self.shape) < 16:
            raise ValueError(f"shape must be three sizes >= 16, got {self.shape}.")
        if len(self.sigma_mm) != 3 or not min(self.sigma_mm) > 0:
            raise ValueError(f"sigma_mm must be three numbers > 0, got {self.sigma_mm}.")
        self.check_numbers(fractions=_FRACTIONS, positive=_POSITIVE, ranges=_RANGES)

    @classmethod
    def full_size(cls, **changes: Any) -> BrainPhantom:
        """Return settings with BraTS's own grid: 240 x 240 x 155 voxels of 1 mm."""
        own: dict[str, Any] = {"shape": (240, 240, 155), "voxel_mm": 1.0}
        return cls(**own | changes)
