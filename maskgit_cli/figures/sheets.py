"""Grids of images with text (captions, column headers, row names), and animations.

The font is Pillow's own, so that a sheet needs nothing from the system and has the same bytes wherever
that version of Pillow runs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from maskgit_cli.config.base import require

ANIMATIONS = ("webp", "gif")

BACKGROUND, TEXT_COLOR = (255, 255, 255), (64, 64, 64)
# Images whose longer side is below this are enlarged by an integer factor; captions need the width.
MIN_SIDE = 128
FONT_SIZE = 15  # digits and capitals are 10 px tall, letters with descenders 14
TITLE_LINES, CAPTION_LINES, ROW_NAME_LINES = 3, 2, 3
MARGIN = 10  # around the sheet
GAP = 6  # between images, and between an image and its text
ELLIPSIS = "…"

Font = Any  # Pillow's font, whose class depends on how Pillow was built


class Rect(NamedTuple):
    """A rectangle on a sheet, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class SheetLayout(NamedTuple):
    """The positions of images and texts on a sheet, and the texts line by line.

    Attributes:
        width: of the sheet.
        height: of the sheet.
        scale: integer factor by which images are enlarged.
        font_size: of the text.
        images: one rectangle per image, enlarged.
        texts: rectangle, lines and alignment (``left``, ``center`` or ``right``) of each text.
    """

    width: int
    height: int
    scale: int
    font_size: int
    images: list[Rect]
    texts: list[tuple[Rect, list[str], str]]


