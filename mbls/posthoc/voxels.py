"""The voxels of a stream of predictions, piece by piece, for several fits at once."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mbls.data import IGNORE_INDEX
from mbls.posthoc.base import views
from mbls.predictions import Prediction
from mbls.runtime.errors import CalibratorError

__all__ = ["Piece", "Sample", "pieces", "seed_of"]


class Piece:
    """Labeled voxels of a case, without the ignored ones.

    What several fits compute alike is computed once, by :meth:`shared`.

    Attributes:
        case: Name of the case.
        region: The region whose two classes it has; 0 if the case has classes.
        probs: Probabilities ``(C, L)``, float32 or float64.
        log_probs: Their logarithms ``(C, L)``.
        label: Labels ``(L,)``, int64.
        rank: A random number in [0, 1) for each voxel, float64 ``(L,)``; it depends on nothing
            but the seed, the case and the voxel.
    """

    def __init__(
        self,
        case: str,
        probs: Tensor,
        log_probs: Tensor,
        label: Tensor,
        rank: Tensor,
        *,
        region: int = 0,
    ) -> None:
        self.case, self.region, self.probs, self.log_probs = case, region, probs, log_probs
        self.label, self.rank = label, rank
        self._found: dict[Any, Any] = {}

    def shared(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return what was computed for the key before, or compute it."""
        if key not in self._found:
            self._found[key] = compute()
        return self._found[key]


def seed_of(*parts: object) -> int:
    """Return a seed of 63 bits that depends on the texts of the parts alone."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def pieces(prediction: Prediction, seed: int) -> Iterator[Piece]:
    """Yield the labeled voxels of a case in pieces that fit the cache.

    Pieces of a case with regions have the two classes of one region each.

    Raises:
        CalibratorError: Labels are not classes, or probabilities are not finite.
    """
    from mbls.posthoc.regions import two_classes

    random = torch.Generator().manual_seed(seed_of(seed, prediction.case))
    C = 2 if prediction.regions else prediction.probs.shape[0]
    label = prediction.label if prediction.regions else prediction.label[None]
    for part, labels in views(prediction.probs, label.to(prediction.probs.device)):
        flat, targets = part.flatten(1), labels.flatten(1)
        ranks = torch.rand(flat.shape[1], generator=random, dtype=torch.float64).to(flat.device)
        for region, target in enumerate(targets):
            probs = flat[region : region + 1] if prediction.regions else flat
            kept = target != IGNORE_INDEX
            rank = ranks
            if not kept.all():
                probs, target, rank = probs[:, kept], target[kept], ranks[kept]
            if not target.numel():
                continue
            _check(prediction.case, probs, target, C)
            log_probs = prediction.log_of(probs)
            if prediction.regions:
                log_probs = two_classes(log_probs[0])
                probs = torch.cat([1 - probs, probs])
            yield Piece(prediction.case, probs, log_probs, target, rank, region=region)


def _check(case: str, probs: Tensor, label: Tensor, num_classes: int) -> None:
    low, high = torch.aminmax(label)
    if low < 0 or high >= num_classes:
        raise CalibratorError(
            f"Case {case} has the label {int(low if low < 0 else high)}, but its probabilities are "
            f"of {num_classes} classes: labels must be 0 to {num_classes - 1}, or {IGNORE_INDEX} "
            "for ignored voxels."
        )
    smallest, largest = torch.aminmax(probs)
    if not (smallest >= 0 and largest <= 1.001):  # also NaN
        raise CalibratorError(
            f"Case {case} has values from {float(smallest):.4g} to {float(largest):.4g} for "
            "probabilities: they must be finite and in [0, 1]. Convert logits by a softmax."
        )


class Sample:
    """A uniform random sample of the voxels of a stream, in constant memory.

    It contains the voxels of the lowest :attr:`Piece.rank`, so it does not depend on their order.

    Args:
        size: Number of voxels.
    """

    def __init__(self, size: int) -> None:
        self.size, self.limit = size, 1.0
        self.rank = torch.zeros(0, dtype=torch.float64)
        self.log_probs, self.label = torch.zeros(0), torch.zeros(0, dtype=torch.int64)

    def add(self, piece: Piece) -> None:
        """Add the voxels of a piece that belong to the sample."""
        chosen = piece.rank < self.limit
        found = piece.log_probs[:, chosen], piece.label[chosen], piece.rank[chosen]
        if not self.rank.numel():
            self.log_probs, self.label, self.rank = found
        else:
            self.log_probs = torch.cat([self.log_probs, found[0]], dim=1)
            self.label = torch.cat([self.label, found[1]])
            self.rank = torch.cat([self.rank, found[2]])
        if self.rank.numel() > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        lowest = self.rank.topk(self.size, largest=False, sorted=True).indices
        self.rank, self.label = self.rank[lowest], self.label[lowest]
        self.log_probs, self.limit = self.log_probs[:, lowest], float(self.rank[-1])

    def voxels(self) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``(C, L)`` and labels ``(L,)``, by rank."""
        if self.rank.numel() > self.size:
            self._shrink()
        order = self.rank.argsort()
        return self.log_probs[:, order], self.label[order]
