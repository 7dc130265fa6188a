"""Sheets of pictures with text (captions, headers, names of rows), and animated pictures.

The text is set in the font that Pillow carries, so that a sheet needs nothing from the system and is the
same bytes wherever that version of Pillow runs.
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

PAPER, INK = (255, 255, 255), (64, 64, 64)
# Pictures with a shorter side than this are enlarged by a whole factor; text below them needs the width.
READABLE_SIDE = 128
FONT_SIZE = 15  # digits and capitals of 10 pixels, and letters with tails of 14
TITLE_LINES, CAPTION_LINES, ROW_NAME_LINES = 3, 2, 3
MARGIN = 10  # around the sheet
GAP = 6  # between pictures, and between a picture and its text
ELLIPSIS = "…"

Font = Any  # Pillow's font, whose class depends on how it was built


class Place(NamedTuple):
    """Where something stands on a sheet, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Layout(NamedTuple):
    """Where everything of a sheet stands, and its text as it fits there, line by line.

    Attributes:
        width: of the sheet.
        height: of the sheet.
        scale: whole factor by which pictures are enlarged.
        font_size: of the text.
        pictures: one a picture, enlarged.
        texts: place, lines, and how they are aligned: ``left``, ``center`` or ``right``.
    """

    width: int
    height: int
    scale: int
    font_size: int
    pictures: list[Place]
    texts: list[tuple[Place, list[str], str]]


def captioned_sheet(
    images: Tensor,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Tensor:
    """Set pictures in rows on white, with text around them: uint8 (3, H', W').

    Pictures below :data:`READABLE_SIDE` are enlarged by a whole factor, pixel by pixel; none is ever
    made smaller. Text that does not fit is wrapped, and cut with an ellipsis where lines run out.

    Args:
        images: the pictures, uint8 (N, 3, H, W), row by row.
        columns: pictures in a row; None makes the sheet about square.
        captions: N texts, each below its picture.
        headers: a text above each column.
        row_names: a text left of each row.
        title: above everything.
    """
    n, _, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n * height / width)))
    layout = lay_out(n, height, width, columns, captions, headers, row_names, title)
    sheet = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, lines, alignment in layout.texts:
        _draw_lines(draw, place, lines, alignment, _font(layout.font_size))
    result = torch.from_numpy(np.array(sheet)).permute(2, 0, 1).contiguous()  # (H', W', 3) -> (3, H', W')
    for image, place in zip(images.cpu(), layout.pictures, strict=True):
        large = image.repeat_interleave(layout.scale, 1).repeat_interleave(layout.scale, 2)
        result[:, place.top : place.top + place.height, place.left : place.left + place.width] = large
    return result


def stack_sheets(sheets: Sequence[Tensor]) -> Tensor:
    """Sheets uint8 (3, H, W) one below the other, with white at the right of narrower ones."""
    width = max(sheet.shape[2] for sheet in sheets)
    padded = [torch.nn.functional.pad(sheet, (0, width - sheet.shape[2]), value=255) for sheet in sheets]
    return torch.cat(padded, 1)


# --- where things stand -----------------------------------------------------------------------------


