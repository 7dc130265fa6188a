"""Image source: a CSV of paths and labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from maskgit_cli.data.sources.base import Decoding, ImageFiles, Origin, SourceKind
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular

# The largest label a CSV may hold; a larger one suggests that the wrong column was read.
MAX_LABEL = 1_000_000


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
        indices = [int(label) if label else -1 for label in labels]
        _check_range(path, indices)
        class_names = [str(i) for i in range(max(indices) + 1)]
    else:
        class_names = sorted(set(labels) - {""})
        index_of = {name: i for i, name in enumerate(class_names)} | {"": -1}
        indices = [index_of[label] for label in labels]
    files = [path.parent / name for name in names]
    return ImageFiles(Origin(path, "images"), files, names, np.array(indices, np.int32), class_names)


def _read_rows(path: Path) -> list[tuple[str, str]]:
    """(path, label) of each line that is not blank or the header."""
    regular(path, LARGEST_LIST)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(error).split())})") from error
    header = [cell.lower() for cell in lines[0]] if lines else []
    columns = (0, 1)
    if "path" in header and "label" in header:
        columns = (header.index("path"), header.index("label"))
        lines[0] = []
    rows = []
    for number, cells in enumerate(lines, start=1):
        if not any(cells):
            continue
        if len(cells) <= max(columns) or not cells[columns[0]]:
            raise InputError(f"{path}: line {number} is not path,label")
        rows.append((cells[columns[0]].replace("\\", "/"), cells[columns[1]]))
    return rows


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _check_range(path: Path, labels: list[int]) -> None:
    if min(labels) < -1:
        raise InputError(f"{path}: label {min(labels)} is negative; -1 or an empty cell is no class")
    if max(labels) > MAX_LABEL:
        raise InputError(f"{path}: label {max(labels)} is above {MAX_LABEL}; is it the right column?")


def is_csv(path: Path) -> bool:
    """Whether a path is a ``.csv`` file."""
    return path.suffix.lower() == ".csv" and path.is_file()


SOURCE = SourceKind("a .csv of path,label", is_csv, open_csv)
