"""The region of an image to inpaint: masks, boxes, kept boxes, and borders added by outpainting."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from maskgit_cli.config.arguments import Label
from maskgit_cli.config.inpaint import Box, Outpaint
from maskgit_cli.data.images import MAX_PIXELS, ImageInMemory, ImageInput, read_image, upright_copy
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.sampling.inpaint.windows import Part, Rect

# Luma and alpha of a mask's pixels from which on they are white, and opaque.
WHITE = 128
# A mask without a threshold is black and white: its luma is at most this far from 0 or 255 (JPEG), except for
# antialiased pixels, which are at most so many rows and columns from a black and from a white one.
NEARLY, EDGE = 32, 2


class Edit(NamedTuple):
    """The inpainting of one image.

    Attributes:
        image: the file, or an image in memory.
        mask: an image of the same size, white where it is inpainted.
        box: boxes to inpaint.
        keep_box: boxes to keep.
        outpaint: pixels added to the sides.
        label: class, by number or name, of all that no box names one for; None is none.
        window: side of the windows; None chooses.
        seed: of every random number.
        name: of the image; empty for an image inpainted by itself.
        line: of the manifest that names it; 0 for an image inpainted by itself.
        mask_threshold: luma of the mask from which on pixels are inpainted; None requires black and white.
    """

    image: ImageInput
    mask: ImageInput | None
    box: tuple[Box, ...]
    keep_box: tuple[Box, ...]
    outpaint: Outpaint | None
    label: Label | None
    window: int | None
    seed: int
    name: str = ""
    line: int = 0
    mask_threshold: int | None = None


class Region(NamedTuple):
    """An image and the region of it to inpaint.

    Attributes:
        image: uint8 (3, H, W), with borders filled with the nearest pixels.
        masked: the region, bool (H, W).
        inside: rows and columns of the image as it was read.
        parts: the region class by class, in the order in which the parts are filled.
    """

    image: Tensor
    masked: Tensor
    inside: tuple[slice, slice]
    parts: list[Part]


def find_region(edit: Edit, label_of: Callable[[Label | None, str], int]) -> Region:
    """Read an edit's image and mask, and find the region to inpaint.

    Added borders come first, then what has no class of its own, then box after box. Where boxes
    overlap, the pixels belong to the later one.

    Args:
        edit: the inpainting of one image.
        label_of: the class number of a label, -1 for None; its second argument is the option that has the
            label, for its errors.

    Raises:
        ConfigError: the region is empty, a box reaches beyond the image, is covered by others or keeps
            what is outside of the region, the image becomes too large, or there is no such class.
        InputError: the image or mask cannot be read, their sizes differ, or the mask is black or a
            photograph.
    """
    if edit.mask is None and not (edit.box or edit.keep_box or edit.outpaint):
        raise ConfigError("specify a region with --mask, --box, --keep-box or --outpaint")
    original = read_image(edit.image)  # (3, H, W)
    image, inside = grow(original, edit.outpaint or Outpaint())
    shape = image.shape[1:]
    kept = torch.zeros(shape, dtype=torch.bool)
    for box in edit.keep_box:
        _inside(kept, box, inside, "--keep-box")[:] = True
    added = torch.ones(shape, dtype=torch.bool)
    added[inside] = False
    unlabeled = torch.zeros(shape, dtype=torch.bool)
    if edit.mask is not None:
        unlabeled[inside] = read_mask(edit.mask, original, edit.mask_threshold)
    elif edit.keep_box and not edit.box:
        unlabeled[inside] = True
    owners = _box_owners(edit.box, shape, inside)
    unlabeled |= owners == 0
    unlabeled &= owners <= 0
    _check_kept(edit.keep_box, unlabeled | added | (owners > 0), inside)
    strips = (added & ~unlabeled & (owners < 0), edit.label, "--label", _strips(shape, inside))
    masks = [strips, (unlabeled, edit.label, "--label", ())]
    for i, box in enumerate(_labeled(edit.box), 1):
        masks.append((owners == i, box.label, f"--box {box._replace(label=None)}:", ()))
    parts = [
        Part(mask & ~kept, label_of(text, option), sides)
        for mask, text, option, sides in masks
        if text is not None or (mask & ~kept).any()  # an empty part needs no class
    ]
    parts = [part for part in parts if part.mask.any()]
    if not parts:
        raise ConfigError("the boxes of --keep-box cover the whole region to inpaint")
    return Region(image, torch.stack([part.mask for part in parts]).any(0), inside, parts)


def grow(image: Tensor, sides: Outpaint) -> tuple[Tensor, tuple[slice, slice]]:
    """An image uint8 (3, H, W) with borders added, and the rows and columns of the image in there.

    The borders repeat the image's nearest pixels.

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
    """The borders added around an image, without overlap; the corners belong to the left and right."""
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
        ConfigError: the box isn't entirely in there.
    """
    rows, columns = inside
    left, top = columns.start + box.x, rows.start + box.y
    right, bottom = left + box.width, top + box.height
    if left < 0 or top < 0 or right > masked.shape[1] or bottom > masked.shape[0]:
        size = f"{columns.stop - columns.start}×{rows.stop - rows.start}"
        whole = f"{masked.shape[1]}×{masked.shape[0]}"
        grown = f" ({whole} with the added borders)" if whole != size else ""
        raise ConfigError(f"{option} {box}: reaches beyond the image, which is {size} pixels{grown}")
    return masked[top:bottom, left:right]


def _box_owners(boxes: tuple[Box, ...], shape: tuple[int, ...], inside: tuple[slice, slice]) -> Tensor:
    """The box of each pixel: int32 (H, W), -1 none, 0 one without a class, i the i-th with one.

    Raises:
        ConfigError: a box reaches beyond the image, or later ones cover all of one with a class.
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


