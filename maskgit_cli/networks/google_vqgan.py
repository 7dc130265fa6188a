"""Google's tokenizer (arXiv 2202.04200, section 4.1): a VQGAN without attention.

Inside, pixels are 0 to 1; inputs and outputs are -1 to 1, as those of the other tokenizers.
TensorFlow's SAME padding of 3×3 convolutions with stride 1 is one pixel on every side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.networks import GoogleVQGANConfig
from maskgit_cli.networks.base import Codebook, ImageTokenizer
from maskgit_cli.networks.vqgan import group_norm


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions without biases and a skip connection: (B, C_in, H, W) -> (B, C_out, H, W).

    Where the number of features changes, the skip is a 1×1 convolution of the block's result, not of
    its input, as in the published code.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = group_norm(outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (B, C_in, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.shortcut(h) if hasattr(self, "shortcut") else x)


def residual_blocks(inputs: int, widths: list[int], groups: int) -> nn.ModuleList:
    """A list of residual blocks with these numbers of output features."""
    before = [inputs, *widths[:-1]]
    return nn.ModuleList(ResidualBlock(i, o, groups) for i, o in zip(before, widths, strict=True))


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) in 0..1 to latents (B, D, H/f, W/f).

    ``blocks`` are those of the levels from the highest resolution down, then those of the bottom.
    """

    def __init__(self, config: GoogleVQGANConfig) -> None:
        super().__init__()
        self.each = config.residual_blocks
        self.levels = len(config.channel_multipliers)
        widths = [config.channels * m for m in config.channel_multipliers]
        per_block = [width for width in (*widths, widths[-1]) for _ in range(self.each)]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1, bias=False)
        self.blocks = residual_blocks(config.channels, per_block, config.norm_groups)
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], config.embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels (B, 3, H, W) to latents (B, D, h, w)."""
        x = self.conv_in(x)  # (B, channels, H, W)
        for i, block in enumerate(self.blocks):
            if i % self.each == 0 and 0 < i // self.each < self.levels:
                x = F.avg_pool2d(x, 2)  # (B, C, H/2, W/2)
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, D, h, w)


class Decoder(nn.Module):
    """Latents (B, D, h, w) to pixels (B, 3, f·h, f·w), nominally in 0..1.

    ``blocks`` are those of the bottom, then those of the levels up to the highest resolution;
    ``convs`` are the first one, one after each doubling of the sides, and the last one.
    """

    def __init__(self, config: GoogleVQGANConfig) -> None:
        super().__init__()
        self.each = config.residual_blocks
        widths = [config.channels * m for m in reversed(config.channel_multipliers)]
        per_block = [width for width in (widths[0], *widths) for _ in range(self.each)]
        self.blocks = residual_blocks(widths[0], per_block, config.norm_groups)
        after_doubling = [nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1]]
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(config.embed_dim, widths[0], 3, padding=1),
                *after_doubling,
                nn.Conv2d(widths[-1], 3, 3, padding=1),
            ]
        )
        self.norm_out = group_norm(widths[-1], config.norm_groups)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents (B, D, h, w) to pixels (B, 3, H, W)."""
        x = self.convs[0](z)  # (B, C, h, w)
        for i, block in enumerate(self.blocks):
            level = i // self.each  # 0 is the bottom, 1 the lowest level, at the same resolution
            if i % self.each == 0 and level > 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")  # (B, C, 2H, 2W)
                x = self.convs[level - 1](x)
            x = block(x)
        return self.convs[-1](F.silu(self.norm_out(x)))  # (B, 3, H, W)


class GoogleVQGAN(ImageTokenizer):
    """Encoder, codebook and decoder (arXiv 2202.04200, section 4.1).

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: GoogleVQGANConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.quantize = Codebook(config.codebook_size, config.embed_dim)
        self.decoder = Decoder(config)

    def latents(self, images: Tensor) -> Tensor:
        """Encoder outputs before quantization (B, D, h, w) of images (B, 3, H, W) in -1..1."""
        return self.encoder((images + 1) / 2)

    def decode(self, indices: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), nominally in -1..1 and not clamped, of codebook indices (B, h, w)."""
        return 2 * self.decoder(self.quantize.lookup(indices)) - 1
