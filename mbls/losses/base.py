"""What a loss is here: named terms whose sum is the loss, and what an adaptive one adds."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from mbls.losses._checks import prepare, refuse_soft
from mbls.losses._masking import is_labeled, masked_mean
from mbls.losses.foreign import IGNORED, foreign_loss, plan_of

__all__ = ["AdaptiveLoss", "ImageLoss", "Loss", "check_parts", "part_terms", "total"]


class Loss(nn.Module, ABC):
    """A loss with named terms; ``loss(logits, target)`` is their sum.

    A subclass writes :meth:`terms`, which starts with :meth:`prepare`. Computation is in float32
    or wider, also under autocast; the host waits for the device only if ``validate`` is true.

    Args:
        ignore_index: The label of voxels that take no part in any term.
        validate: Check that every label is a class; the host then waits for the
            device at every call.

    Attributes:
        voxel_means: Terms that are means over the batch's labeled voxels. If a batch is
            shared among processes, each weights these by its share of the labeled voxels, so that
            their mean is that of the whole batch; all other terms are averaged as they are.
        needs_image: True if terms and forward also take the image.
        soft_targets: True if the formula also takes soft labels: class probabilities of each voxel.
            Losses inside this one are asked on their own.

    Raises:
        ValueError: A setting outside its range, at construction; logits and labels that do not
            fit, at the call.
    """

    voxel_means: ClassVar[frozenset[str]] = frozenset()
    needs_image = False
    soft_targets = False

    def __init__(self, *, ignore_index: int = -100, validate: bool = False) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.validate = validate

    @abstractmethod
    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the addends of the loss by name, already weighted.

        Args:
            logits: Raw scores ``(N, C, *S)``, C >= 2, any number of spatial axes, none included.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or integral floats; where
                :attr:`soft_targets` is true, also soft labels: floats of the logits' shape, the
                probability of each class, or ``ignore_index`` in all channels of a voxel.

        Returns:
            Scalars; each is zero, with a gradient of zero, where every voxel is ignored.
        """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum of :meth:`terms`, a scalar."""
        return total(self.terms(logits, target))

    def prepare(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Check the shapes; return float32 or wider logits and int64 labels ``(N, *S)``.

        Where :attr:`soft_targets` is true, soft labels are returned as ``(N, C, *S)``, in the dtype
        of the logits.

        Raises:
            ValueError: Shapes or labels do not fit, or soft labels are not supported.
        """
        if not self.soft_targets:
            name = type(self).__name__ + " with these settings" * type(self).soft_targets
            refuse_soft(name, logits, target)
        return prepare(logits, target, ignore_index=self.ignore_index, validate=self.validate)

    def voxel_mean(self, values: Tensor, target: Tensor) -> Tensor:
        """Average a map over the labeled voxels; zero, with a gradient of zero, where none is.

        Args:
            values: ``(N, *S)``.
            target: Labels ``(N, *S)``, or soft labels ``(N, C, *S)``, as :meth:`prepare` returns
                them.
        """
        return masked_mean(values, is_labeled(target, self.ignore_index))

    def voxel_mean_terms(self) -> set[str]:
        """Return the names of :attr:`voxel_means`, of base classes and losses inside too."""
        declared = (vars(cls).get("voxel_means", ()) for cls in type(self).__mro__)
        return set(self.voxel_means).union(*declared)

    def parts(self) -> "Iterator[Loss]":
        """Yield the losses directly inside this one."""
        return (child for child in self._inner() if isinstance(child, Loss))

    def bind(self, num_classes: int) -> None:
        """Set the number of classes, once, before training; forwarded to the parts."""
        for part in self.parts():
            part.bind(num_classes)

    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Pass a scored validation case to the adaptive losses among the parts."""
        for part in self.parts():
            part.observe(logits, target)

    def adapt(self) -> None:
        """Update the adaptive losses among the parts."""
        for part in self.parts():
            part.adapt()

    def tracked(self, class_keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the state of the adaptive losses inside, scalars by name, to be logged.

        Args:
            class_keys: A short name for each class.
        """
        found: dict[str, Tensor] = {}
        for part in self.parts():
            found |= part.tracked(class_keys)
        return found

    @property
    def adaptive(self) -> bool:
        """True if this loss or one inside it adapts to what it observes."""
        return any(isinstance(module, AdaptiveLoss) for module in self.modules())

    def _inner(self) -> Iterator[nn.Module]:
        for child in self.children():
            yield from child.children() if isinstance(child, nn.ModuleDict) else (child,)


