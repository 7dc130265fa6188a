"""What is drawn anew in a picture: masks, boxes, boxes that are kept, and borders that are added."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from maskgit_cli.config.inpaint import Box, Outpaint
from maskgit_cli.data.images import MAX_PIXELS, read_image
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.sampling.inpaint.windows import Part, Rect

# A mask's pixels from here on are white.
WHITE = 128


class Edit(NamedTuple):
    """What is to be done to one image.

    Attributes:
        image: the file.
        mask: a picture of the image's size, white where it is drawn anew.
        box: boxes that are drawn anew.
        keep_box: boxes that stay.
        outpaint: pixels added to the sides.
        label: class, by number or name, of all that no box names one for; None is none.
        window: side of the windows; None chooses.
        seed: of every random number.
        name: what the picture is called; empty for an image edited by itself.
        line: of the manifest that asks for it; 0 for an image edited by itself.
    """

    image: Path
    mask: Path | None
    box: tuple[Box, ...]
    keep_box: tuple[Box, ...]
    outpaint: Outpaint | None
    label: str | None
    window: int | None
    seed: int
    name: str = ""
    line: int = 0


class Region(NamedTuple):
    """A picture and what is drawn in it.

    Attributes:
        picture: uint8 (3, H, W), what was added filled with the nearest pixels of the image.
        masked: all that is drawn, bool (H, W).
        inside: rows and columns of the image in the picture.
        parts: what is drawn, class by class, in the order in which it is drawn.
    """

    picture: Tensor
    masked: Tensor
    inside: tuple[slice, slice]
    parts: list[Part]


def find_region(edit: Edit, label_of: Callable[[str | None, str], int]) -> Region:
    """Read an edit's image and mask, and find what is drawn.

    What was added comes first, then what has no class of its own, then box after box. Where boxes
    overlap, the pixels are the later one's.

    Args:
        edit: what is asked for.
        label_of: the class number that a label means, -1 for None; it is also told the option that the
            label stands in, for its errors.

    Raises:
        ConfigError: nothing is to be drawn, a box reaches beyond the picture, is covered by others or
            keeps what isn't drawn, the picture becomes too large, or there is no such class.
        InputError: the image or mask cannot be read, their sizes differ, or the mask is black.
    """
    if edit.mask is None and not (edit.box or edit.keep_box or edit.outpaint):
        raise ConfigError("say what to draw anew, with --mask or --box, --keep-box or --outpaint")
    image = read_image(edit.image)  # (3, H, W)
    picture, inside = grow(image, edit.outpaint or Outpaint())
    shape = picture.shape[1:]
    kept = torch.zeros(shape, dtype=torch.bool)
    for box in edit.keep_box:
        _inside(kept, box, inside, "--keep-box")[:] = True
    added = torch.ones(shape, dtype=torch.bool)
    added[inside] = False
    things = torch.zeros(shape, dtype=torch.bool)
    if edit.mask is not None:
        things[inside] = read_mask(edit.mask, image)
    elif edit.keep_box and not edit.box:
        things[inside] = True
    owners = _box_owners(edit.box, shape, inside)
    things |= owners == 0
    things &= owners <= 0
    _check_kept(edit.keep_box, things | added | (owners > 0), inside)
    strips = (added & ~things & (owners < 0), edit.label, "--label", _strips(shape, inside))
    masks = [strips, (things, edit.label, "--label", ())]
    for i, box in enumerate(_labeled(edit.box), 1):
        masks.append((owners == i, box.label, f"--box {box._replace(label=None)}:", ()))
    parts = [
        Part(mask & ~kept, label_of(text, option), sides)
        for mask, text, option, sides in masks
        if text is not None or (mask & ~kept).any()  # no class is missed where nothing is drawn
    ]
    parts = [part for part in parts if part.mask.any()]
    if not parts:
        raise ConfigError("the boxes of --keep-box leave nothing to draw")
    return Region(picture, torch.stack([part.mask for part in parts]).any(0), inside, parts)


def grow(image: Tensor, sides: Outpaint) -> tuple[Tensor, tuple[slice, slice]]:
    """An image uint8 (3, H, W) with pixels added to its sides, and where the image is in there.

    What is added repeats the image's nearest pixels.

    Raises:
        ConfigError: the result would have more pixels than an image may have.
    """
    height, width = image.shape[1:]
    high, wide = height + sides.top + sides.bottom, width + sides.left + sides.right
    if any(sides) and high * wide > MAX_PIXELS:
        size = f"{wide}×{high} pixels"
        raise ConfigError(f"--outpaint {sides}: makes {size}, more than {MAX_PIXELS // 10**6} megapixels")
    rows = (torch.arange(high) - sides.top).clamp(0, height - 1)
    columns = (torch.arange(wide) - sides.left).clamp(0, width - 1)
    inside = slice(sides.top, sides.top + height), slice(sides.left, sides.left + width)
    return image[:, rows][:, :, columns], inside


def _strips(shape: tuple[int, ...], inside: tuple[slice, slice]) -> tuple[Rect, ...]:
    """What was added around an image, without overlap; the corners belong to the left and right."""
    (height, width), (rows, columns) = shape, inside
    strips = (
        Rect(0, height, 0, columns.start),
        Rect(0, height, columns.stop, width),
        Rect(0, rows.start, columns.start, columns.stop),
        Rect(rows.stop, height, columns.start, columns.stop),
    )
    return tuple(rect for rect in strips if rect.top < rect.bottom and rect.left < rect.right)


# --- boxes ------------------------------------------------------------------------------------------


def _labeled(boxes: tuple[Box, ...]) -> list[Box]:
    return [box for box in boxes if box.label is not None]


def _inside(masked: Tensor, box: Box, inside: tuple[slice, slice], option: str) -> Tensor:
    """The part of a mask (H, W) that a box of the image covers; the mask may be larger than the image.

    Raises:
        ConfigError: the box isn't wholly in there.
    """
    rows, columns = inside
    left, top = columns.start + box.x, rows.start + box.y
    right, bottom = left + box.width, top + box.height
    if left < 0 or top < 0 or right > masked.shape[1] or bottom > masked.shape[0]:
        size = f"{columns.stop - columns.start}×{rows.stop - rows.start}"
        whole = f"{masked.shape[1]}×{masked.shape[0]}"
        grown = f" ({whole} with what is added)" if whole != size else ""
        raise ConfigError(f"{option} {box}: reaches beyond the image, which is {size} pixels{grown}")
    return masked[top:bottom, left:right]


def _box_owners(boxes: tuple[Box, ...], shape: tuple[int, ...], inside: tuple[slice, slice]) -> Tensor:
    """Which box draws each pixel: int32 (H, W), -1 none, 0 one without a class, i the i-th with one.

    Raises:
        ConfigError: a box reaches beyond the picture, or later ones leave nothing of one with a class.
    """
    owners = torch.full(shape, -1, dtype=torch.int32)
    labeled = _labeled(boxes)
    number = 0
    for box in boxes:
        number += box.label is not None
        _inside(owners, box, inside, "--box")[:] = number if box.label is not None else 0
    for i, box in enumerate(labeled, 1):
        if not (owners == i).any():
            raise ConfigError(f"--box {box}: later boxes cover all of it; leave it out or name it after them")
    return owners


def _check_kept(kept: tuple[Box, ...], drawn: Tensor, inside: tuple[slice, slice]) -> None:
    """Refuse to keep what nobody draws: whoever asks for that expects something else.

    Raises:
        ConfigError: a kept box meets nothing of what is drawn, bool (H, W).
    """
    for box in kept:
        if not _inside(drawn, box, inside, "--keep-box").any():
            raise ConfigError(
                f"--keep-box {box}: nothing is drawn there anyway; it takes pixels out of --mask and --box, "
                "and only without these it means that all else is drawn"
            )


# --- masks ------------------------------------------------------------------------------------------


def read_mask(path: Path, picture: Tensor) -> Tensor:
    """True where a mask for a picture (3, H, W) is white: bool (H, W).

    White is a luma (ITU-R 601) of 128 or more. Transparent pixels (alpha below 128) count as black, so
    that white strokes on a transparent layer are a mask too.

    Raises:
        InputError: the mask cannot be read, has another size than the picture, or no white pixel.
    """
    pixels = read_image(path).to(torch.int32)  # (3, H, W)
    if pixels.shape != picture.shape:
        have, want = (f"{x.shape[2]}×{x.shape[1]}" for x in (pixels, picture))
        raise InputError(f"{path}: the mask is {have} pixels, the image {want}; they must have one size")
    luma = 299 * pixels[0] + 587 * pixels[1] + 114 * pixels[2]
    masked = (luma >= 1000 * WHITE) & _opaque(path)
    if not masked.any():
        raise InputError(f"{path}: nothing is masked; paint white what is to be drawn anew")
    return masked


def _opaque(path: Path) -> Tensor:
    """True where a picture, which could be read, isn't transparent: bool (H, W), or () for all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL, about large pictures
        with Image.open(path) as image:
            if not image.has_transparency_data:
                return torch.tensor(True)
            upright = ImageOps.exif_transpose(image)
            return torch.from_numpy(np.array(upright.convert("RGBA"))[..., 3] >= WHITE)
