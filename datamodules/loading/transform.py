"""The ``transform`` hook: anybody's augmentation of training samples, repeatable and checked.

A transform is any callable that takes and returns a dict: ``image`` float32 ``(M, *S)`` and
``label`` int64 ``(1, *S)``, whose ignored voxels are -100; ``(R, *S)`` if the mean of R readers is
trained on. MONAI's dictionary transforms are such callables; :class:`TorchIOTransform` and
:class:`BatchgeneratorsTransform` adapt those of the other two libraries.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchgeneratorsTransform", "TorchIOTransform", "Transform", "apply"]

Transform = Callable[[dict[str, Any]], Mapping[str, Any]]

_PURPOSE = 2  # of the draws; 0 and 1 are the sample's own


class TransformError(ValueError):
    """A ``transform`` returned an invalid training sample."""

    for_user = True  # a command line shows the message alone, without a traceback


class TorchIOTransform:
    """Calls a transform of TorchIO, for which a slice is a volume of one.

    Args:
        transform: Takes and returns a ``torchio.Subject``.
    """

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the transformed sample."""
        import torchio  # not among the dependencies

        kinds = {"image": torchio.ScalarImage, "label": torchio.LabelMap}
        axes = sample["image"].ndim
        deep = {name: value[(..., *[None] * (4 - axes))] for name, value in sample.items()}
        subject = torchio.Subject({name: kinds[name](tensor=deep[name]) for name in deep})
        changed = self.transform(subject)
        return {name: changed[name].data.reshape(sample[name].shape) for name in sample}


class BatchgeneratorsTransform:
    """Calls a transform of batchgeneratorsv2, which takes keywords and names the label otherwise.

    Args:
        transform: Takes and returns ``image`` and ``segmentation``.
    """

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the transformed sample."""
        changed = self.transform(image=sample["image"], segmentation=sample["label"])
        return {"image": changed["image"], "label": changed["segmentation"]}


def apply(
    transform: Transform, image: Tensor, label: Tensor, *, seed: tuple[int, int, int]
) -> None:
    """Call a transform on a sample and write what it returns in place.

    Args:
        transform: See the module.
        image: float32 ``(M, *S)``.
        label: int64 ``(*S,)``, or ``(R, *S)`` of several readers.
        seed: Seed, epoch and index, of which its draws are a function.

    Raises:
        TransformError: What it returns is no dict, or of another shape, or its image has values
            that are not finite, or its label some that are not integers.
    """
    channels = label if label.ndim == image.ndim else label[None]
    with _seeded(transform, seed):
        changed = transform({"image": image.clone(), "label": channels.clone()})
    _write(changed, "image", image)
    _write(changed, "label", label)


@contextmanager
def _seeded(transform: Transform, seed: tuple[int, int, int]) -> Iterator[None]:
    """Seed all generators that a transform may draw from; restore the global ones."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_PURPOSE,))
    number = int(sequence.generate_state(1)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - its
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the generator that transforms use
    torch.default_generator.manual_seed(number)  # of the CPU; torch.manual_seed takes GPUs' too
    if hasattr(transform, "set_random_state"):  # MONAI's have their own generators
        transform.set_random_state(seed=number)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def _write(changed: Mapping[str, Any], name: str, out: Tensor) -> None:
    """Copy what a transform returned into the sample, once it is known to be one."""
    if not isinstance(changed, Mapping) or name not in changed:
        got = sorted(changed) if isinstance(changed, Mapping) else type(changed).__name__
        raise TransformError(f"transform must return a dict with image and label, got {got}.")
    found = torch.as_tensor(changed[name])
    shape = tuple(found.shape)
    if name == "label" and shape == (1, *out.shape):
        found = found[0]
    if found.shape != out.shape:
        raise TransformError(
            f"transform must keep the shape of the {name}, {tuple(out.shape)}, got {shape}: the "
            "samples of a batch have one size. To crop or resize take patch_size and spacing."
        )
    if found.dtype.is_complex or (found.is_floating_point() and not found.isfinite().all()):
        raise TransformError(f"transform must return finite real numbers, got others in {name}.")
    if name == "label" and found.is_floating_point() and not (found == found.round()).all():
        raise TransformError(
            "transform must keep labels integers, got fractions: take nearest neighbors for the "
            "label (MONAI: mode nearest; TorchIO: a LabelMap)."
        )
    out.copy_(found)
