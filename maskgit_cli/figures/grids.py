"""Grids of images, and PNG files written atomically."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor
from torchvision.io import encode_png
from torchvision.utils import make_grid

from maskgit_cli.formats.atomic import write_bytes


def image_grid(images: Tensor, columns: int | None = None, margin: int = 2) -> Tensor:
    """Arrange images, uint8 (N, 3, H, W), row by row on white: uint8 (3, H', W').

    One image is returned as it is.

    Args:
        images: all of one size.
        columns: images per row; None makes the grid about square.
        margin: pixels around every image.
    """
    n, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n * height / width))
    return make_grid(images, columns, margin, pad_value=255)


def png_bytes(image: Tensor) -> bytes:
    """An image, uint8 (3, H, W), as the bytes of a PNG file."""
    return encode_png(image.cpu()).numpy().tobytes()


def save_png(path: Path, image: Tensor) -> None:
    """Write an image, uint8 (3, H, W), as a PNG.

    Raises:
        OutputError: the disk is full or not writable.
    """
    write_bytes(path, png_bytes(image))
