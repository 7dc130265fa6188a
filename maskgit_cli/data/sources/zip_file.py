"""Image source: a ``.zip`` of images, flat or with a folder per class."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from maskgit_cli.data.sources.archives import (
    LARGEST_MEMBER,
    UNSAFE,
    ArchiveImages,
    FilePart,
    folder_classes,
    is_hidden,
    is_unsafe,
    plain_name,
    shared_folder,
)
from maskgit_cli.data.sources.base import ENDINGS, Opening, Origin, SourceKind, is_image_name, listing
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import regular

# What `zipfile` and zlib raise for damaged members (seen by changing their bytes at random).
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
    EOFError,
    OSError,
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Up to this size a member is decompressed into memory, in which seeking is quick.
IN_MEMORY = 1 << 26
# Members that are counted at a time.
COUNTED = 1000

# The format is that of PKWARE's APPNOTE 6.3.10; numbers of its sections are in brackets.
# Local header [4.3.7]: signature, lengths of the name and of the extra fields.
LOCAL = struct.Struct("<4s22xHH")
# Entry of the table of contents [4.3.12]: signature, flags, method, CRC-32, stored size, size, lengths of
# name, extra fields and comment, attributes, offset of the local header.
ENTRY = struct.Struct("<4s4xHH4xIIIHHH4xII")
# End of the table [4.3.16]: signature, entries, size and offset of the table.
END = struct.Struct("<4s6xHII2x")
LONGEST_COMMENT = 2**16
# Where the 64-bit end is [4.3.15], and that end [4.3.14]: signature, entries, size and offset of the table.
LOCATOR, END64 = struct.Struct("<4s4xQ4x"), struct.Struct("<4s28xQQQ")
UTF8 = 1 << 11  # flags [4.4.4]
ENCRYPTED = 1


class _Entry(NamedTuple):
    """A member as the table of contents has it."""

    name: str
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    attributes: int
    offset: int


class ZippedImages(ArchiveImages):
    """The images of a ``.zip``.

    Args:
        places: offset of the local header, stored size, size, CRC-32 and method of each image, int64 (N, 5).
        arguments: of :class:`ArchiveImages`.
    """

    def __init__(self, places: np.ndarray, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.places = places

    @contextmanager
    def _member(self, index: int, where: str) -> Iterator[IO[bytes]]:
        offset, stored, size, crc, method = map(int, self.places[index])
        info = zipfile.ZipInfo(self.names[index])
        info.compress_type, info.CRC, info.compress_size, info.file_size = method, crc, stored, size
        try:
            with open(self.origin.path, "rb", buffering=0) as file:
                file.seek(offset)
                signature, *lengths = LOCAL.unpack(file.read(LOCAL.size))
                if signature != b"PK\3\4":
                    raise zipfile.BadZipFile("no member is where the table of contents says")
                data = FilePart(file, offset + LOCAL.size + sum(lengths), stored)
                member = zipfile.ZipExtFile(io.BufferedReader(data), "r", info)
                yield io.BytesIO(member.read()) if size <= IN_MEMORY else cast(IO[bytes], member)
        except InputError:
            raise
        except ZIP_ERRORS as error:
            raise InputError(f"{where}: damaged ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def open_zip(path: Path, opening: Opening) -> ZippedImages:
    """List the images of a ``.zip``, in the order of their names.

    Folders that all images share are left out; of Kaggle's ImageNet, only the training images are listed.
    Members that cannot be images although they are named so (links, encrypted ones, paths outside the
    archive) are listed: reading them gives the reason.

    Raises:
        InputError: the file is no zip, is damaged or truncated, has no image, or its folders are not classes.
    """
    with listing(path, opening.reporter) as found:
        names, places, problems = _images(path, found)
    root = shared_folder(names)
    within = [i for i, name in enumerate(names) if name.startswith(root) or is_unsafe(name)]
    if not within:
        raise InputError(f"{path}: no images found (recognized extensions: {ENDINGS})")
    skipped = {new: problems[old] for new, old in enumerate(within) if old in problems}
    kept = [names[i].removeprefix(root) for i in within]
    names.clear()
    labels, class_names = folder_classes(path, kept)
    return ZippedImages(places[within], Origin(path, "images"), kept, skipped, labels, class_names)


def _images(path: Path, found: Callable[[int], None]) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """The members that are named like images, in the order of their names.

    Returns:
        Names of N images, their places int64 (N, 5), and reasons why some are not read.
    """
    names: list[str] = []
    places = array("q")
    reasons: dict[int, str] = {}
    try:
        with regular(path).open("rb") as file:
            for count, entry in enumerate(_entries(file), 1):
                if count % COUNTED == 0:
                    found(COUNTED)
                name = plain_name(entry.name)
                if not is_image_name(name) or is_hidden(name):
                    continue
                problem = _problem(entry, name)
                if problem:
                    reasons[len(names)] = problem
                names.append(name)
                places.extend((entry.offset, entry.stored, entry.size, entry.crc, entry.method))
    except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, OSError) as error:
        raise InputError(f"{path}: not a readable zip ({_reason(error)})") from error
    order = sorted(range(len(names)), key=names.__getitem__)
    problems = {new: reasons[old] for new, old in enumerate(order) if old in reasons}
    in_order = [names[i] for i in order]
    for i in range(1, len(in_order)):
        if in_order[i] == in_order[i - 1]:
            problems.setdefault(i, "a second member of this name")
    return in_order, np.frombuffer(places, np.int64).reshape(-1, 5)[order], problems


def _entries(file: io.BufferedReader) -> Iterator[_Entry]:
    """The members in the order of the table of contents.

    `zipfile` would make an object of 600 bytes of each before it shows the first one.

    Raises:
        zipfile.BadZipFile, struct.error: the file is no zip, or is damaged or truncated.
    """
    start, size, count, shift = _table(file)
    file.seek(start)
    read = 0
    while read < size:
        data = file.read(ENTRY.size)
        signature, flags, method, crc, stored, whole, *lengths, attributes, offset = ENTRY.unpack(data)
        if signature != b"PK\1\2":
            raise zipfile.BadZipFile("its table of contents is damaged")
        name, extra, comment = map(file.read, lengths)
        read += ENTRY.size + len(name) + len(extra) + len(comment)
        whole, stored, offset = _in_64_bits(extra, (whole, stored, offset))
        text = name.decode("utf-8" if flags & UTF8 else "cp437", "replace")
        yield _Entry(text, flags, method, crc, stored, whole, attributes, offset + shift)
        count -= 1
    if count % 2**16:  # some programs write the last 16 bits of larger numbers
        raise zipfile.BadZipFile("its table of contents is damaged")


def _table(file: io.BufferedReader) -> tuple[int, int, int, int]:
    """Position, size and entries of the table of contents, and how far all offsets are shifted.

    They are where data precedes the zip, as in a program that extracts itself.
    """
    length = file.seek(0, os.SEEK_END)
    first = max(0, length - END.size - LONGEST_COMMENT)
    file.seek(first)
    tail = file.read()
    found = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - END.size + 4))
    if found < 0:
        raise zipfile.BadZipFile("it has no table of contents; a download may have been cut off")
    end = first + found
    _, count, size, offset = END.unpack_from(tail, found)
    file.seek(max(0, end - LOCATOR.size))
    signature, end64 = LOCATOR.unpack(file.read(LOCATOR.size)) if end >= LOCATOR.size else (b"", 0)
    if signature == b"PK\6\7":
        file.seek(end64)
        signature, count, size, offset = END64.unpack(file.read(END64.size))
        if signature != b"PK\6\6":
            raise zipfile.BadZipFile("the end of its table of contents is damaged")
        end = end64
    if end - size < offset:
        raise zipfile.BadZipFile("its table of contents is cut off")
    return end - size, size, count, end - size - offset


def _in_64_bits(extra: bytes, values: tuple[int, ...]) -> Sequence[int]:
    """Sizes and offset, those that do not fit into 32 bits from the extra fields [4.5.3]."""
    if 2**32 - 1 not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            large = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            return [next(large, value) if value == 2**32 - 1 else value for value in values]
        position += 4 + length
    return values


def _problem(entry: _Entry, name: str) -> str | None:
    """The reason why a member is not read as an image."""
    if is_unsafe(name):
        return UNSAFE
    kind = stat.S_IFMT(entry.attributes >> 16)
    if kind not in (0, stat.S_IFREG):
        return "a link or device, not a file"
    if entry.flags & ENCRYPTED:
        return "encrypted; extract it with its password"
    if entry.method not in METHODS:
        return f"compressed by method {entry.method}; only stored and deflated members are read"
    if entry.size > LARGEST_MEMBER:
        return f"{entry.size:,} bytes; at most {LARGEST_MEMBER:,} are read"
    return None


def is_zip(path: Path) -> bool:
    """Whether a path is named like a ``.zip`` and is no folder."""
    return path.suffix.lower() == ".zip" and path.exists() and not path.is_dir()


SOURCE = SourceKind("a .zip of images", is_zip, open_zip)
