"""The U-Net of nnU-Net, whose depth and strides follow from the patch size."""

import math
from collections.abc import Sequence

from monai.networks.nets import DynUNet

__all__ = ["NNUNet", "plan_strides"]

SMALLEST = 4  # voxels of the deepest features on an axis
DEEPEST = 5  # poolings at most


class NNUNet(DynUNet):
    """U-Net with the topology that nnU-Net plans.

    Each axis is halved while at least 4 voxels are left, 5 times at most, and the channels are
    doubled with each level (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes, background included.
        img_size: Size of a training sample, one value for each axis; at least 16 on one. A command
            line gives the datamodule's ``patch_size``.
        features: Channels of the first level.
        max_features: Largest number of channels.
        deep_supervision: If True, the coarser outputs are trained too.

    Attributes:
        divisor: Input sizes must be multiples of it, one value for each axis.

    Example:
        >>> NNUNet(3, 1, 3, img_size=(48, 64, 16), features=4, max_features=8).divisor
        (8, 16, 4)
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        img_size: Sequence[int] | None = None,
        features: int = 32,
        max_features: int = 320,
        deep_supervision: bool = False,
    ) -> None:
        if img_size is None or len(img_size) != spatial_dims or max(img_size) < 4 * SMALLEST:
            raise ValueError(
                f"img_size must have {spatial_dims} values, one of them >= {4 * SMALLEST}, "
                f"got {img_size}. Choose another patch_size."
            )
        strides = plan_strides(img_size)
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=[3] * len(strides),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=[min(features * 2**level, max_features) for level in range(len(strides))],
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            deep_supervision=deep_supervision,
            deep_supr_num=max(1, min(3, len(strides) - 2)),
        )
        self.divisor = tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def plan_strides(img_size: Sequence[int]) -> list[list[int]]:
    """Return the strides of each level of a U-Net; those of the first are 1.

    An axis that can be halved less often than others is halved at the deeper levels, since thin
    patches are those of thick slices.

    Example:
        >>> plan_strides((32, 16))
        [[1, 1], [2, 1], [2, 2], [2, 2]]
    """
    halvings = []
    for size in img_size:
        count = 0
        while count < DEEPEST and size // 2 ** (count + 1) >= SMALLEST:
            count += 1
        halvings.append(count)
    depth = max(1, *halvings)
    levels = range(depth, 0, -1)
    return [[1] * len(halvings), *([2 if n >= left else 1 for n in halvings] for left in levels)]
