"""Check before training that a network can be trained on patches of a size."""

import copy
import re
from collections.abc import Sequence

import torch
from torch import nn

from mbls.runtime.errors import SettingError

__all__ = ["check_patch"]

_SIZES = re.compile(  # torch's messages about sizes: normalization of one voxel, skip connections
    r"Expected more than 1 |Sizes of tensors must match|must match the (existing )?size"
    r"|[Kk]ernel size can't be greater|should be greater than|Output size is too small"
)


def check_patch(network: nn.Module, batch: Sequence[int], *, divisor: int | Sequence[int]) -> None:
    """Check that a network in training mode accepts a patch size.

    A copy of the network is run on torch's ``meta`` device, in about a second at any size. Errors
    that are not about sizes are ignored.

    Args:
        network: Maps ``(N, M, *S)`` to logits; it is not changed.
        batch: ``(N, M, *patch_size)``.
        divisor: The patch is padded to a multiple of it.

    Raises:
        SettingError: The network fails on a patch of this size.
    """
    count, channels, *patch = batch
    strides = (divisor,) * len(patch) if isinstance(divisor, int) else tuple(divisor)
    padded = [-(-size // stride) * stride for size, stride in zip(patch, strides, strict=True)]
    try:
        twin = copy.deepcopy(network).to("meta").train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin(torch.zeros(count, channels, *padded, device="meta"))
    except Exception as error:
        if not _SIZES.search(str(error)):
            return
        deepest = tuple(padded) == strides
        rule = f"must be > {max(strides)} on one axis" if deepest else "must fit the strides"
        sizes = " x ".join(map(str, padded))
        raise SettingError(
            f"patch_size {rule} for {type(network).__name__}, got {list(patch)}, padded to "
            f"{sizes}, a multiple of model.divisor {divisor}: "
            f"{str(error).splitlines()[0].rstrip('.')}. Choose another patch size "
            "(--data.init_args.sampling.patch_size), or set --model.divisor to the product of the "
            "strides."
        ) from error
