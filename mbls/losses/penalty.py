"""The frame of every "cross-entropy plus penalty" loss: a base that can be any other loss."""

from typing import Any

from torch import Tensor, nn

from mbls.losses.base import Loss, part_terms
from mbls.losses.ce import CrossEntropyLoss
from mbls.losses.compound import CompoundLoss

__all__ = ["PenaltyLoss"]


class PenaltyLoss(Loss):
    """A base loss to which a subclass adds the terms of :meth:`penalty`.

    Args:
        base: The base loss; None is cross-entropy. Cross-entropy is counted once, even in nested
            penalties.
        **settings: ignore_index and validate, see :class:`Loss`.

    Raises:
        TypeError: The base is not a module, or needs the image.
        ValueError: A loss of the base has another ``ignore_index``, or at the call a term of the
            same name.

    Example:
        >>> import torch
        >>> class LogitNormLoss(PenaltyLoss):
        ...     voxel_means = frozenset({"size"})
        ...
        ...     def penalty(self, logits, target):
        ...         return {"size": 0.1 * self.voxel_mean(logits.square().mean(1), target)}
        >>> LogitNormLoss().terms(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        {'ce': tensor(0.1269), 'size': tensor(0.2000)}
    """

    def __init__(self, base: nn.Module | None = None, **settings: Any) -> None:
        if base is not None and not isinstance(base, nn.Module):
            raise TypeError(f"base must be a loss module or None, got {base!r}.")
        super().__init__(**settings)
        if getattr(base, "needs_image", False):
            raise TypeError(
                f"base must not need the image, got {type(base).__name__}. "
                "Add it to this loss with CompoundLoss instead."
            )
        for part in () if base is None else base.modules():
            theirs = getattr(part, "ignore_index", None)  # None: MONAI's losses that ignore nothing
            if theirs not in (None, self.ignore_index) and not isinstance(part, CompoundLoss):
                raise ValueError(
                    f"base must have the same ignore_index: {type(part).__name__} has {theirs}, "
                    f"{type(self).__name__} {self.ignore_index}."
                )
        self.base = CrossEntropyLoss(ignore_index=self.ignore_index) if base is None else base

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the penalty's terms, already weighted.

        Args:
            logits: ``(N, C, *S)``, float32 or wider.
            target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)`` if the class declares
                :attr:`soft_targets`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define penalty(logits, target).")

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms and those of :meth:`penalty`."""
        logits, target = self.prepare(logits, target)
        base, penalty = self.base_terms(logits, target), self.penalty(logits, target)
        if twice := sorted(base.keys() & penalty.keys()):
            raise ValueError(
                f"{type(self).__name__} and its base both have a term {twice[0]!r}, and one would "
                "be lost: stack losses with different terms, or add them with CompoundLoss."
            )
        return base | penalty

    def base_terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms for prepared logits ``(N, C, *S)`` and labels ``(N, *S)``.

        The one term of a foreign base is called ``base``: ``loss`` is the name of the sum.
        """
        terms = part_terms(self.base, logits, target, ignore_index=self.ignore_index)
        return {"base" if name == "loss" else name: term for name, term in terms.items()}

    def voxel_mean_terms(self) -> set[str]:
        """Return those of the penalty and of the base; a foreign base has none."""
        base = self.base.voxel_mean_terms() if isinstance(self.base, Loss) else set()
        return super().voxel_mean_terms() | base
