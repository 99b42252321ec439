"""The U-Net of the margin papers' segmentation runs: plain convolutions, no normalization."""

import itertools
from collections.abc import Sequence

import torch
from monai.networks.layers import Conv, Pool
from torch import Tensor, nn

__all__ = ["PaperUNet"]


class PaperUNet(nn.Module):
    """A U-Net of plain convolution pairs, as in the published margin-based runs.

    Each level has two 3x3 convolutions with ReLU. The encoder max-pools by 2, 2, 2 and 4; the
    decoder upsamples (nearest), concatenates the skip connection and convolves; a 1x1 convolution
    returns the logits. Input sizes must be multiples of the product of ``pools``, 32 by default.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes, background included.
        features: Channels of each level, finest first.
        pools: Pooling factor between levels, one fewer than ``features``.
        kernel_size: Odd kernel size of the convolutions.

    Example:
        >>> network = PaperUNet(2, 1, 4, features=(4, 8, 8), pools=(2, 4))
        >>> network(torch.zeros(1, 1, 16, 24)).shape
        torch.Size([1, 4, 16, 24])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        pools: Sequence[int] = (2, 2, 2, 4),
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        if len(pools) != len(features) - 1:
            raise ValueError(
                f"pools must have one entry fewer than features ({len(features)}), got {pools}."
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}.")
        conv, pool = Conv[Conv.CONV, spatial_dims], Pool[Pool.MAX, spatial_dims]

        def pair(inputs: int, outputs: int) -> nn.Sequential:
            first = conv(inputs, outputs, kernel_size, padding=kernel_size // 2)
            second = conv(outputs, outputs, kernel_size, padding=kernel_size // 2)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

        self.down = nn.ModuleList(
            pair(inputs, outputs)
            for inputs, outputs in zip((in_channels, *features[:-1]), features, strict=True)
        )
        self.pool = nn.ModuleList(pool(factor) for factor in pools)
        self.repeat = nn.ModuleList(nn.Upsample(scale_factor=float(factor)) for factor in pools)
        self.up = nn.ModuleList(
            pair(coarse + fine, fine) for fine, coarse in itertools.pairwise(features)
        )
        self.head = conv(features[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, out_channels, *S)`` for an image ``(N, in_channels, *S)``."""
        levels = [self.down[0](image)]
        for pool, convolve in zip(self.pool, self.down[1:], strict=True):
            levels.append(convolve(pool(levels[-1])))
        x = levels.pop()
        for level in reversed(range(len(levels))):
            x = torch.cat((levels[level], self.repeat[level](x)), dim=1)
            x = self.up[level](x)
        return self.head(x)