def _check_kept(kept: tuple[Box, ...], masked: Tensor, inside: tuple[slice, slice]) -> None:
    """Refuse to keep what is not inpainted anyway, which can only be a mistake.

    Raises:
        ConfigError: a kept box does not overlap what the other options mask, bool (H, W).
    """
    for box in kept:
        if not _inside(masked, box, inside, "--keep-box").any():
            raise ConfigError(
                f"--keep-box {box}: does not overlap the region to inpaint, from which it takes pixels; only "
                "without --mask and --box the region is everything else"
            )


# --- masks ------------------------------------------------------------------------------------------


def read_mask(path: ImageInput, image: Tensor, threshold: int | None = None) -> Tensor:
    """True where a mask for an image (3, H, W) is white: bool (H, W).

    White is a luma (ITU-R 601) of 128 or more, or of the threshold. Transparent pixels (alpha below 128)
    count as black, so that white strokes on a transparent layer are a mask too.

    Args:
        path: the mask's image file.
        image: the image to inpaint.
        threshold: lowest luma that is inpainted, 1 to 255; None refuses a mask of more than two values.

    Raises:
        InputError: the mask cannot be read, has another size than the image, no white pixel, or more than two
            values, as a photograph has that was given by mistake.
    """
    pixels = read_image(path).to(torch.int32)  # (3, H, W)
    if pixels.shape != image.shape:
        have, want = (f"{x.shape[2]}×{x.shape[1]}" for x in (pixels, image))
        raise InputError(f"{path}: the mask is {have} pixels, the image {want}; their sizes must be equal")
    luma = 299 * pixels[0] + 587 * pixels[1] + 114 * pixels[2]
    luma *= _opaque(path)
    if threshold is None and not _two_valued(luma):
        raise InputError(
            f"{path}: not a mask: it has more values than black and white; make the region to inpaint white "
            f"and the rest black, or take pixels of luma T or more with --mask-threshold T (such as {WHITE})"
        )
    masked = luma >= 1000 * (threshold or WHITE)
    if not masked.any():
        brightest = int(luma.max()) // 1000
        where = f"the region to inpaint must be white, of a luma of {threshold or WHITE} or more"
        raise InputError(f"{path}: nothing is masked; {where}, and the brightest pixel has {brightest}")
    return masked


def _two_valued(luma: Tensor) -> bool:
    """Whether 1000 times the luma (H, W) has two values at most, or is black and white with soft edges."""
    if len(luma.unique()) <= 2:
        return True
    black, white = luma <= 1000 * NEARLY, luma >= 1000 * (255 - NEARLY)
    between = ~(black | white)
    return not (between & ~(_near(black) & _near(white))).any()


def _near(pixels: Tensor) -> Tensor:
    """True within :data:`EDGE` rows and columns of a pixel that is true: bool (H, W)."""
    grown = max_pool2d(pixels[None, None].float(), 2 * EDGE + 1, stride=1, padding=EDGE)
    return grown[0, 0] > 0


def _opaque(path: ImageInput) -> Tensor:
    """True where a readable image isn't transparent: bool (H, W), or () for all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of large images
        if isinstance(path, ImageInMemory):
            return _opaque_pixels(path.image)
        with Image.open(path) as image:
            return _opaque_pixels(image)


def _opaque_pixels(image: Image.Image) -> Tensor:
    if not image.has_transparency_data:
        return torch.tensor(True)
    return torch.from_numpy(np.array(upright_copy(image).convert("RGBA"))[..., 3] >= WHITE)
