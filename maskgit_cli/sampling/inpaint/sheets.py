"""The grid of ``inpaint``: each image before, its region to inpaint, and its variants after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.sampling.inpaint.regions import Region

# Approximate width of a sheet in pixels, so that it fits a screen, and the maximum number of its images.
SHEET_WIDTH, SHEET_IMAGES = 1600, 100
# Large images are scaled to this longer side; in a row of many, to the second at least.
LARGEST_SIDE, SMALLEST_SIDE = 512, 160
# Small images are enlarged to no more than this.
ENLARGED_SIDE = 256
# Maximum number of variants of each line of a manifest.
SHOWN_VARIANTS = 8
# Grays of added borders before they are filled, and of the checkerboard that marks the region to inpaint,
# like transparency in image editors, with this many squares on the longer side.
EMPTY, LIGHT, DARK = 232, 200, 150
SQUARES = 48
# Gray of the frame around each image, which may be as white as the sheet.
FRAME = 176


class SheetRow(NamedTuple):
    """One image of a sheet.

    Attributes:
        region: the image before, and its region to inpaint.
        variants: the inpainted images, uint8 (3, H, W).
        name: of the image.
    """

    region: Region
    variants: list[Tensor]
    name: str


def shown_on_sheet(images: int, n: int) -> tuple[int, int]:
    """How many of the images, and how many of the n variants of each, a sheet shows."""
    if images == 1:
        return 1, min(n, SHEET_IMAGES - 2)
    shown = min(n, SHOWN_VARIANTS)
    return min(images, SHEET_IMAGES // (2 + shown)), shown


def inpaint_sheet(rows: Sequence[SheetRow]) -> Tensor:
    """The sheet of some images with their variants: uint8 (3, H', W').

    A single image's variants follow one another; several images have a row each.

    Args:
        rows: as many images and variants as :func:`shown_on_sheet` gives.
    """
    if len(rows) == 1:
        return _sheet_of_one(rows[0])
    shown = len(rows[0].variants)
    columns = 2 + shown
    side = min(LARGEST_SIDE, max(SMALLEST_SIDE, SHEET_WIDTH // columns))
    images = [image for row in rows for image in _images(row, side)]
    high, wide = (max(image.shape[axis] for image in images) for axis in (1, 2))
    return captioned_sheet(
        torch.stack([_centered(image, high, wide) for image in images]),
        columns,
        headers=_captions(shown),
        row_names=[row.name for row in rows],
    )


def _sheet_of_one(row: SheetRow) -> Tensor:
    images = torch.stack(_images(row, LARGEST_SIDE))
    fit = max(1, SHEET_WIDTH // images.shape[3])
    lines = math.ceil(len(images) / fit)
    columns = math.ceil(len(images) / lines)  # lines of about one length
    return captioned_sheet(images, columns, captions=_captions(len(row.variants)))


def _captions(variants: int) -> list[str]:
    after = ["after"] if variants == 1 else [f"variant {i}" for i in range(variants)]
    return ["before", "region", *after]


def _images(row: SheetRow, side: int) -> list[Tensor]:
    """Before, with the region marked, and the variants, at the same size."""
    region = row.region
    before = torch.full_like(region.image, EMPTY)
    before[:, *region.inside] = region.image[:, *region.inside]
    before = _fit(before, side)
    marked = torch.where(_fit_mask(region.masked, before), _checkerboard(before), before)
    shown = [before, marked, *(_fit(image, side) for image in row.variants)]
    return [F.pad(image, (1, 1, 1, 1), value=FRAME) for image in shown]


def _fit(image: Tensor, side: int) -> Tensor:
    """Scale uint8 (3, H, W) down to a longer side of ``side``, or a small one up by a whole factor."""
    longer = max(image.shape[1:])
    if longer > side:
        size = [max(1, round(x * side / longer)) for x in image.shape[1:]]
        return transforms.resize(image, size, antialias=True)
    factor = max(1, min(side, ENLARGED_SIDE) // longer)
    return image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _fit_mask(masked: Tensor, image: Tensor) -> Tensor:
    """A mask (H, W) at the size of an image: True wherever any of it is."""
    scaled = transforms.resize(masked[None].float(), list(image.shape[1:]), antialias=True)
    return scaled[0] > 0


def _checkerboard(image: Tensor) -> Tensor:
    """Squares of two grays, of an image's size: uint8 (3, H, W)."""
    size = max(1, max(image.shape[1:]) // SQUARES)
    rows, columns = (torch.arange(length) // size for length in image.shape[1:])
    light = (rows[:, None] + columns) % 2 == 0
    return torch.where(light, LIGHT, DARK).to(torch.uint8).expand(3, -1, -1)


def _centered(image: Tensor, high: int, wide: int) -> Tensor:
    """An image in the middle of a white one."""
    cell = torch.full((3, high, wide), 255, dtype=torch.uint8)
    top, left = (high - image.shape[1]) // 2, (wide - image.shape[2]) // 2
    cell[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return cell
