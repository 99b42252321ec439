"""The frame of every "cross-entropy plus penalty" loss: a base that can be any other loss."""

from torch import Tensor, nn

from mbls.losses._pointwise import Pointwise, pointwise_means
from mbls.losses.base import Loss, part_terms
from mbls.losses.ce import CrossEntropyLoss, CrossEntropyTerm
from mbls.losses.compound import CompoundLoss

__all__ = ["PenaltyLoss"]


class PenaltyLoss(Loss):
    """A base loss to which a subclass adds a penalty.

    Args:
        base: The loss below the penalty; None is cross-entropy. Cross-entropy is counted once,
            whatever is stacked.
        ignore_index: The label of voxels that take no part; another one in the base is an error.
        validate: Refuse labels that are no class; the host then waits for the device. Also done
            if the base asks for it.

    Raises:
        TypeError: The base is no module, or needs the image.
        ValueError: A loss of the base has another ``ignore_index``.
    """

    def __init__(
        self, base: nn.Module | None = None, *, ignore_index: int = -100, validate: bool = False
    ) -> None:
        if base is not None and not isinstance(base, nn.Module):
            raise TypeError(f"base must be a loss module or None, got {base!r}.")
        asked = validate or getattr(base, "validate", False) is True  # its own look may be skipped
        super().__init__(ignore_index=ignore_index, validate=asked)
        if getattr(base, "needs_image", False):
            raise TypeError(
                f"base must not need the image, got {type(base).__name__}. "
                "Add it to this loss with CompoundLoss instead."
            )
        for part in () if base is None else base.modules():
            theirs = getattr(part, "ignore_index", None)  # None: MONAI's losses that ignore nothing
            if theirs not in (None, ignore_index) and not isinstance(part, CompoundLoss):
                raise ValueError(
                    f"base must have the same ignore_index: {type(part).__name__} has {theirs}, "
                    f"{type(self).__name__} {ignore_index}."
                )
        self.base = CrossEntropyLoss(ignore_index=ignore_index) if base is None else base

    def with_base(
        self, logits: Tensor, target: Tensor, name: str, factor: float, term: Pointwise
    ) -> dict[str, Tensor]:
        """Return the base's terms and ``factor`` times the mean of a pointwise penalty.

        A cross-entropy below the penalty shares its pass over the logits.
        """
        shared: list[Pointwise] = [term]
        factors = [factor]
        if type(self.base) is CrossEntropyLoss and self.base.weight is None:
            shared.insert(0, CrossEntropyTerm(self.base.label_smoothing))
            factors.insert(0, 1.0)
        *ce, penalty = pointwise_means(
            logits, target, shared, factors=factors, ignore_index=self.ignore_index
        )
        terms = {"ce": ce[0]} if ce else self.base_terms(logits, target)
        return {**terms, name: penalty}

    def batch_statistics(self) -> set[str]:
        """Return those of the base and of the penalty; of a foreign base nothing is known."""
        base = self.base.batch_statistics() if isinstance(self.base, Loss) else {"base"}
        return super().batch_statistics() | base

    def base_terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms for prepared logits ``(N, C, *S)`` and labels ``(N, *S)``.

        The one term of a foreign base is called ``base``: ``loss`` is the name of the sum.
        """
        terms = part_terms(self.base, logits, target, ignore_index=self.ignore_index)
        return {"base" if name == "loss" else name: term for name, term in terms.items()}
