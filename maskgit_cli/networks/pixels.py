"""Conversion between the uint8 pixels of a PNG and the -1..1 of the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def to_model(images: Tensor) -> Tensor:
    """Pixels uint8 in 0..255 to float32 in -1..1, of any shape."""
    return images.to(torch.float32) / 127.5 - 1


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10·log10(255²/mean squared error) of uint8 images (B, 3, H, W): (B,) in dB.

    Equal images have 148 dB, as of a mean squared error of 1e-10.
    """
    error = (images.cpu().double() - others.cpu().double()).pow(2).mean((1, 2, 3))  # no float64 on Apple GPUs
    return 10 * torch.log10(255**2 / error.clamp(min=1e-10))


def to_pixels(images: Tensor) -> Tensor:
    """Floats, nominally in -1..1 and clamped to it, to the nearest uint8 pixels, of any shape."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