class AdaptiveLoss(Loss):
    """A loss whose multipliers follow a validation set.

    Its state is buffers: they follow the device and live in the checkpoint. The training module
    calls :meth:`observe` on each scored validation case and :meth:`adapt` at the end of a
    validation epoch, before a checkpoint is saved, and neither in the sanity check. Overrides call
    ``super()`` first, so an adaptive loss inside this one also adapts.
    """

    @abstractmethod
    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Add one case's sums and counts, in float64.

        Args:
            logits: ``(N, C, *S)``, no gradient is kept.
            target: ``(N, *S)`` or ``(N, 1, *S)``.
        """
        super().observe(logits, target)

    @abstractmethod
    def adapt(self) -> None:
        """Reduce the sums over ranks, once, move the multipliers and start a new epoch's sums."""
        super().adapt()


class ImageLoss(Loss):
    """A loss that also looks at the image: ``loss(logits, target, image)``."""

    needs_image = True

    @abstractmethod
    def terms(  # type: ignore[override]
        self, logits: Tensor, target: Tensor, image: Tensor
    ) -> dict[str, Tensor]:
        """Return the addends by name, as :meth:`Loss.terms`; ``image`` is ``(N, M, *S)``."""

    def forward(  # type: ignore[override]
        self, logits: Tensor, target: Tensor, image: Tensor
    ) -> Tensor:
        """Return the sum of :meth:`terms`, a scalar."""
        return total(self.terms(logits, target, image))


def part_terms(
    loss: nn.Module,
    logits: Tensor,
    target: Tensor,
    image: Tensor | None = None,
    *,
    ignore_index: int = IGNORED,
) -> dict[str, Tensor]:
    """Return the terms of any loss module; one that is not a :class:`Loss` has a single one.

    A loss with ``to_onehot_y=True`` in it, as MONAI's have, gets its target as ``(N, 1, *S)``. How
    ignored voxels are kept out of what is not ours: :class:`mbls.losses.foreign.Plan`.

    Args:
        loss: A :class:`Loss`, or any module called with ``(logits, target)``.
        logits: ``(N, C, *S)``.
        target: Labels ``(N, *S)``, or soft labels ``(N, C, *S)`` for ours that take them.
        image: ``(N, M, *S)``, for a loss that needs it.
        ignore_index: The label of voxels to leave out of a foreign module; ours know their own.

    Returns:
        The terms by name, scalars; the one of a foreign module is called ``loss``.

    Raises:
        ValueError: The loss needs the image and there is none, or does not take soft labels; or see
            :func:`foreign_loss`.
    """
    if isinstance(loss, Loss):
        if not loss.needs_image:
            return loss.terms(logits, target)
        if image is None:
            raise ValueError(
                f"{type(loss).__name__} needs the image: call it as loss(logits, target, image)."
            )
        return loss.terms(logits, target, image)  # type: ignore[call-arg]
    refuse_soft(type(loss).__name__, logits, target)
    return {"loss": foreign_loss(loss, logits, target, ignore_index=ignore_index)}


def check_parts(loss: nn.Module, num_classes: int, spatial_dims: int) -> None:
    """Try how the losses of others are called, alone or inside ours, before training.

    Args:
        loss: Any loss module.
        num_classes: C.
        spatial_dims: Of the logits ``(N, C, *S)``.

    Raises:
        ValueError: One cannot be called with logits ``(N, C, *S)`` and labels ``(N, *S)``.
    """
    if isinstance(loss, Loss):
        base, parts = getattr(loss, "base", None), getattr(loss, "losses", None)
        inside = [] if base is None else [base]
        for part in [*inside, *(parts.values() if isinstance(parts, nn.ModuleDict) else ())]:
            check_parts(part, num_classes, spatial_dims)
        return
    name, plan = type(loss).__name__, plan_of(loss, num_classes, spatial_dims)
    if plan.way == "agreed":
        warnings.warn(
            f"{name} looks at neighboring voxels: those to ignore count for it as background that "
            "is predicted correctly.",
            stacklevel=2,
        )
    if any(_lacks_activation(module) for module in loss.modules()):
        warnings.warn(
            f"{name} takes the network's raw scores for probabilities: state softmax: true.",
            stacklevel=2,
        )


def _lacks_activation(module: nn.Module) -> bool:
    """Return True if a loss of MONAI's kind has an activation that it does not use."""
    names = ("softmax", "sigmoid", "other_act")
    return hasattr(module, "softmax") and not any(getattr(module, name, None) for name in names)


def total(terms: dict[str, Tensor]) -> Tensor:
    """Add the terms of a loss in their order."""
    first, *rest = terms.values()
    return sum(rest, start=first)