def captioned_sheet(
    images: Tensor,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Tensor:
    """Arrange images in rows on white, with text around them: uint8 (3, H', W').

    Images below :data:`MIN_SIDE` are enlarged by an integer factor, nearest-neighbor; none is reduced.
    Text that does not fit is wrapped, and cut with an ellipsis where lines run out.

    Args:
        images: uint8 (N, 3, H, W), row by row.
        columns: images per row; None makes the sheet about square.
        captions: N texts, each below its image.
        headers: a text above each column.
        row_names: a text left of each row.
        title: a text above everything.
    """
    n, _, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n * height / width)))
    layout = lay_out(n, height, width, columns, captions, headers, row_names, title)
    sheet = Image.new("RGB", (layout.width, layout.height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for rect, lines, alignment in layout.texts:
        _draw_lines(draw, rect, lines, alignment, _font(layout.font_size))
    result = torch.from_numpy(np.array(sheet)).permute(2, 0, 1).contiguous()  # (H', W', 3) -> (3, H', W')
    for image, rect in zip(images.cpu(), layout.images, strict=True):
        result[:, *rect.slices] = image.repeat_interleave(layout.scale, 1).repeat_interleave(layout.scale, 2)
    return result


def stack_sheets(sheets: Sequence[Tensor]) -> Tensor:
    """Concatenate sheets, uint8 (3, H, W), vertically; narrower ones are padded with white on the right."""
    width = max(sheet.shape[2] for sheet in sheets)
    padded = [torch.nn.functional.pad(sheet, (0, width - sheet.shape[2]), value=255) for sheet in sheets]
    return torch.cat(padded, 1)


# --- layout ---------------------------------------------------------------------------------------------


def lay_out(
    n: int,
    height: int,
    width: int,
    columns: int,
    captions: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    title: str | None = None,
) -> SheetLayout:
    """The layout of n images (height × width pixels) and their texts; see :func:`captioned_sheet`."""
    rows = math.ceil(n / columns)
    for texts, count in ((captions, n), (headers, columns), (row_names, rows)):
        assert texts is None or len(texts) == count, f"{len(texts)} texts for {count}"
    scale = max(1, math.ceil(MIN_SIDE / max(height, width)))
    height, width = height * scale, width * scale
    size = max(FONT_SIZE, max(height, width) // 24)  # large images are viewed from a distance
    font, line = _font(size), _line_height(size)
    # A narrow image gets a wider cell if it has text.
    cell = max(width, MIN_SIDE * 3 // 4) if captions or headers else width

    below = [wrap(text, font, cell, CAPTION_LINES) for text in captions or []]
    above = [wrap(text, font, cell, CAPTION_LINES) for text in headers or []]
    names = [wrap(text, font, max(2 * cell, 8 * size), ROW_NAME_LINES) for text in row_names or []]
    left = MARGIN + _band(max((font.getlength(x) for lines in names for x in lines), default=0))
    right = left + columns * (cell + GAP) - GAP
    title_lines = wrap(title or "", font, right - MARGIN, TITLE_LINES)

    header_top = MARGIN + _band(len(title_lines) * line)
    first_top = header_top + _band(max(map(len, above), default=0) * line)
    caption_height = max(map(len, below), default=0) * line
    # A caption is nearer to its own image than to the one below it.
    row_gap = 2 * GAP if caption_height else GAP
    row_height = height + _band(caption_height) + row_gap

    image_rects, text_rects = (
        [],
        [(Rect(MARGIN, MARGIN, right - MARGIN, len(title_lines) * line), title_lines, "left")],
    )
    for column, lines in enumerate(above):
        # Headers are aligned at the bottom, next to their columns.
        top = first_top - GAP - len(lines) * line
        text_rects.append((Rect(left + column * (cell + GAP), top, cell, len(lines) * line), lines, "center"))
    for row, lines in enumerate(names):
        top = first_top + row * row_height + max(0, (height - len(lines) * line) // 2)
        text_rects.append((Rect(MARGIN, top, left - GAP - MARGIN, len(lines) * line), lines, "right"))
    for i in range(n):
        x, y = left + i % columns * (cell + GAP), first_top + i // columns * row_height
        image_rects.append(Rect(x + (cell - width) // 2, y, width, height))
        if below:
            text_rects.append((Rect(x, y + height + GAP, cell, caption_height), below[i], "center"))
    bottom = first_top + rows * row_height - row_gap
    texts_with_lines = [text for text in text_rects if text[1]]
    return SheetLayout(right + MARGIN, bottom + MARGIN, scale, size, image_rects, texts_with_lines)


def _band(length: float) -> int:
    """The space for text of this length and a gap; 0 without text."""
    return math.ceil(length) + GAP if length else 0


# --- text -------------------------------------------------------------------------------------------


@lru_cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _line_height(size: int) -> int:
    """The distance between the tops of two lines."""
    return sum(_font(size).getmetrics()) + 1


def wrap(text: str, font: Font, width: float, lines: int) -> list[str]:
    """Break a text into up to ``lines`` lines of up to ``width`` pixels, cut with an ellipsis if necessary.

    Lines break at spaces; a word longer than a line is broken anywhere.
    """
    found: list[str] = []
    rest = " ".join(text.split())  # line breaks and tabs in a name are spaces here
    while rest and len(found) < lines:
        if font.getlength(rest) <= width:
            return [*found, rest]
        if len(found) == lines - 1:
            return [*found, _cut(rest, font, width - font.getlength(ELLIPSIS)).rstrip() + ELLIPSIS]
        line = _cut(rest, font, width)
        # Break at the last space, unless the line is one word.
        if not rest[len(line) :].startswith(" ") and " " in line:
            line = line[: line.rindex(" ")]
        found.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return found


def _cut(text: str, font: Font, width: float) -> str:
    """The longest prefix of a text that fits, of at least one character."""
    end = len(text)
    while end > 1 and font.getlength(text[:end]) > width:
        # An estimate from the average width of a character saves measuring every prefix.
        guess = int(end * width / font.getlength(text[:end])) + 1
        end = max(1, min(end - 1, guess))
    return text[:end]


def _draw_lines(
    draw: ImageDraw.ImageDraw, rect: Rect, lines: Sequence[str], alignment: str, font: Font
) -> None:
    """Draw lines of text into a rectangle, one below the other."""
    line = sum(font.getmetrics()) + 1
    for i, text in enumerate(lines):
        free = rect.width - font.getlength(text)
        shift = {"left": 0.0, "center": free / 2, "right": free}[alignment]
        # Whole pixels, so that a text looks the same in every cell.
        draw.text((rect.left + int(shift), rect.top + i * line), text, fill=TEXT_COLOR, font=font)


# --- animations -------------------------------------------------------------------------------------


def animation_bytes(
    frames: Tensor, milliseconds: int = 200, format: str = "webp", hold_last_ms: int = 0
) -> bytes:
    """An animation that loops forever, as the bytes of a file.

    WebP is lossless; GIF has 256 colors per frame, and durations in hundredths of a second.

    Args:
        frames: uint8 (T, 3, H, W).
        milliseconds: duration of each frame.
        format: ``webp`` or ``gif``.
        hold_last_ms: additional duration of the last frame.

    Raises:
        ConfigError: there is no such format, or a duration is not positive.
    """
    require(format in ANIMATIONS, "format", format, "one of " + ", ".join(ANIMATIONS))
    require(milliseconds >= 1, "milliseconds", milliseconds, "1 or more")
    require(hold_last_ms >= 0, "hold_last_ms", hold_last_ms, "0 or more")
    first, *others = (Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()) for frame in frames)
    times = [milliseconds] * len(frames)
    times[-1] += hold_last_ms
    options: dict[str, Any] = {"lossless": True, "quality": 80, "method": 4} if format == "webp" else {}
    buffer = io.BytesIO()
    first.save(buffer, format.upper(), save_all=True, append_images=others, duration=times, loop=0, **options)
    return buffer.getvalue()
