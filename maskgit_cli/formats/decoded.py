"""Folders of decoded images (``maskgit-images``, version 2): PNGs of a token file, their list and a record.

``decoded.json`` is written first, with ``complete`` false, and last, with ``complete`` true. Each PNG is
written atomically, so that one that exists need not be decoded again. ``files.csv`` lists the PNGs, whose
names are those of the images that were tokenized.
"""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    LARGEST_LIST,
    check_format,
    disk_errors,
    read_json,
    regular,
    remove_leftovers_below,
    sha256_bytes,
    unicode_text,
    write_json,
)
from maskgit_cli.formats.claim import Found, OutputKind, is_empty_folder, new_path
from maskgit_cli.formats.records import Record

DECODED_FORMAT, DECODED_VERSION = "maskgit-images", 2
DECODED_KEYS = {"complete": bool, "images": int, "settings": dict, "parents": list}
DECODED_FILE, FILES_FILE = "decoded.json", "files.csv"
COLUMNS = ["path", "label", "name"]
# Bytes of a file's name before a row number, a view, ".png", and what a temporary name adds; 255 are allowed.
LONGEST_NAME = 200
# Bytes of a path in the folder; a longer one of many folders keeps only its class and its name.
LONGEST_PATH = 1000
# Folder of the images without a class, where others have one.
UNLABELED = "unlabeled"


class DecodedFile(NamedTuple):
    """An image of a folder of decoded images.

    Attributes:
        path: in the folder, with ``/``.
        label: its class; empty for none.
        name: of its row in the token file.
    """

    path: str
    label: str
    name: str


def decoded_record(
    settings: Mapping[str, Any],
    parents: Sequence[Mapping[str, str]],
    images: int,
    files_sha256: str,
    region: tuple[int, str],
) -> dict[str, Any]:
    """What ``decoded.json`` holds before the images are complete.

    Args:
        settings: as JSON values.
        parents: the token file and the tokenizer.
        images: number of images.
        files_sha256: of ``files.csv``.
        region: resolution and views of the token file, from which the part of an image that it shows follows.
    """
    return {
        "format": DECODED_FORMAT,
        "version": DECODED_VERSION,
        "created_by": CREATED_BY,
        "complete": False,
        "images": images,
        "files_sha256": files_sha256,
        "resolution": region[0],
        "tokenized_views": region[1],
        "settings": dict(settings),
        "parents": [dict(source) for source in parents],
    }


def read_decoded(path: Path) -> dict[str, Any]:
    """The checked ``decoded.json`` of a folder of decoded images, finished or not.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path / DECODED_FILE, DECODED.what)
    check_format(record, path, DECODED_FORMAT, DECODED_VERSION, DECODED_KEYS)
    return record


def _find(path: Path) -> Found | None:
    if not (path / DECODED_FILE).exists():
        return None
    record = read_decoded(path)
    listed_files(path)  # a damaged list is found before any work is done, not when the folder is replaced
    return Found(record, record["complete"])


def _start(path: Path, record: Record) -> None:
    write_json(path / DECODED_FILE, record)


def _compared(record: Record) -> Record:
    # The names of the files are compared too: earlier versions of this package numbered all of them.
    return {key: record.get(key) for key in ("settings", "parents", "files_sha256")}


def _own(path: Path) -> Iterator[Path]:
    images = [image for image in listed_files(path) if _is_inside(image, path)]
    yield from images
    folders = {folder for image in images for folder in image.relative_to(path).parents if folder.name}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if is_empty_folder(path / folder):
            yield path / folder
    yield from (path / FILES_FILE, path / DECODED_FILE)


def _is_inside(image: Path, folder: Path) -> bool:
    """Whether an image is in a folder, also when its parents are symbolic links."""
    return image.parent.resolve().is_relative_to(folder.resolve())


DECODED = OutputKind(
    "a folder of decoded images", _find, compared=_compared, start=_start, draft=new_path, own=_own
)


def finish_decoded(path: Path, record: Mapping[str, Any]) -> None:
    """Mark the images as complete, and remove temporary files of killed processes.

    Raises:
        OutputError: the disk is full or not writable.
    """
    with disk_errors(path):
        remove_leftovers_below(path)
    write_json(path / DECODED_FILE, {**record, "complete": True})


# --- the list of files ------------------------------------------------------------------------------


def files_table(files: Sequence[DecodedFile]) -> bytes:
    """``files.csv``: one line per image, which ``tokenize`` and other stages read as a list of images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(files)
    return text.getvalue().encode("utf-8", "surrogateescape")


def listed_files(path: Path) -> list[Path]:
    """The images of a folder of decoded images, whether they are there or not.

    Raises:
        ArtifactError: the list is damaged, or names a file outside of the folder.
    """
    listing = path / FILES_FILE
    if not listing.exists():  # an earlier version of this package numbered the images and listed none
        return sorted(path.glob("[0-9]*.png"))
    text = regular(listing, LARGEST_LIST).read_bytes().decode("utf-8", "surrogateescape")
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError) as error:
        raise ArtifactError(f"{listing} is damaged: {error}") from None
    if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ArtifactError(f"{listing} is damaged: its columns are not {','.join(COLUMNS)}")
    files = [PurePosixPath(row[0]) for row in rows]
    for file in files:
        if file.is_absolute() or ".." in file.parts or file.suffix != ".png" or "\0" in str(file):
            raise ArtifactError(
                f"{listing} is damaged: {unicode_text(str(file))!r} is not a PNG in this folder"
            )
    return [path / file for file in files]


