"""Conversion between the uint8 pixels of a PNG and the -1..1 of the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def to_model(images: Tensor) -> Tensor:
    """Pixels uint8 in 0..255 to float32 in -1..1, of any shape."""
    return images.to(torch.float32) / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Floats, nominally in -1..1 and clamped to it, to the nearest uint8 pixels, of any shape."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
