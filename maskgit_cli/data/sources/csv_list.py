"""Image source: a CSV of paths and labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from maskgit_cli.data.sources.base import Decoding, ImageFiles, Origin, SourceKind
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular

# The largest label a CSV may hold; a larger one suggests that the wrong column was read.
MAX_LABEL, MAX_DIGITS = 1_000_000, 20


def open_csv(path: Path, _: Decoding) -> ImageFiles:
    """List the images of a CSV, in its order.

    The columns are ``path,label``, in this order or named by the first line. Relative paths are relative
    to the CSV. A label is a class index, a class name, or empty for none.

    Raises:
        InputError: the file is not such a CSV, or lists no image.
    """
    rows = _read_rows(path)
    if not rows:
        raise InputError(f"{path}: no images listed")
    names, labels = [name for name, _ in rows], [label for _, label in rows]
    if any(labels) and all(_is_number(label) for label in labels if label):
        indices = [_index(path, label) for label in labels]
        class_names = [str(i) for i in range(max(indices) + 1)]
    else:
        class_names = sorted(set(labels) - {""})
        index_of = {name: i for i, name in enumerate(class_names)} | {"": -1}
        indices = [index_of[label] for label in labels]
    files = [path.parent / name for name in names]
    return ImageFiles(Origin(path, "images"), files, names, np.array(indices, np.int32), class_names)


def read_table(path: Path) -> list[tuple[int, list[str]]]:
    """Number and cells of each line of a CSV that is not blank; cells without the spaces around them.

    Raises:
        InputError: the file cannot be read, or is not a CSV of UTF-8 text.
    """
    regular(path, LARGEST_LIST)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(error).split())})") from error
    for number, cells in rows:
        if any("\0" in cell for cell in cells):
            raise InputError(f"{path}: line {number} has a byte of zero, so it is not text")
    return [(number, cells) for number, cells in rows if any(cells)]


def _read_rows(path: Path) -> list[tuple[str, str]]:
    """(path, label) of each line that is not blank or the header."""
    lines = read_table(path)
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    columns = (0, 1)
    if "path" in header and "label" in header:
        columns = (header.index("path"), header.index("label"))
        del lines[0]
    rows = []
    for number, cells in lines:
        if len(cells) <= max(columns) or not cells[columns[0]]:
            raise InputError(f"{path}: line {number} is not path,label")
        rows.append((cells[columns[0]].replace("\\", "/"), cells[columns[1]]))
    return rows


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _index(path: Path, text: str) -> int:
    """The class index of a cell; -1 for an empty one."""
    if not text:
        return -1
    if len(text) > MAX_DIGITS:  # Python does not convert thousands of them
        raise InputError(f"{path}: label {text[:MAX_DIGITS]}... is out of range; is it the right column?")
    label = int(text)
    if label < -1:
        raise InputError(f"{path}: label {label} is negative; -1 or an empty cell is no class")
    if label > MAX_LABEL:
        raise InputError(f"{path}: label {label} is above {MAX_LABEL}; is it the right column?")
    return label


def is_csv(path: Path) -> bool:
    """Whether a path is a ``.csv`` file."""
    return path.suffix.lower() == ".csv" and path.is_file()


SOURCE = SourceKind("a .csv of path,label", is_csv, open_csv)