def check_listing(path: Path) -> None:
    """Check the record and the list of a finished or unfinished folder.

    Raises:
        ArtifactError: one of them is missing or damaged, or the list has another number of images.
    """
    record = read_decoded(path)
    wanted = record.get("files_sha256")
    listing = path / FILES_FILE
    if wanted is not None and not listing.is_file():
        raise ArtifactError(f"{listing} is missing; decode again")
    if wanted is not None and sha256_bytes(listing.read_bytes()) != wanted:
        raise ArtifactError(f"{listing} is damaged: its sha256 is not {str(wanted)[:12]}… as recorded")
    found = len(listed_files(path))
    if found != record["images"]:
        raise ArtifactError(f"{path} has {found:,} images, not {record['images']:,}; decode again")


def numbered_files(rows: int, views: int) -> list[DecodedFile]:
    """Files named by their row, ``000007.png``; of several views, ``000007-0.png`` and so on."""
    names = [f"{row:06d}" for row in range(rows)]
    return [DecodedFile(name + ending, "", name) for name in names for ending in _endings(views)]


def named_files(
    names: Sequence[str], labels: Sequence[int], class_names: Sequence[str], views: int
) -> list[DecodedFile]:
    """Files named like the images that were tokenized, ``CLASS/NAME.png``, in the order of rows and views.

    An ImageFolder keeps its folders. Other images with a class get its name as their folder, those without
    one have no folder, or ``unlabeled`` where others have a class. Names never leave the folder, are never
    hidden, and are shortened where they are too long. Of two files of equal names, the later row has its
    number appended; names that differ in case only are equal, as they are on many file systems.

    Args:
        names: of the rows (N,), paths with ``/``.
        labels: class of each row, -1 for none.
        class_names: of the classes; may be empty.
        views: decoded views per row.
    """
    classes = [
        "" if label < 0 else class_names[label] if class_names else f"class {label}" for label in labels
    ]
    unlabeled = UNLABELED if any(classes) else ""
    while unlabeled and unlabeled in classes:
        unlabeled += "_"
    stems = [
        _wanted_path(row, name, kind or unlabeled)
        for row, (name, kind) in enumerate(zip(names, classes, strict=True))
    ]
    stems = _unique(stems, _endings(views))
    return [
        DecodedFile(stem + ending, unicode_text(kind), unicode_text(name))
        for stem, kind, name in zip(stems, classes, names, strict=True)
        for ending in _endings(views)
    ]


def _endings(views: int) -> list[str]:
    return [f"-{view}.png" for view in range(views)] if views > 1 else [".png"]


def _wanted_path(row: int, name: str, folder: str) -> str:
    """Path of an image without its ending, not necessarily unique.

    Args:
        row: its number, which names an image without a name.
        name: in the token file.
        folder: of its class; empty for none.
    """
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    stem = _safe(PurePosixPath(parts[-1]).stem if parts else f"{row:06d}")
    if not folder:
        return stem
    above = [_safe(part) for part in parts[:-1]]
    # The folders of a list of files are those of the machine that made it, so they are not repeated.
    if not (above and unicode_text(parts[0]) == unicode_text(folder)):
        above = [_safe(folder)]
    path = "/".join([*above, stem])
    return path if len(_bytes(path)) <= LONGEST_PATH else f"{above[0]}/{stem}"


def _safe(part: str) -> str:
    """A part of a path as the name of a file or folder that is visible and not too long."""
    part = part.replace("/", "_").replace("\0", "_") or "_"
    if part.startswith("."):  # sources of images skip hidden files
        part = "_" + part[1:]
    if part.casefold() in (DECODED_FILE, FILES_FILE):
        part += "_"
    data = _bytes(part)
    if len(data) > LONGEST_NAME:
        start = data[: LONGEST_NAME - 9].decode("utf-8", "ignore")
        return f"{start}-{hashlib.sha256(data).hexdigest()[:8]}"
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """A name as the file system has it; of a class name that is no text, its escapes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _unique(stems: Sequence[str], endings: Sequence[str]) -> list[str]:
    """The paths, with the row's number appended to those that an earlier row or a folder has."""
    keys = [unicodedata.normalize("NFC", stem).casefold() for stem in stems]
    folders = {folder for key in set(keys) for folder in _folders(key)}
    taken, seen, found = set(keys), set[str](), []
    for row, (stem, key) in enumerate(zip(stems, keys, strict=True)):
        if key in seen or any(key + ending in folders for ending in endings):
            stem, key = f"{stem}-{row:06d}", f"{key}-{row:06d}"
            while key in taken or any(key + ending in folders for ending in endings):
                stem, key = f"{stem}_", f"{key}_"
            taken.add(key)
        seen.add(key)
        found.append(stem)
    return found


def _folders(path: str) -> Iterator[str]:
    """The folders of a path, outermost first."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)