def lay_out(
    n: int,
    height: int,
    width: int,
    columns: int,
    captions: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Layout:
    """Where n pictures (height × width pixels) and their texts stand; see :func:`captioned_sheet`."""
    rows = math.ceil(n / columns)
    for texts, count in ((captions, n), (headers, columns), (row_names, rows)):
        assert texts is None or len(texts) == count, f"{len(texts)} texts for {count} places"
    scale = max(1, math.ceil(READABLE_SIDE / max(height, width)))
    height, width = height * scale, width * scale
    size = max(FONT_SIZE, max(height, width) // 24)  # large pictures are looked at from afar
    font, line = _font(size), _line_height(size)
    # A narrow picture has a wider cell where text goes with it.
    cell = max(width, READABLE_SIDE * 3 // 4) if captions or headers else width

    below = [wrap(text, font, cell, CAPTION_LINES) for text in captions or []]
    above = [wrap(text, font, cell, CAPTION_LINES) for text in headers or []]
    beside = [wrap(text, font, max(2 * cell, 8 * size), ROW_NAME_LINES) for text in row_names or []]
    left = MARGIN + _band(max((font.getlength(x) for lines in beside for x in lines), default=0))
    right = left + columns * (cell + GAP) - GAP
    over = wrap(title or "", font, right - MARGIN, TITLE_LINES)

    header_top = MARGIN + _band(len(over) * line)
    first_top = header_top + _band(max(map(len, above), default=0) * line)
    caption_height = max(map(len, below), default=0) * line
    # A caption stands nearer to its own picture than to the one below it.
    row_gap = 2 * GAP if caption_height else GAP
    row_height = height + _band(caption_height) + row_gap

    pictures, texts_at = [], [(Place(MARGIN, MARGIN, right - MARGIN, len(over) * line), over, "left")]
    for column, lines in enumerate(above):
        # The last line of a header stands right above its column, however many lines others have.
        top = first_top - GAP - len(lines) * line
        texts_at.append((Place(left + column * (cell + GAP), top, cell, len(lines) * line), lines, "center"))
    for row, lines in enumerate(beside):
        top = first_top + row * row_height + max(0, (height - len(lines) * line) // 2)
        texts_at.append((Place(MARGIN, top, left - GAP - MARGIN, len(lines) * line), lines, "right"))
    for i in range(n):
        x, y = left + i % columns * (cell + GAP), first_top + i // columns * row_height
        pictures.append(Place(x + (cell - width) // 2, y, width, height))
        if below:
            texts_at.append((Place(x, y + height + GAP, cell, caption_height), below[i], "center"))
    bottom = first_top + rows * row_height - row_gap
    return Layout(right + MARGIN, bottom + MARGIN, scale, size, pictures, [t for t in texts_at if t[1]])


def _band(length: float) -> int:
    """The room that text of this length takes with the gap behind it; none where there is no text."""
    return math.ceil(length) + GAP if length else 0


# --- text -------------------------------------------------------------------------------------------


@lru_cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _line_height(size: int) -> int:
    """From the top of one line of text to the next."""
    return sum(_font(size).getmetrics()) + 1


def wrap(text: str, font: Font, width: float, lines: int) -> list[str]:
    """Break a text into up to ``lines`` lines of up to ``width`` pixels, cut with an ellipsis if need be.

    Words stay whole where they fit on a line; a longer one is broken anywhere.
    """
    found: list[str] = []
    rest = " ".join(text.split())  # line breaks and tabs in a name are no layout
    while rest and len(found) < lines:
        if font.getlength(rest) <= width:
            return [*found, rest]
        if len(found) == lines - 1:
            return [*found, _cut(rest, font, width - font.getlength(ELLIPSIS)).rstrip() + ELLIPSIS]
        line = _cut(rest, font, width)
        # Back to the last space, unless the word that would move down fills a line by itself.
        if not rest[len(line) :].startswith(" ") and " " in line:
            line = line[: line.rindex(" ")]
        found.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return found


def _cut(text: str, font: Font, width: float) -> str:
    """The longest beginning of a text that fits, of one character or more."""
    end = len(text)
    while end > 1 and font.getlength(text[:end]) > width:
        # A guess from the average width of a character, which saves measuring each beginning.
        guess = int(end * width / font.getlength(text[:end])) + 1
        end = max(1, min(end - 1, guess))
    return text[:end]


def _draw_lines(
    draw: ImageDraw.ImageDraw, place: Place, lines: Sequence[str], alignment: str, font: Font
) -> None:
    """Set lines of text at their place, one below the other."""
    line = sum(font.getmetrics()) + 1
    for i, text in enumerate(lines):
        free = place.width - font.getlength(text)
        shift = {"left": 0.0, "center": free / 2, "right": free}[alignment]
        # Whole pixels, so that a text looks the same in every cell.
        draw.text((place.left + int(shift), place.top + i * line), text, fill=INK, font=font)


# --- animations -------------------------------------------------------------------------------------


def animation_bytes(
    frames: Tensor, milliseconds: int = 200, format: str = "webp", hold_last_ms: int = 0
) -> bytes:
    """An animated picture that repeats for ever, as the bytes of a file.

    WebP keeps every pixel; GIF has 256 colors a frame, and times in hundredths of a second.

    Args:
        frames: uint8 (T, 3, H, W).
        milliseconds: that each frame is shown.
        format: ``webp`` or ``gif``.
        hold_last_ms: that the last frame is shown besides.

    Raises:
        ConfigError: there is no such format, or a time is not positive.
    """
    require(format in ANIMATIONS, "format", format, "one of " + ", ".join(ANIMATIONS))
    require(milliseconds >= 1, "milliseconds", milliseconds, "1 or more")
    require(hold_last_ms >= 0, "hold_last_ms", hold_last_ms, "0 or more")
    first, *others = (Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()) for frame in frames)
    times = [milliseconds] * len(frames)
    times[-1] += hold_last_ms
    how: dict[str, Any] = {"lossless": True, "quality": 80, "method": 4} if format == "webp" else {}
    buffer = io.BytesIO()
    first.save(buffer, format.upper(), save_all=True, append_images=others, duration=times, loop=0, **how)
    return buffer.getvalue()
