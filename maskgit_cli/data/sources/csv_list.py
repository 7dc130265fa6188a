"""Image source: a CSV of paths and labels."""

from __future__ import annotations

import csv
from pathlib import Path

from maskgit_cli.data.sources.base import ImageFiles, Opening, Origin, SourceKind, is_image_name
from maskgit_cli.data.sources.labels import classes_of
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular
from maskgit_cli.runtime.progress import Reporter

# Headings of the two columns that are read, in lower case.
PATH_HEADINGS = ("path", "file", "image", "filename", "filepath", "file_name")
LABEL_HEADINGS = ("label", "class")

Lines = list[tuple[int, list[str]]]


def open_csv(path: Path, opening: Opening) -> ImageFiles:
    """List the images of a CSV, in its order.

    The first line may name the columns, one of :data:`PATH_HEADINGS` and one of :data:`LABEL_HEADINGS`, in
    any order and among others; without such a line they are ``path,label``. Relative paths are relative to
    the CSV. A label is a class index, a class name, or empty for none; there need not be labels.

    Raises:
        InputError: the file is not such a CSV, or lists no image.
    """
    rows = _read_rows(path, opening.reporter)
    if not rows:
        raise InputError(f"{path}: no images listed")
    labels, class_names = classes_of(path, [label for _, label in rows])
    return ImageFiles(Origin(path, "images"), path.parent, [name for name, _ in rows], labels, class_names)


def read_table(path: Path) -> Lines:
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


def _read_rows(path: Path, reporter: Reporter) -> list[tuple[str, str]]:
    """(path, label) of each line that is not blank or the header."""
    lines = read_table(path)
    heads = _header(path, lines)
    file, label = (0, 1) if heads is None else (_column(path, heads, PATH_HEADINGS), -1)
    if heads is not None and set(heads) & set(LABEL_HEADINGS):
        label = _column(path, heads, LABEL_HEADINGS)
    elif heads is not None and len(heads) > 1:
        reporter.warn(f"{path} has no column {' or '.join(LABEL_HEADINGS)}, so its images have no class")
    rows = []
    for number, cells in lines if heads is None else lines[1:]:
        if len(cells) <= file or not cells[file]:
            raise InputError(f"{path}: line {number} has no path")
        if heads is not None and any(cells[len(heads) :]):
            count = f"{len(cells)} cells for {len(heads)} columns"
            raise InputError(f"{path}: line {number} has {count}; quote cells with commas")
        named = cells[label] if 0 <= label < len(cells) else ""  # empty cells at the end may be left out
        rows.append((cells[file].replace("\\", "/"), named))
    return rows


def _header(path: Path, lines: Lines) -> list[str] | None:
    """The headings in lower case; None if the first line is an image.

    Raises:
        InputError: the first line has headings, but none of a column of paths.
    """
    if not lines:
        return None
    heads = [cell.lower() for cell in lines[0][1]]
    if set(heads) & {*PATH_HEADINGS, *LABEL_HEADINGS} and not is_image_name(heads[0]):
        return heads
    first, *others = (cells[0] for _, cells in lines)
    if others and not is_image_name(first) and all(map(is_image_name, others)):
        raise InputError(
            f"{path}: line {lines[0][0]} has headings, but no column of paths ({', '.join(PATH_HEADINGS)}); "
            "rename the column"
        )
    return None


def _column(path: Path, heads: list[str], names: tuple[str, ...]) -> int:
    """The one column that has one of these headings.

    Raises:
        InputError: there is none, or several.
    """
    found = [i for i, head in enumerate(heads) if head in names]
    if not found:
        raise InputError(f"{path}: line 1 has no column {' or '.join(names)}; rename the column of paths")
    if len(found) > 1:
        several = " and ".join(heads[i] for i in found)
        raise InputError(f"{path}: line 1 has the columns {several}; keep one of them")
    return found[0]


def is_csv(path: Path) -> bool:
    """Whether a path is a ``.csv`` file."""
    return path.suffix.lower() == ".csv" and path.is_file()


SOURCE = SourceKind("a .csv of path,label", is_csv, open_csv)
