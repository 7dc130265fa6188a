"""Pictures set side by side, and PNGs written whole or not at all."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskgit_cli.formats.atomic import write_bytes


def image_grid(images: Tensor, columns: int | None = None, margin: int = 2) -> Tensor:
    """Set pictures (N, 3, H, W) of uint8 in rows on white: uint8 (3, H', W').

    Args:
        images: the pictures, all of one size, row by row.
        columns: pictures in a row; None makes the sheet about square.
        margin: pixels around every picture.
    """
    n, channels, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n * height / width)))
    rows = math.ceil(n / columns)
    cell_h, cell_w = height + margin, width + margin
    sheet = torch.full((channels, rows * cell_h + margin, columns * cell_w + margin), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = margin + i // columns * cell_h, margin + i % columns * cell_w
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def png_bytes(image: Tensor) -> bytes:
    """A picture, uint8 (3, H, W), as the bytes of a PNG file."""
    buffer = io.BytesIO()
    array = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(path: Path, image: Tensor) -> None:
    """Write a picture, uint8 (3, H, W), as a PNG.

    Raises:
        OutputError: the file system refuses.
    """
    write_bytes(path, png_bytes(image))
