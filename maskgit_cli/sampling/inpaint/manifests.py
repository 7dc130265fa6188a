"""Manifests: a CSV of many images to inpaint, one per line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint, check_boxes, check_outpaint
from maskgit_cli.data.sources.csv_list import read_table
from maskgit_cli.errors import InputError, MaskGITError
from maskgit_cli.sampling.inpaint.regions import Edit

T = TypeVar("T")

COLUMNS = ("image", "mask", "box", "keep_box", "outpaint", "label", "seed", "window", "name")
# Between the boxes of one cell: boxes and many names of classes contain commas.
BOX_SEPARATOR = ";"
LARGEST_SEED = 2**64 - 1


def read_manifest(path: Path, config: InpaintConfig) -> list[Edit]:
    """The edits of a CSV, one per line.

    Its first line names the columns, of which only ``image`` is required. Paths are relative to the
    CSV. A line without label, seed or window has those of ``config``; to the seed, the number of the edit
    is added, from 0.

    Raises:
        InputError: the file cannot be read, has an unknown column or no line, or a line cannot be used.
    """
    lines = read_table(path)
    if not lines:
        raise InputError(f"{path}: empty; its first line must name the columns: {','.join(COLUMNS)}")
    names = [cell.lower() for cell in lines[0][1]]
    _check_columns(path, names)
    edits: list[Edit] = []
    for number, cells in lines[1:]:
        try:
            if len(cells) > len(names):
                raise InputError(f"has {len(cells)} cells for {len(names)} columns; quote cells with commas")
            # Spreadsheets leave out empty cells at the end of a line.
            row = dict(zip(names, cells, strict=False))
            edits.append(_read_edit(row, path.parent, number, len(edits), config))
        except MaskGITError as error:
            raise InputError(f"{path}: line {number}: {error}") from None
    if not edits:
        raise InputError(f"{path}: no lines after the names of the columns")
    return edits


def _check_columns(path: Path, names: list[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise InputError(f"{path}: line 1: unknown column {name!r}; the columns are {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise InputError(f"{path}: line 1: the column {name!r} is there twice")
    if "image" not in names:
        raise InputError(f"{path}: line 1: has no column 'image'; the first line must name the columns")


def _read_edit(row: Mapping[str, str], folder: Path, line: int, number: int, config: InpaintConfig) -> Edit:
    """The edit of one line; its errors do not name the line."""
    if not row.get("image"):
        raise InputError("has no image")
    boxes = {key: _boxes(row.get(key, ""), key) for key in ("box", "keep_box")}
    outpaint = _parsed(Outpaint.parse, row["outpaint"], "outpaint") if row.get("outpaint") else None
    check_boxes(boxes["box"], boxes["keep_box"])
    check_outpaint(outpaint)
    image = _path(folder, row["image"])
    default = (config.seed + number) % (LARGEST_SEED + 1)
    return Edit(
        image,
        _path(folder, row["mask"]) if row.get("mask") else None,
        **boxes,
        outpaint=outpaint,
        label=row.get("label") or config.label,
        window=_number(row, "window", config.window, 1, None),
        seed=_number(row, "seed", default, 0, LARGEST_SEED),
        name=row.get("name") or image.stem,
        line=line,
        mask_threshold=config.mask_threshold,
    )


def _path(folder: Path, text: str) -> Path:
    return folder / text.replace("\\", "/")


def _boxes(text: str, column: str) -> tuple[Box, ...]:
    return tuple(_parsed(Box.parse, item, column) for item in text.split(BOX_SEPARATOR) if item.strip())


def _parsed(parse: Callable[[str], T], text: str, column: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise InputError(f"{column}: {error}") from None


def _number(row: Mapping[str, str], key: str, default: Any, low: int, high: int | None) -> Any:
    """A whole number from a cell, or the default where it is empty."""
    text = row.get(key, "")
    if not text:
        return default
    number = int(text) if text.isdecimal() and len(text) <= len(str(LARGEST_SEED)) else -1
    if not low <= number <= (LARGEST_SEED if high is None else high):
        most = f"{low} or more" if high is None else f"between {low} and 2^64 - 1"
        raise InputError(f"{key} {text}: must be a whole number, {most}")
    return number
