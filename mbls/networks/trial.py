"""Whether a network can be trained on patches of a size, told before it is."""

import copy
import re
from collections.abc import Sequence

import torch
from torch import nn

from mbls.runtime.errors import SettingError

__all__ = ["check_patch"]

_SIZES = re.compile(  # what torch says of sizes: one voxel to normalise, halves that do not fit
    r"Expected more than 1 |Sizes of tensors must match|must match the (existing )?size"
    r"|[Kk]ernel size can't be greater|should be greater than|Output size is too small"
)


def check_patch(network: nn.Module, batch: Sequence[int], *, divisor: int) -> None:
    """Refuse a patch that a network in training cannot take.

    A copy of the network is run without numbers, on torch's ``meta`` device, in about a second
    whatever the size. What else than sizes fails there is no reason to refuse.

    Args:
        network: From ``(N, M, *S)`` to logits; it stays as it is.
        batch: ``(N, M, *patch_size)``.
        divisor: The patch is padded to a multiple of it.

    Raises:
        SettingError: It fails on a patch of this size.
    """
    count, channels, *patch = batch
    padded = [-(-size // divisor) * divisor for size in patch]
    try:
        twin = copy.deepcopy(network).to("meta").train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin(torch.zeros(count, channels, *padded, device="meta"))
    except Exception as error:
        if not _SIZES.search(str(error)):
            return
        deepest = padded == [divisor] * len(padded)
        rule = f"must be more than {divisor} on some axis" if deepest else "must suit its strides"
        sizes = " x ".join(map(str, padded))
        raise SettingError(
            f"patch_size {rule} for {type(network).__name__}, got {list(patch)}, of which it gets "
            f"{sizes}, a multiple of model.divisor {divisor}, and fails: "
            f"{str(error).splitlines()[0].rstrip('.')}. Take another patch "
            "(--data.init_args.patch_size), or as --model.divisor the product of the strides."
        ) from error
