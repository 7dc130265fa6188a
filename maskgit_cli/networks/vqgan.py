"""VQGAN: a convolutional autoencoder with a codebook in its bottleneck (arXiv 2012.09841).

Module names follow the published checkpoints of that paper (``encoder.down.0.block.0.norm1`` ...),
so that their tensors load without renaming. The paper uses f=16 and 1,024 codebook vectors; smaller
networks differ in :class:`~maskgit_cli.config.networks.VQGANConfig` alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.networks import VQGANConfig
from maskgit_cli.networks.base import Codebook, ImageTokenizer


class Quantized(NamedTuple):
    """Results of quantization.

    Attributes:
        z: codebook vectors (B, D, h, w), with the gradient passed straight through to the input.
        indices: their indices in the codebook (B, h, w).
        codebook_loss: ||sg[z_e] - e||^2, a scalar: pulls codebook vectors to the encoder's outputs.
        commitment_loss: ||z_e - sg[e]||^2, a scalar: pulls the encoder's outputs to the codebook.
        latents: the encoder's outputs z_e (B, D, h, w).
    """

    z: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    latents: Tensor


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group normalization with the published epsilon."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a skip connection: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, inputs: int, outputs: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (B, C_in, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return x + h


class AttentionBlock(nn.Module):
    """One head of self-attention over all positions of a feature map (B, C, H, W)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every position to every position, and add the result to the input."""
        h = self.norm(x)
        q, k, v = (
            layer(h).flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1 head, H·W, C)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.squeeze(1).transpose(1, 2).reshape(x.shape)  # (B, C, H, W)
        return x + self.proj_out(y)


class Downsample(nn.Module):
    """Halve both sides with a strided convolution, padded on the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides by repeating pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, with attention after each where the config has it."""

    def __init__(self, inputs: int, outputs: int, blocks: int, side: int, config: VQGANConfig) -> None:
        super().__init__()
        self.block = nn.ModuleList()
        self.attn = nn.ModuleList()
        # Levels of the encoder have a downsample, those of the decoder an upsample.
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()
        for i in range(blocks):
            width = inputs if i == 0 else outputs
            self.block.append(ResidualBlock(width, outputs, config.norm_groups, config.dropout))
            if side in config.attention_resolutions:
                self.attn.append(AttentionBlock(outputs, config.norm_groups))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks, then the change of size, to feature maps (B, C_in, H, W)."""
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    """Residual, attention (optional), residual block at the lowest resolution."""

    def __init__(self, channels: int, config: VQGANConfig) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, config.norm_groups, config.dropout)
        self.attn_1: nn.Module = nn.Identity()
        if config.middle_attention:
            self.attn_1 = AttentionBlock(channels, config.norm_groups)
        self.block_2 = ResidualBlock(channels, channels, config.norm_groups, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three blocks to feature maps (B, C, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) in -1..1 to latents (B, z_channels, H/f, W/f)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.channel_multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        inputs, side = config.channels, config.resolution
        for i, width in enumerate(widths):
            level = Level(inputs, width, config.residual_blocks, side, config)
            if i < len(widths) - 1:
                level.downsample = Downsample(width)
                side //= 2
            self.down.append(level)
            inputs = width
        self.mid = Middle(inputs, config)
        self.norm_out = group_norm(inputs, config.norm_groups)
        self.conv_out = nn.Conv2d(inputs, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels (B, 3, H, W) to latents (B, z_channels, h, w)."""
        x = self.conv_in(x)  # (B, channels, H, W)
        for level in self.down:
            x = level(x)  # half the side, except at the last level
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))  # (B, z_channels, h, w)


class Decoder(nn.Module):
    """Latents (B, z_channels, h, w) to pixels (B, 3, f·h, f·w), nominally in -1..1."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.channel_multipliers]
        inputs, side = widths[-1], config.grid
        self.conv_in = nn.Conv2d(config.z_channels, inputs, 3, padding=1)
        self.mid = Middle(inputs, config)
        levels: list[Level] = []
        for i in reversed(range(len(widths))):
            # One block more than the encoder has at this level, as published.
            level = Level(inputs, widths[i], config.residual_blocks + 1, side, config)
            if i > 0:
                level.upsample = Upsample(widths[i])
                side *= 2
            levels.insert(0, level)  # up.0 is the highest resolution
            inputs = widths[i]
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(inputs, config.norm_groups)
        self.conv_out = nn.Conv2d(inputs, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents (B, z_channels, h, w) to pixels (B, 3, H, W)."""
        x = self.mid(self.conv_in(z))  # (B, C, h, w)
        for level in reversed(self.up):
            x = level(x)  # twice the side, except at the last level
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, 3, H, W)


class StraightThroughCodebook(Codebook):
    """A codebook that can be trained."""

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (B, D, h, w) with a straight-through gradient (arXiv 1711.00937, equation 3)."""
        indices = self.nearest(z)  # (B, h, w)
        e = self.lookup(indices)  # (B, D, h, w)
        codebook_loss = F.mse_loss(e, z.detach())
        commitment_loss = F.mse_loss(z, e.detach())
        return Quantized(z + (e - z).detach(), indices, codebook_loss, commitment_loss, z)


class VQGAN(ImageTokenizer):
    """Encoder, codebook and decoder (arXiv 2012.09841, section 3.1).

    Args:
        config: sizes of the network.
    """

    quantize: StraightThroughCodebook

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.quantize = StraightThroughCodebook(config.codebook_size, config.embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.decoder = Decoder(config)

    def latents(self, images: Tensor) -> Tensor:
        """Encoder outputs before quantization (B, D, h, w) of images (B, 3, H, W) in -1..1."""
        return self.quant_conv(self.encoder(images))

    def decode(self, indices: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), nominally in -1..1 and not clamped, of codebook indices (B, h, w)."""
        return self.decoder(self.post_quant_conv(self.quantize.lookup(indices)))

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstructions (B, 3, H, W) of images (B, 3, H, W) in -1..1, and the quantizer's results."""
        quantized = self.quantize(self.latents(images))
        return self.decoder(self.post_quant_conv(quantized.z)), quantized
