"""Corruptions of test images at stated strengths, to see what a network's probabilities do then.

Each acts on a whole preprocessed image, channel by channel, by a transform of MONAI. What is random
is drawn from a seed of the corruption and the case, not of the strength: a case has the same noise
and the same bias field at each level, in each run, and on any device and number of processes.
"""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mbls.runtime.errors import SettingError

__all__ = ["CORRUPTIONS", "LEVELS", "MISSING", "Corrupted", "Corruption"]

LEVELS = (1, 2, 3)
MISSING = "missing"


@dataclass(frozen=True)
class Corruption:
    """A way to corrupt an image.

    Attributes:
        unit: What a strength is.
        strengths: The strength of each level of :data:`LEVELS`; empty if a level is a channel.
        apply: ``apply(channel (1, *S), strength, spacing, seed) -> (1, *S)``.
    """

    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Tensor, float, Sequence[float], int], Tensor]


def noise(image: Tensor, strength: float, spacing: Sequence[float], seed: int) -> Tensor:
    """Add Gaussian noise with ``strength`` times the channel's standard deviation."""
    from monai.transforms import RandGaussianNoise

    spread = strength * float(image.double().std(correction=0))
    add: Any = RandGaussianNoise(prob=1.0, std=spread, sample_std=False)
    return _plain(add.set_random_state(seed)(image))


def bias(image: Tensor, strength: float, spacing: Sequence[float], seed: int) -> Tensor:
    """Multiply by the exponential of a random polynomial of degree 3.

    Its coefficients are uniform in +-``strength``. The image is counted from its minimum, since a
    normalized image has negative values.
    """
    from monai.transforms import RandBiasField

    low = image.min()
    field: Any = RandBiasField(degree=3, coeff_range=(-strength, strength), prob=1.0)
    return _plain(field.set_random_state(seed)(image - low)) + low


def blur(image: Tensor, strength: float, spacing: Sequence[float], seed: int) -> Tensor:
    """Smooth with a Gaussian of ``strength`` mm standard deviation along each axis.

    At the border it is the mean of the voxels inside, where MONAI's takes zeros outside.
    """
    from monai.transforms import GaussianSmooth

    smooth = GaussianSmooth(sigma=[strength / mm for mm in spacing])
    return _plain(smooth(image)) / _plain(smooth(torch.ones_like(image)))


def gamma(image: Tensor, strength: float, spacing: Sequence[float], seed: int) -> Tensor:
    """Raise the image, scaled to [0, 1], to the power ``strength``, and scale back."""
    from monai.transforms import AdjustContrast

    return _plain(AdjustContrast(gamma=strength)(image))


def resolution(image: Tensor, strength: float, spacing: Sequence[float], seed: int) -> Tensor:
    """Average to voxels whose sides are ``strength`` times the smallest side, and interpolate back.

    Sides that are longer stay, as those of thick slices.
    """
    from monai.transforms import Resize

    shape, side = image.shape[1:], strength * min(spacing)
    coarse = [max(1, round(n * mm / max(mm, side))) for n, mm in zip(shape, spacing, strict=True)]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    return _plain(Resize(list(shape), mode=mode)(Resize(coarse, mode="area")(image)))


def missing(image: Tensor, strength: float, spacing: Sequence[float], seed: int) -> Tensor:
    """Set the channel to its mean."""
    return torch.full_like(image, float(image.double().mean()))


CORRUPTIONS = {
    "noise": Corruption("standard deviations of the channel", (0.25, 0.5, 1.0), noise),
    "bias": Corruption("largest coefficient of the log field", (0.1, 0.2, 0.4), bias),
    "blur": Corruption("mm, standard deviation", (1.0, 2.0, 4.0), blur),
    "gamma": Corruption("exponent", (1.25, 1.5, 2.0), gamma),
    "resolution": Corruption("times the smallest voxel side", (2.0, 3.0, 4.0), resolution),
    MISSING: Corruption("the channel, from 1", (), missing),
}
"""The corruptions by name; level k has the k-th strength."""


@dataclass(frozen=True)
class Corrupted:
    """A corruption at one level.

    Attributes:
        name: Its name in :data:`CORRUPTIONS`.
        level: Its level, from 1; for a missing modality the channel, from 1.

    Example:
        >>> Corrupted.parse("blur:2").strength, Corrupted.parse("blur:2").tag
        (2.0, 'blur-2')
    """

    name: str
    level: int

    @classmethod
    def parse(cls, text: str) -> "Corrupted":
        """Read ``noise:3``.

        Raises:
            SettingError: There is no such corruption or level.
        """
        name, _, level = text.partition(":")
        check_name(name)
        levels = "1, 2, ... (a channel)" if name == MISSING else ", ".join(map(str, LEVELS))
        known = level.isdecimal() and int(level) >= 1
        if not known or (name != MISSING and int(level) not in LEVELS):
            raise SettingError(
                f"CORRUPT (--corrupt) must be {name}:LEVEL with a level of {levels}, got {text!r}. "
                "A test of the images as they are has no CORRUPT."
            )
        return cls(name, int(level))

    @property
    def text(self) -> str:
        """The corruption as the command line has it."""
        return f"{self.name}:{self.level}"

    @property
    def tag(self) -> str:
        """The corruption in names of tests."""
        return f"{self.name}-{self.level}"

    @property
    def strength(self) -> float:
        """The strength of the level, in the corruption's unit."""
        strengths = CORRUPTIONS[self.name].strengths
        return strengths[self.level - 1] if strengths else float(self.level)

    def meta(self) -> dict[str, Any]:
        """Return what the description of a test says of it."""
        return {"corruption": self.text, "corruption_strength": self.strength}

    def apply(self, image: Tensor, case: str, spacing: Sequence[float]) -> Tensor:
        """Return the corrupted image, on its device.

        Args:
            image: A whole image ``(M, *S)``.
            case: Name of the case, from which random numbers are drawn.
            spacing: Voxel size along each axis in mm.

        Raises:
            SettingError: The channel to leave out does not exist, or is the only one.
        """
        own, host = CORRUPTIONS[self.name], image.detach().cpu().float()
        check_channel(self, len(host))
        channels = [self.level - 1] if self.name == MISSING else range(len(host))
        changed = host.clone()
        for m in channels:
            seed = _seed(self.name, case, m)
            changed[m] = own.apply(host[m : m + 1], self.strength, spacing, seed)[0]
        return changed.to(image)


def check_name(name: str) -> None:
    """Raise SettingError with the nearest name for a corruption that does not exist."""
    if name not in CORRUPTIONS:
        near = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingError(
            f"There is no corruption {name!r}.{hint} There are: {', '.join(CORRUPTIONS)}."
        )


def check_channel(corrupted: Corrupted, channels: int) -> None:
    """Raise SettingError for a missing channel of images that don't have it, or no other."""
    if corrupted.name != MISSING or 2 <= channels >= corrupted.level:
        return
    way = f"choose one of 1 ... {channels}" if channels > 1 else "choose another corruption"
    raise SettingError(
        f"{corrupted.text} leaves out one of several channels, and these images have {channels}: "
        f"{way}."
    )


def _seed(name: str, case: str, channel: int) -> int:
    digest = hashlib.sha256(f"{name}/{case}/{channel}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _plain(image: Any) -> Tensor:
    """Return MONAI's result as a plain tensor."""
    found: Tensor = image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image)
    return found.float()
