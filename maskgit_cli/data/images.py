"""How a file becomes pixels as people see them, and how pixels become views."""

from __future__ import annotations

import functools
import logging
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.config.stages import VIEWS
from maskgit_cli.errors import InputError

# The formats of pictures that people keep, by the names PIL gives them. Formats that PIL hands to an
# external program (EPS) or merely recognizes (HDF5, GRIB) are left out on purpose.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")
_ENDINGS = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff ppm pgm pbm pnm jp2 j2k jpx tga ico avif"
EXTENSIONS = frozenset("." + ending for ending in _ENDINGS.split())
# A picture of 100 megapixels is welcome: it takes about 1 GB while it is read. Beyond 150 it is more
# likely a decompression bomb; PIL's own hard limit is 179.
MAX_PIXELS = 150_000_000
# A strip longer than this is refused: scaled so that its shorter side fits, it would need gigabytes.
MAX_ASPECT = 50
# A far larger image is first shrunk by a whole number (JPEG decodes at 1/2, 1/4 and 1/8 size at once),
# which saves time and memory. Keeping at least four times the wanted side leaves the antialiasing
# to the resize that comes afterwards.
SHRINK_MARGIN = 4
# Corner crops come from an image this much larger, as in ImageNet practice (256 for crops of 224).
TEN_CROP_SCALE = 256 / 224
# EXIF orientations other than 1, which is upright, and what undoes them (CIPA DC-008, tag Orientation).
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# PIL's plugins log about odd files; without a handler Python would print that on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@functools.cache
def _formats() -> list[str]:
    """Those of :data:`FORMATS` that the installed PIL reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_image(path: Path, side: int | None = None) -> Tensor:
    """Read an image as people see it: uint8 (3, H, W), RGB.

    EXIF orientation is applied, palettes, gray and CMYK become RGB, 16 bits are scaled to 8, anything
    transparent is laid on white, and of an animation it is the first frame.

    Args:
        path: the file.
        side: the shorter side wanted in the end; a far larger image is then shrunk while it is read,
            to no less than :data:`SHRINK_MARGIN` times that side.

    Raises:
        InputError: the file is missing, empty, truncated, too large, or not an image.
    """
    try:
        # An unreadable file can make PIL's plugins raise nearly anything, and warn meanwhile.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(path, side)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: not enough memory to read it") from error
    except Exception as error:
        raise InputError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """One line that says why reading failed, without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty file" if path.stat().st_size == 0 else "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "damaged image (" + (" ".join(str(error).split()) or type(error).__name__) + ")"


def _decode(path: Path, side: int | None) -> Tensor:
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: not a file")  # opening a pipe would wait forever
    with Image.open(path, formats=_formats()) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            size = f"{width}×{height} pixels"
            raise InputError(f"{path}: {size}, more than {MAX_PIXELS // 10**6} megapixels")
        if side is not None:
            image.draft("", (side * SHRINK_MARGIN, side * SHRINK_MARGIN))
        image.load()
        rgb = _to_rgb(_upright(image))
        shrink = 1 if side is None else min(rgb.size) // (side * SHRINK_MARGIN)
        if shrink > 1:
            rgb = rgb.reduce(shrink)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image by its EXIF orientation, whatever else its EXIF holds."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (SyntaxError, ValueError, struct.error):
        # The pixels have been read; viewers show a picture with damaged EXIF as it is, and so do we.
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nobody knows what is white")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; PIL's own conversion clips at 255, which turns pictures white."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels, of which nobody knows what is white")
    gray = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    if isinstance(image.info.get("transparency"), int):
        alpha = np.where(pixels == image.info["transparency"], 0, 255).astype(np.uint8)
        gray.putalpha(Image.fromarray(alpha))
    return gray


def _resize(image: Tensor, side: int) -> Tensor:
    """Scale uint8 (3, H, W) so that its shorter side is ``side`` pixels, antialiased bilinear.

    Bilinear with antialiasing is what the paper's tokenizer and transformer were trained on.
    """
    height, width = image.shape[-2:]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(f"{width}×{height} pixels: more than {MAX_ASPECT} times as long as wide")
    return transforms.resize(image, [side], interpolation=InterpolationMode.BILINEAR, antialias=True)


def fit_square(image: Tensor, side: int) -> Tensor:
    """The central square of uint8 (3, H, W), its shorter side scaled to ``side``: (3, side, side).

    Raises:
        InputError: the image is a strip, more than :data:`MAX_ASPECT` times as long as wide.
    """
    return transforms.center_crop(_resize(image, side), [side, side]).contiguous()


def views(image: Tensor, side: int, kind: str) -> Tensor:
    """Views of uint8 (3, H, W) that are tokenized: uint8 (V, 3, side, side).

    ``none`` is the central square; ``flip`` adds its mirror image; ``ten-crop`` scales the shorter
    side to 8/7 of ``side`` and takes [top left, top right, bottom left, bottom right, center], then
    the mirror images of these five in the same order.

    Raises:
        InputError: the image is a strip, more than :data:`MAX_ASPECT` times as long as wide.
    """
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
