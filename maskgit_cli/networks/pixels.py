"""Conversion between the uint8 pixels of a PNG and the -1..1 of the networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# SSIM's window in pixels, its standard deviation, and K1 and K2 (Wang and others, 2004, section III-C).
SSIM_WINDOW, _SSIM_SIGMA, _SSIM_K = 11, 1.5, (0.01, 0.03)


def to_model(images: Tensor) -> Tensor:
    """Pixels uint8 in 0..255 to float32 in -1..1, of any shape."""
    return images.to(torch.float32) / 127.5 - 1


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10·log10(255²/mean squared error) of uint8 images (B, 3, H, W): (B,) in dB.

    Equal images have 148 dB, as of a mean squared error of 1e-10.
    """
    error = (images.cpu().double() - others.cpu().double()).pow(2).mean((1, 2, 3))  # no float64 on Apple GPUs
    return 10 * torch.log10(255**2 / error.clamp(min=1e-10))


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of uint8 images (B, 3, H, W): (B,), 1 for equal images.

    Wang and others, "Image quality assessment: from error visibility to structural similarity", 2004,
    equation 13, of each channel of RGB, in Gaussian windows that lie inside of the image; the mean over
    windows and channels (equation 17).

    Args:
        images: at least :data:`SSIM_WINDOW` pixels a side.
        others: of the same shape.
    """
    distances = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    row = torch.exp(-distances.square() / (2 * _SSIM_SIGMA**2))
    row = row / row.sum()

    def mean(values: Tensor) -> Tensor:  # (B·3, 1, H, W); the window is separable
        down = F.conv2d(values, row.view(1, 1, -1, 1))
        return F.conv2d(down, row.view(1, 1, 1, -1))

    x, y = (image.cpu().double().flatten(0, 1)[:, None] for image in (images, others))
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x.square(), mean(y * y) - mean_y.square()
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = ((k * 255) ** 2 for k in _SSIM_K)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    contrast_and_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * contrast_and_structure).unflatten(0, images.shape[:2]).mean((1, 2, 3, 4))


def to_pixels(images: Tensor) -> Tensor:
    """Floats, nominally in -1..1 and clamped to it, to the nearest uint8 pixels, of any shape."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
