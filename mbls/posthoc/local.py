r"""Local temperature scaling (Ding et al., ICCV 2021, arXiv:2008.05105).

A small network looks at the image and the log-probabilities and gives each voxel a temperature,
:math:`q(x) = \mathrm{softmax}(\log p(x) / T(x))`. Labels do not change. It needs the image, so it
is for networks of our own, where they predict.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbls.data import IGNORE_INDEX
from mbls.posthoc.base import Calibrator, Card, check_numbers
from mbls.posthoc.fit import Fit
from mbls.posthoc.voxels import Piece, seed_of
from mbls.predictions import Prediction
from mbls.runtime.errors import CalibratorError

__all__ = ["LocalFit", "LocalNetwork", "LocalTemperature"]

WIDTH = 8
REACH = 3
"""Voxels that a temperature depends on in each direction: three convolutions of 3 voxels."""
FLOOR = -20.0
"""Log-probabilities are cut off here before the network sees them."""
LIMIT = 3.0
"""T is between exp(-3) and exp(3)."""
CROP = {2: 96, 3: 32}
"""Edge of a random crop in voxels."""
CROPS, PASSES, RATE = 4, 12, 1e-2


class LocalNetwork(nn.Module):
    """Three convolutions that give the logarithm of the temperature of each voxel.

    It begins with one temperature of 1 everywhere.

    Args:
        channels: Channels M of the image.
        num_classes: Number of classes C.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, num_classes: int, spatial_dims: int) -> None:
        super().__init__()
        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        last = conv(WIDTH, 1, 3)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(
            conv(channels + num_classes, WIDTH, 3),
            nn.LeakyReLU(),
            conv(WIDTH, WIDTH, 3),
            nn.LeakyReLU(),
            last,
        )

    def forward(self, image: Tensor, log_probs: Tensor) -> Tensor:
        """Return log T ``(N, 1, *S)``, without :data:`REACH` voxels at each border.

        Args:
            image: Image ``(N, M, *S)``, scaled by :func:`scaled`.
            log_probs: Log-probabilities ``(N, C, *S)``.
        """
        inputs = torch.cat([image, log_probs.clamp_min(FLOOR) / 5], dim=1)
        return LIMIT * torch.tanh(self.layers(inputs) / LIMIT)


def scaled(image: Tensor) -> Tensor:
    """Return an image ``(M, *S)`` with mean 0 and standard deviation 1 in each channel."""
    flat = image.float().flatten(1)
    shape = (-1, *[1] * (image.ndim - 1))
    return (image.float() - flat.mean(1).view(shape)) / flat.std(1).clamp_min(1e-6).view(shape)


def window(tensor: Tensor, start: int, end: int) -> Tensor:
    """Return rows of ``(c, *S)`` with :data:`REACH` voxels around them, ``(1, c, *S)``.

    Beyond the volume its borders are repeated.
    """
    low, high = max(0, start - REACH), min(tensor.shape[1], end + REACH)
    sides = [REACH] * 2 * (tensor.ndim - 2) + [low - (start - REACH), end + REACH - high]
    return F.pad(tensor[None, :, low:high].float(), sides, mode="replicate")


