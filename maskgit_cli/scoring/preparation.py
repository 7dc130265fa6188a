"""Preparation of images for feature extraction, by protocol (:mod:`maskgit_cli.config.protocols`)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskgit_cli.config.protocols import PROTOCOLS
from maskgit_cli.data.images import MAX_ASPECT, fit_square
from maskgit_cli.errors import InputError

# Side of the squares that Inception takes.
CLEAN_SIDE = 299


def prepare(image: Tensor, side: int | None, protocol: str, resolution: int | None) -> Tensor:
    """An image as a feature extractor takes it.

    Args:
        image: uint8 (3, H, W).
        side: of the squares that the extractor takes; None if it takes any size and resizes by itself.
        protocol: key of :data:`~maskgit_cli.config.protocols.PROTOCOLS`.
        resolution: side in pixels that images have before they are resized for the extractor; None leaves
            them as they are.

    Returns:
        uint8 (3, side, side) or (3, resolution, resolution); float32 (3, 299, 299) in 0..255 under a protocol
        with a resize of its own.

    Raises:
        InputError: the aspect ratio is too large for a crop.
    """
    entry = PROTOCOLS[protocol]
    if resolution is not None and image.shape[1:] != (resolution, resolution):
        image = crop_adm(image, resolution) if entry.crop == "area-bicubic" else fit_square(image, resolution)
    if entry.stretch:
        image = stretch(image)
    if side is None:
        return clean_resize(image) if entry.resize == "clean" else image
    return image if image.shape[1:] == (side, side) else fit_square(image, side)


def crop_adm(image: Tensor, resolution: int) -> Tensor:
    """The center square of an image, as in the reference images of ADM (arXiv 2105.05233).

    The image is halved, by averages of 2×2 pixels, as long as its shorter side is at least twice the
    resolution; then its shorter side is resized with bicubic interpolation, each time to uint8 pixels.

    Args:
        image: uint8 (3, H, W).
        resolution: R.

    Returns:
        uint8 (3, R, R).

    Raises:
        InputError: the aspect ratio is above :data:`~maskgit_cli.data.images.MAX_ASPECT`.
    """
    height, width = image.shape[1:]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(f"{width}×{height} pixels: an aspect ratio above {MAX_ASPECT}")
    scaled = Image.fromarray(image.permute(1, 2, 0).numpy())
    while min(scaled.size) >= 2 * resolution:
        scaled = scaled.resize((scaled.width // 2, scaled.height // 2), Image.Resampling.BOX)
    scale = resolution / min(scaled.size)
    size = round(scaled.width * scale), round(scaled.height * scale)
    pixels = np.asarray(scaled.resize(size, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    square = pixels[top : top + resolution, left : left + resolution]
    return torch.from_numpy(square.transpose(2, 0, 1).copy())


def clean_resize(image: Tensor, side: int = CLEAN_SIDE) -> Tensor:
    """An image resized as clean-fid does (arXiv 2104.11222): antialiased bicubic, without rounding to bytes.

    Args:
        image: uint8 (3, H, W).
        side: of the result; the aspect ratio is not kept.

    Returns:
        float32 (3, side, side) in 0..255.
    """
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]  # mode F
    resized = [np.asarray(c.resize((side, side), Image.Resampling.BICUBIC)) for c in channels]
    return torch.from_numpy(np.stack(resized).clip(0, 255))


def stretch(image: Tensor) -> Tensor:
    """Uint8 (3, H, W) scaled from its own minimum and maximum to 0..255, fractions truncated.

    The paper's own evaluator does this to every image, real or sampled; it starts from the network's
    floats, this from the pixels that a PNG would hold. An image of one value becomes 0.
    """
    low, high = image.min(), image.max()
    if low == high:
        return torch.zeros_like(image)
    stretched = (image.float() - low) / (high.float() - low) * 255
    return stretched.clamp(0, 255).to(torch.uint8)
