"""A weighted sum of losses."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from torch import Tensor, nn

from mbls.losses._checks import prepare
from mbls.losses.base import Loss, part_terms, total

__all__ = ["CompoundLoss"]


class CompoundLoss(Loss):
    """The sum of any losses with their factors.

    Formula: sum_i factor_i * loss_i

    A part with one term is logged under its own name, one with several as ``name/term``. Parts keep
    their own ``ignore_index``. The image is handed to the parts that want it. Soft labels need
    parts that all take them.

    Args:
        losses: ``{name: (factor, loss)}``; the losses are ours or any module called with
            ``(logits, target)``.

    Example:
        >>> import torch
        >>> from mbls.losses import CrossEntropyLoss, DiceLoss
        >>> loss = CompoundLoss({"ce": (0.5, CrossEntropyLoss()), "dice": (0.5, DiceLoss())})
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
        tensor(0.5966)
    """

    soft_targets = True

    def __init__(self, losses: Mapping[str, tuple[float, nn.Module]]) -> None:
        super().__init__()
        if not losses:
            raise ValueError("losses must name at least one part, got an empty mapping.")
        for name, part in losses.items():
            if not name or "." in name or "/" in name:
                raise ValueError(f"A part's name must be a word without '.' and '/', got {name!r}.")
            if name == "loss":
                raise ValueError("A part must not be named 'loss', which is the sum; rename it.")
            if not (
                isinstance(part, Sequence)
                and len(part) == 2
                and isinstance(part[0], Real)
                and isinstance(part[1], nn.Module)
            ):
                raise TypeError(f"losses[{name!r}] must be (factor, loss), got {part!r}.")
            if not math.isfinite(part[0]):
                raise ValueError(f"losses[{name!r}] must have a finite factor, got {part[0]}.")
        self.factors = {name: float(factor) for name, (factor, _) in losses.items()}
        self.needs_image = any(getattr(loss, "needs_image", False) for _, loss in losses.values())
        self.losses = nn.ModuleDict({name: loss for name, (_, loss) in losses.items()})

    def terms(
        self, logits: Tensor, target: Tensor, image: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return every part's terms times its factor."""
        logits, target = prepare(logits, target, ignore_index=None)  # the parts know theirs
        found = {}
        for name, loss in self.losses.items():
            inner = part_terms(loss, logits, target, image)
            for term, value in inner.items():
                found[name if len(inner) == 1 else f"{name}/{term}"] = self.factors[name] * value
        return found

    def voxel_mean_terms(self) -> set[str]:
        """Return those of the parts, by the names of :meth:`terms`; a foreign part has none."""
        found: set[str] = set()
        for name, loss in self.losses.items():
            for term in loss.voxel_mean_terms() if isinstance(loss, Loss) else ():
                found |= {name, f"{name}/{term}"}
        return found

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the sum of :meth:`terms`, a scalar."""
        return total(self.terms(logits, target, image))