@dataclass(frozen=True, eq=False)
class LocalTemperature(Calibrator):
    """A temperature for each voxel, by a small network; labels do not change.

    Attributes:
        channels: Channels of the image.
        spatial_dims: 2 or 3.
        weights: The network's parameters, one after the other.
    """

    channels: int
    spatial_dims: int
    weights: tuple[float, ...]
    method: ClassVar[str] = "local_temperature"
    needs_image: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3) or not 0 < self.channels < 1000:
            raise ValueError(f"{self.channels} channels in {self.spatial_dims} dimensions")
        blank = LocalNetwork(self.channels, self.num_classes, self.spatial_dims)
        check_numbers("weights", self.weights, sum(p.numel() for p in blank.parameters()))

    @cached_property
    def network(self) -> LocalNetwork:
        """The network, on the CPU."""
        network = LocalNetwork(self.channels, self.num_classes, self.spatial_dims)
        nn.utils.vector_to_parameters(torch.tensor(self.weights), network.parameters())
        return network.eval().requires_grad_(False)

    def map(self, log_probs: Tensor) -> Tensor:
        """Raise an error: the image is needed."""
        raise CalibratorError(f"The calibrator {self.method} needs the image of each case.")

    def _apply_case(self, source: Tensor, target: Tensor, image: Tensor | None) -> None:
        if image is None or len(image) != self.channels or image.shape[1:] != source.shape[1:]:
            found = None if image is None else tuple(image.shape)
            raise CalibratorError(
                f"The image must have {self.channels} channels on the grid of the "
                f"log-probabilities, {tuple(source.shape[1:])}, got {found}."
            )
        network = self.network.to(source.device)
        wide = source if source.dtype == torch.float64 else source.float()
        image = scaled(image)
        slab = max(1, CROP[self.spatial_dims] ** self.spatial_dims // source[0, 0].numel())
        for start in range(0, source.shape[1], slab):
            end = min(start + slab, source.shape[1])
            parts = [window(each, start, end) for each in (image, source)]
            inverse = network(*parts)[0].neg_().exp_()
            target[:, start:end] = torch.log_softmax(wide[:, start:end] * inverse, dim=0)


class LocalFit(Fit):
    """Train the network by Adam on random crops of the cases, :data:`PASSES` times over them.

    Args:
        num_classes: Number of classes.
        seed: Seed of the weights and the crops.
    """

    whole = True

    def __init__(self, num_classes: int, seed: int) -> None:
        super().__init__()
        self.num_classes, self.seed, self.passes = num_classes, seed, 0
        self.network: LocalNetwork | None = None
        self.losses: list[tuple[float, float, int]] = []

    def add(self, piece: Piece, patient: str) -> None:
        """Do nothing: whole cases are needed."""

    def add_case(self, prediction: Prediction, patient: str) -> None:
        """Train on random crops of a case."""
        image, label = prediction.image, prediction.label
        if image is None or prediction.regions or label.ndim not in CROP:
            raise CalibratorError(
                f"local_temperature needs an image and classes in 2D or 3D, which case "
                f"{prediction.case} does not have: fit it to a run (mbls calibrate --run), or use "
                "temperature."
            )
        if self.network is None:
            self._begin(len(image), label)
        random = torch.Generator().manual_seed(seed_of(self.seed, self.passes, prediction.case))
        with torch.inference_mode(False), torch.enable_grad():  # such as in a validation
            image = scaled(image).to(prediction.probs.device)
            for place in _crops(label.shape, random):
                log_probs = prediction.log_of(torch.stack([p[place] for p in prediction.probs]))
                self._step(torch.stack([m[place] for m in image]), log_probs, label[place].clone())

    def _begin(self, channels: int, label: Tensor) -> None:
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = LocalNetwork(channels, self.num_classes, label.ndim).to(label.device)
        self.channels, self.spatial_dims = channels, label.ndim
        self.optimizer = torch.optim.Adam(self.network.parameters(), RATE)

    def _step(self, image: Tensor, log_probs: Tensor, label: Tensor) -> None:
        assert self.network is not None
        voxels = int((label != IGNORE_INDEX).sum())
        if not voxels:
            return
        length = image.shape[1]
        log_temperature = self.network(*(window(each, 0, length) for each in (image, log_probs)))
        logits = log_probs[None].float() * (-log_temperature).exp()
        loss = F.cross_entropy(logits, label[None], ignore_index=IGNORE_INDEX)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            before = F.nll_loss(log_probs[None].float(), label[None], ignore_index=IGNORE_INDEX)
        self.losses.append((float(before), float(loss.detach()), voxels))

    def end_pass(self) -> bool:
        """End a pass, and return True after the last; the learning rate falls."""
        self.passes += 1
        if not self.losses:
            raise CalibratorError(
                "No voxel of the cases has a label: a calibrator needs labeled cases."
            )
        if self.passes == PASSES:
            return True
        self.losses = []
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * (1 - self.passes / PASSES)
        return False

    def calibrator(self, card: Card) -> Calibrator:
        """Return the result; its report has the NLL of the last pass's crops."""
        assert self.network is not None
        weights = nn.utils.parameters_to_vector(self.network.parameters()).detach()
        voxels = sum(n for _, _, n in self.losses)
        before, after = (sum(row[i] * row[2] for row in self.losses) / voxels for i in (0, 1))
        found = LocalTemperature(card, self.channels, self.spatial_dims, tuple(weights.tolist()))
        return found.reported(
            voxels=voxels, cases=len(self.cases), patients=len(card.patients),
            passes=self.passes, nll_before=before, nll_after=after,
        )  # fmt: skip


def _crops(shape: torch.Size, random: torch.Generator) -> Iterator[tuple[slice, ...]]:
    """Yield random crops."""
    for _ in range(CROPS):
        place = []
        for length in shape:
            edge = min(CROP[len(shape)], length)
            start = int(torch.randint(length - edge + 1, (), generator=random))
            place.append(slice(start, start + edge))
        yield tuple(place)
