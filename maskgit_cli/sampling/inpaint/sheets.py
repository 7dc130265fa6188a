"""The sheet of ``inpaint``: each image before, what is drawn in it, and its variants after."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.sampling.inpaint.regions import Region

# A sheet is about this wide, so that it fits a screen, and shows no more pictures than this.
SHEET_WIDTH, SHEET_PICTURES = 1600, 100
# It shows large pictures at this many pixels on their longer side; in a row of many, at least the second.
LARGEST_SIDE, SMALLEST_SIDE = 512, 160
# Small pictures are enlarged to no more than this.
ENLARGED_SIDE = 256
# Variants of each line of a manifest.
SHOWN_VARIANTS = 8
# What was added to an image is empty at first; what is drawn is marked like what is transparent in editors
# of pictures, by squares of two grays, this many on the longer side.
EMPTY, LIGHT, DARK = 232, 200, 150
SQUARES = 48
# Around each picture, so that white ones end somewhere.
FRAME = 176


class SheetRow(NamedTuple):
    """What a sheet shows of one image.

    Attributes:
        region: the image before, and what is drawn.
        drawn: variants, uint8 (3, H, W).
        name: of the image.
    """

    region: Region
    drawn: list[Tensor]
    name: str


def inpaint_sheet(images: int, n: int, row_of: Callable[[int, int], SheetRow]) -> Tensor:
    """The sheet of some images with n variants each: uint8 (3, H', W').

    One image has all its pictures one after the other; of several, each has a row.

    Args:
        images: how many there are.
        n: variants of each.
        row_of: what is shown of the image of a number, with so many of its variants.
    """
    if images == 1:
        return _sheet_of_one(row_of(0, min(n, SHEET_PICTURES - 2)))
    shown = min(n, SHOWN_VARIANTS)
    columns = 2 + shown
    side = min(LARGEST_SIDE, max(SMALLEST_SIDE, SHEET_WIDTH // columns))
    rows = [row_of(i, shown) for i in range(min(images, SHEET_PICTURES // columns))]
    pictures = [picture for row in rows for picture in _pictures(row, side)]
    high, wide = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))
    return captioned_sheet(
        torch.stack([_centered(picture, high, wide) for picture in pictures]),
        columns,
        headers=_captions(shown),
        row_names=[row.name for row in rows],
    )


def _sheet_of_one(row: SheetRow) -> Tensor:
    pictures = torch.stack(_pictures(row, LARGEST_SIDE))
    fit = max(1, SHEET_WIDTH // pictures.shape[3])
    lines = math.ceil(len(pictures) / fit)
    columns = math.ceil(len(pictures) / lines)  # lines of about one length
    return captioned_sheet(pictures, columns, captions=_captions(len(row.drawn)))


def _captions(variants: int) -> list[str]:
    after = ["after"] if variants == 1 else [f"variant {i}" for i in range(variants)]
    return ["before", "drawn anew", *after]


def _pictures(row: SheetRow, side: int) -> list[Tensor]:
    """Before, what is drawn, and the variants, at the same size."""
    region = row.region
    before = torch.full_like(region.picture, EMPTY)
    before[:, *region.inside] = region.picture[:, *region.inside]
    before = _fit(before, side)
    marked = torch.where(_fit_mask(region.masked, before), _squares(before), before)
    shown = [before, marked, *(_fit(picture, side) for picture in row.drawn)]
    return [F.pad(picture, (1, 1, 1, 1), value=FRAME) for picture in shown]


def _fit(picture: Tensor, side: int) -> Tensor:
    """Scale uint8 (3, H, W) down to a longer side of ``side``, or a small one up by a whole factor."""
    longer = max(picture.shape[1:])
    if longer > side:
        size = [max(1, round(x * side / longer)) for x in picture.shape[1:]]
        return transforms.resize(picture, size, antialias=True)
    factor = max(1, min(side, ENLARGED_SIDE) // longer)
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _fit_mask(masked: Tensor, picture: Tensor) -> Tensor:
    """A mask (H, W) at the size of a picture: True wherever any of it is."""
    scaled = transforms.resize(masked[None].float(), list(picture.shape[1:]), antialias=True)
    return scaled[0] > 0


def _squares(picture: Tensor) -> Tensor:
    """Squares of two grays, like a chessboard, of a picture's size: uint8 (3, H, W)."""
    size = max(1, max(picture.shape[1:]) // SQUARES)
    rows, columns = (torch.arange(length) // size for length in picture.shape[1:])
    light = (rows[:, None] + columns) % 2 == 0
    return torch.where(light, LIGHT, DARK).to(torch.uint8).expand(3, -1, -1)


def _centered(picture: Tensor, high: int, wide: int) -> Tensor:
    """A picture in the middle of a white one."""
    cell = torch.full((3, high, wide), 255, dtype=torch.uint8)
    top, left = (high - picture.shape[1]) // 2, (wide - picture.shape[2]) // 2
    cell[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    return cell
