"""Image decoding (EXIF orientation applied) to uint8 RGB, and the views that are tokenized."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import struct
import warnings
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.config.stages import VIEWS, random_views
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import regular
from maskgit_cli.runtime import rng

# Common image formats, by the names PIL gives them. Formats that PIL hands to an external program (EPS)
# or merely recognizes (HDF5, GRIB) are left out on purpose.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")
# An image of 100 megapixels takes about 1 GB while it is read. Beyond 150 it is more likely a
# decompression bomb; PIL's own hard limit is 179.
MAX_PIXELS = 150_000_000
# A longer strip is refused: scaled so that its shorter side fits, it would need gigabytes.
MAX_ASPECT = 50
# A far larger image is first shrunk by a whole number (JPEG decodes at 1/2, 1/4 and 1/8 size at once),
# which saves time and memory. Keeping at least four times the needed side leaves the antialiasing
# to the resize that comes afterwards.
SHRINK_MARGIN = 4
# What PIL raises for damaged EXIF (seen by changing its bytes at random).
DAMAGED_EXIF = (
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    struct.error,
)
# Corner crops come from an image this much larger, as in ImageNet practice (256 for crops of 224).
TEN_CROP_SCALE = 256 / 224

# PIL's plugins log about odd files; without a handler Python would print that on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@functools.cache
def _formats() -> list[str]:
    """Those of :data:`FORMATS` that the installed PIL reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_image(path: Path, side: int | None = None) -> Tensor:
    """Read an image file; see :func:`decode_image`.

    Raises:
        InputError: the file is missing, empty, truncated, too large, or not an image.
    """
    try:
        with regular(path).open("rb") as file:
            return decode_image(file, str(path), side)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: {str(error.strerror or error).lower()}") from error


def decode_image(file: IO[bytes], where: str, side: int | None = None) -> Tensor:
    """Decode an image to uint8 (3, H, W), RGB.

    EXIF orientation is applied; palettes, gray and CMYK become RGB; 16 bits are scaled to 8; transparent
    pixels are composited on white; of an animation it is the first frame.

    Args:
        file: an open, seekable file.
        where: what error messages call it.
        side: the shorter side that is needed; a far larger image is shrunk while it is decoded, to no less
            than :data:`SHRINK_MARGIN` times that side.

    Raises:
        InputError: the file is empty, truncated, too large, or not an image.
    """
    try:
        # A damaged file can make PIL's plugins raise nearly any exception, and warn before that.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(file, where, side)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{where}: not enough memory to read it") from error
    except Exception as error:
        raise InputError(f"{where}: {_reason(file, error)}") from error


def _reason(file: IO[bytes], error: Exception) -> str:
    """One line about why decoding failed."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty file" if file.seek(0, os.SEEK_END) == 0 else "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "damaged image (" + (" ".join(str(error).split()) or type(error).__name__) + ")"


def _decode(file: IO[bytes], where: str, side: int | None) -> Tensor:
    with Image.open(file, formats=_formats()) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            limit = f"more than {MAX_PIXELS // 10**6} megapixels"
            raise InputError(f"{where}: {width}×{height} pixels, {limit}")
        if side is not None:
            image.draft("", (side * SHRINK_MARGIN, side * SHRINK_MARGIN))
        image.load()
        _apply_orientation(image)
        rgb = _to_rgb(image)
        shrink = 1 if side is None else min(rgb.size) // (side * SHRINK_MARGIN)
        if shrink > 1:
            rgb = rgb.reduce(shrink)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _apply_orientation(image: Image.Image) -> None:
    # An image with unreadable EXIF is shown as it is, as viewers do. In place, the pixels are turned before
    # the remaining fields are encoded again, which fails where one of them is damaged.
    with contextlib.suppress(*DAMAGED_EXIF):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode == "F":
        raise ValueError("floating-point images are not supported (unknown value range)")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255, rounded; PIL's own conversion clips or truncates, by version."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit images are not supported (unknown value range)")
    gray = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    if isinstance(image.info.get("transparency"), int):
        alpha = np.where(pixels == image.info["transparency"], 0, 255).astype(np.uint8)
        gray.putalpha(Image.fromarray(alpha))
    return gray


def _resize(image: Tensor, side: int) -> Tensor:
    """Scale uint8 (3, H, W) so that its shorter side is ``side`` pixels, antialiased bilinear.

    The paper's tokenizer and transformer were trained on images resized in this way.
    """
    height, width = image.shape[-2:]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(f"{width}×{height} pixels: an aspect ratio above {MAX_ASPECT}")
    return transforms.resize(image, [side], interpolation=InterpolationMode.BILINEAR, antialias=True)


def fit_square(image: Tensor, side: int) -> Tensor:
    """Resize uint8 (3, H, W) to a shorter side of ``side`` and center-crop: uint8 (3, side, side).

    Raises:
        InputError: the aspect ratio is above :data:`MAX_ASPECT`.
    """
    return transforms.center_crop(_resize(image, side), [side, side]).contiguous()


def views(image: Tensor, side: int, kind: str, seed: int = 0, index: int = 0) -> Tensor:
    """The views of uint8 (3, H, W) that are tokenized: uint8 (V, 3, side, side).

    ``none`` is the center crop; ``flip`` adds its mirror image; ``ten-crop`` scales the shorter
    side to 8/7 of ``side`` and takes [top left, top right, bottom left, bottom right, center], then
    the mirror images of these five in the same order; ``random:K`` takes K random crops.

    Args:
        image: the image.
        side: side of the views in pixels.
        kind: which views.
        seed: of random views.
        index: number of the image in its listing, of which random views are a function.

    Raises:
        InputError: the aspect ratio is above :data:`MAX_ASPECT`.
    """
    count = random_views(kind)
    if count is not None:
        return _random_crops(image, side, rng.uniform(seed, [index], 0, 3 * count, rng.CROP).view(count, 3))
    assert kind in VIEWS, kind
    if kind == "none":
        return fit_square(image, side)[None]
    if kind == "flip":
        squares = fit_square(image, side)[None]  # (1, 3, side, side)
    else:
        squares = torch.stack(
            transforms.five_crop(_resize(image, round(side * TEN_CROP_SCALE)), [side, side])
        )
    return torch.cat([squares, squares.flip(-1)])


def _random_crops(image: Tensor, side: int, uniform: Tensor) -> Tensor:
    """Crops of an image with its shorter side at ``side``, half of them flipped: the training augmentation
    of the published code.

    Args:
        image: uint8 (3, H, W).
        side: side of a crop in pixels.
        uniform: numbers in (0, 1) that decide top, left and flip of each view, (V, 3).

    Returns:
        uint8 (V, 3, side, side).
    """
    resized = _resize(image, side)
    free = torch.tensor(resized.shape[-2:]) - side + 1  # places of a crop along height and width
    places = (uniform[:, :2] * free).long().tolist()
    crops = [resized[:, top : top + side, left : left + side] for top, left in places]
    flips = (uniform[:, 2] < 0.5).tolist()
    return torch.stack([crop.flip(-1) if flip else crop for crop, flip in zip(crops, flips, strict=True)])
