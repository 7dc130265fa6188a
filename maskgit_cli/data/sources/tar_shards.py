"""Image source: ``.tar`` files as the WebDataset library writes them, one or many."""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
import re
import sys
import tarfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

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
from maskgit_cli.data.sources.labels import classes_of
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import regular

# What `tarfile` raises for damaged files (seen by changing their bytes at random).
TAR_ERRORS = (tarfile.TarError, ValueError, LookupError, OverflowError, EOFError, RecursionError, OSError)
# Names of members that hold the label of the image of the same name; the first that is there counts.
LABEL_ENDINGS = ("cls", "json", "txt")
# Keys of a label in a `.json`; the first that is there counts.
LABEL_KEYS = ("label", "class", "cls")
# Bytes of the member that holds a label, and characters of the label. A longer text is a caption.
LARGEST_LABEL, LONGEST_LABEL = 1 << 20, 100
# Texts are captions if there are more than so many different ones, and as many as half the images.
MANY_TEXTS = 1000
# Bytes of an extended header.
LARGEST_HEADER = 1 << 20
MOST_SHARDS = 100_000
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
BLOCK = 512
_BRACES = re.compile(r"\{([^{}]*)\}")


class ShardedImages(ArchiveImages):
    """The images of ``.tar`` files, each read from its offset.

    Args:
        shards: the files.
        places: shard, offset and size of each image, int64 (N, 3).
        arguments: of :class:`ArchiveImages`.
    """

    def __init__(self, shards: list[Path], places: np.ndarray, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.shards = shards
        self.places = places

    def location(self, index: int) -> str:
        """The shard and the name of the image in it."""
        shard, name = self.shards[self.places[index, 0]], self.names[index]
        return f"{shard}: {name.removeprefix(f'{shard.stem}/') if len(self.shards) > 1 else name}"

    @contextmanager
    def _member(self, index: int, where: str) -> Iterator[IO[bytes]]:
        shard, offset, size = map(int, self.places[index])
        try:
            with open(self.shards[shard], "rb", buffering=0) as file:
                yield io.BufferedReader(FilePart(file, offset, size))
        except OSError as error:
            raise InputError(f"{where}: {str(error.strerror or error).lower()}") from error


class _Listing:
    """The images of shards, and the texts that may be their labels."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.places = array("q")  # shard, offset and size of each image, one after the other
        self.problems: dict[int, str] = {}
        self.labels: dict[str, list[str]] = {ending: [] for ending in LABEL_ENDINGS}  # one per image

    def add(self, shard: _Shard, number: int, prefix: str) -> None:
        """Add the images of a shard."""
        whole = {_key(name) for name, *_ in shard.images if _stem(name) == _key(name)}
        seen: set[str] = set()
        for name, offset, size, problem in shard.images:
            stem, key = _stem(name), _key(name)
            if name in seen:
                problem = problem or "a second member of this name"
            elif stem != key and key in whole:  # a mask `1.seg.png` next to `1.jpg`
                problem = problem or f"a second image of the sample {key}"
            seen.add(name)
            bad = shard.bad.get(stem) or shard.bad.get(key)
            if problem or bad:
                self.problems[len(self.names)] = problem or bad or ""
            self.names.append(prefix + name)
            self.places.extend((number, offset, size))
            for ending, texts in shard.labels.items():
                self.labels[ending].append(texts.get(stem) or texts.get(key, ""))


class _Shard:
    """One shard's images and labels, in the order of its members."""

    def __init__(self) -> None:
        self.images: list[tuple[str, int, int, str | None]] = []  # name, offset, size, problem
        self.labels: dict[str, dict[str, str]] = {ending: {} for ending in LABEL_ENDINGS}
        self.bad: dict[str, str] = {}  # reasons why a sample's label cannot be read


def _stem(name: str) -> str:
    """The name without its last ending."""
    return os.path.splitext(name)[0]


def _key(name: str) -> str:
    """The name of a sample in WebDataset: up to the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def open_shards(path: Path, opening: Opening) -> ShardedImages:
    """List the images of ``.tar`` files, in the order of the files' names and of their members.

    An image's label is the member of the same name with one of the endings :data:`LABEL_ENDINGS`: a class
    index or name, in a ``.json`` under one of :data:`LABEL_KEYS`. A single file without labels may have a
    folder per class instead. Names of images begin with the shard's where there are several.

    Members that cannot be images although they are named so (links, devices, sparse files, paths outside the
    archive) are listed: reading them gives the reason.

    Args:
        path: a file, a folder of files, a pattern ``shard-*.tar``, or a list ``shard-{000..012}.tar``.
        opening: the reporter.

    Raises:
        InputError: a file is missing, damaged, truncated or compressed, or there is no image.
    """
    shards = shard_paths(path)
    images = _Listing()
    with listing(path, opening.reporter) as found:
        for number, file in enumerate(shards):
            images.add(_scan(file, found), number, f"{file.stem}/" if len(shards) > 1 else "")
    if not images.names:
        raise InputError(f"{path}: no images found (recognized extensions: {ENDINGS})")
    places = np.frombuffer(images.places, np.int64).reshape(-1, 3)
    labels, class_names = _classes(path, images, len(shards) == 1, opening)
    origin = Origin(path, "images")
    return ShardedImages(shards, places, origin, images.names, images.problems, labels, class_names)


def _classes(
    path: Path, images: _Listing, single: bool, opening: Opening
) -> tuple[np.ndarray | None, list[str]]:
    """Class indices int32 (N,) and names of classes."""
    by_ending = [images.labels[ending] for ending in LABEL_ENDINGS]
    if _are_captions(images.labels["txt"]):
        opening.reporter.warn(f"{path}: its .txt members are captions rather than classes, and are not used")
        by_ending[LABEL_ENDINGS.index("txt")] = [""] * len(images.names)
    labels = [next(filter(None, texts), "") for texts in zip(*by_ending, strict=True)]
    if any(labels) or not single:
        return classes_of(path, labels)
    root = shared_folder(images.names)
    return folder_classes(path, [name.removeprefix(root) for name in images.names])


def _are_captions(texts: list[str]) -> bool:
    """Whether texts describe images rather than name their classes."""
    different = set(texts)
    long = any(len(text) > LONGEST_LABEL or "\n" in text for text in different)
    return long or len(different) > max(MANY_TEXTS, len(texts) // 2)


# --- which files ------------------------------------------------------------------------------------


def shard_paths(path: Path) -> list[Path]:
    """The files that a path, a folder, a pattern or a list in braces names.

    Raises:
        InputError: there is none, or there are too many.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if _is_shard(file.name))
    if path.exists():
        return [path]
    found: list[Path] = []
    for text in itertools.islice(_expanded(str(path)), MOST_SHARDS + 1):
        matches = sorted(glob.glob(text)) if glob.has_magic(text) else [text]
        if not matches:
            raise InputError(f"{text}: no file matches")
        found += map(Path, matches)
    found = list(dict.fromkeys(found))
    if len(found) > MOST_SHARDS:
        raise InputError(f"{path}: names more than {MOST_SHARDS:,} files")
    return found


def _expanded(text: str) -> Iterator[str]:
    """The texts that braces stand for, as in a shell: ``{a,b}``, and ``{08..12}`` with leading zeros."""
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    bounds = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", match[1])
    items: Iterator[str] = iter(match[1].split(","))
    if bounds:
        width = max(map(len, bounds.groups())) if any(b.startswith("0") for b in bounds.groups()) else 0
        items = (f"{number:0{width}d}" for number in range(int(bounds[1]), int(bounds[2]) + 1))
    for item in items:
        yield from _expanded(text[: match.start()] + item + text[match.end() :])


def _is_shard(name: str) -> bool:
    return name.lower().endswith((".tar", *COMPRESSED)) and not name.startswith(".")


def holds_shards(path: Path) -> bool:
    """Whether a folder has shards directly in it, and neither images nor folders."""
    try:
        with os.scandir(path) as entries:
            shards = 0
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_image_name(entry.name) or entry.is_dir():
                    return False
                shards += _is_shard(entry.name)
    except OSError:
        return False  # the folder's own source reports it
    return shards > 0


def names_shards(path: Path) -> bool:
    """Whether a path is a shard, a folder of shards, or a pattern or list of shards."""
    if path.is_dir():
        return holds_shards(path)
    return _is_shard(path.name) and (path.exists() or glob.has_magic(str(path)) or "{" in str(path))


# --- reading a shard --------------------------------------------------------------------------------


class _BoundedReads(io.RawIOBase):
    """A file of which at most ``limit`` bytes are read at once, so that no header can claim all memory.

    Args:
        file: an open file.
        limit: in bytes.

    Raises:
        ValueError: more is asked for.
    """

    def __init__(self, file: io.BufferedReader, limit: int) -> None:
        self._file, self._limit = file, limit

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See :meth:`io.IOBase.seek`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See :meth:`io.IOBase.tell`."""
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        """See :meth:`io.RawIOBase.read`."""
        data = self._file.read(self._limit + 1 if size is None or size < 0 else min(size, self._limit + 1))
        if len(data) > self._limit:
            raise ValueError(f"a header has more than {self._limit:,} bytes")
        return data


def _scan(path: Path, found: Callable[[int], None]) -> _Shard:
    """List a shard.

    Raises:
        InputError: it is missing, damaged, truncated or compressed.
    """
    if path.name.lower().endswith(COMPRESSED):
        raise InputError(
            f"{path}: a compressed tar, in which no image can be found by its offset; decompress it first"
        )
    shard, where = _Shard(), "at its beginning"
    try:
        with regular(path).open("rb") as file:
            reads = cast(IO[bytes], _BoundedReads(file, LARGEST_HEADER))
            with tarfile.open(fileobj=reads, mode="r:") as archive:
                end = 0
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it keeps all that it has seen
                    if member.offset < end:
                        raise tarfile.ReadError("a member that begins inside another")
                    end, where = archive.offset, f"after {member.name[:200]!r}"
                    found(1)
                    _add(shard, member, file)
                _check_end(file, archive.offset)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except TAR_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: damaged or truncated {where} ({reason})") from error
    return shard


def _check_end(file: io.BufferedReader, offset: int) -> None:
    """Check that an archive ends where :mod:`tarfile` stopped, as it stops at any damaged header in silence.

    Raises:
        tarfile.ReadError: something else is there.
    """
    file.seek(offset)
    if file.read(BLOCK).strip(b"\0"):
        raise tarfile.ReadError("a damaged header")


def _add(shard: _Shard, member: tarfile.TarInfo, file: io.BufferedReader) -> None:
    """Add a member if it is an image or a label."""
    name = plain_name(member.name)
    if member.isdir() or is_hidden(name):
        return
    ending = name.rpartition(".")[2].lower()
    if is_image_name(name):
        shard.images.append((name, member.offset_data, member.size, _problem(member, name)))
    elif ending in LABEL_ENDINGS and member.isreg() and not member.issparse():
        try:
            text = _label(ending, file, member)
        except ValueError as error:
            reason = " ".join(str(error).split())
            shard.bad[_stem(name)] = f"its label, {os.path.basename(name)}, cannot be read ({reason})"
        else:
            if text:
                shard.labels[ending][_stem(name)] = sys.intern(text)  # most labels are there many times


def _problem(member: tarfile.TarInfo, name: str) -> str | None:
    """The reason why a member is not read as an image."""
    if is_unsafe(name):
        return UNSAFE
    if not member.isreg() or member.issparse():
        return "a link, device or sparse file in the archive"
    if member.size > LARGEST_MEMBER:
        return f"{member.size:,} bytes; at most {LARGEST_MEMBER:,} are read"
    return None


def _label(ending: str, file: io.BufferedReader, member: tarfile.TarInfo) -> str:
    """The label in a member; "" for none. Of a caption it is the beginning.

    Raises:
        ValueError: it is no label.
    """
    if member.size > LARGEST_LABEL and ending != "txt":
        raise ValueError(f"{member.size:,} bytes")
    file.seek(member.offset_data)
    data = file.read(min(member.size, LARGEST_LABEL))
    if ending == "txt":
        return data.decode("utf-8-sig", "replace").strip()[: LONGEST_LABEL + 1]
    text = data.decode("utf-8-sig").strip()
    if ending == "json":
        text = _json_label(text)
    if len(text) > LONGEST_LABEL or "\n" in text:
        raise ValueError("longer than the name of a class")
    return text


def _json_label(text: str) -> str:
    """The label of an object, which may have none.

    Raises:
        ValueError: the text is no JSON object, or its label is neither text nor a whole number.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    label = next((value[key] for key in LABEL_KEYS if value.get(key) is not None), "")
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise ValueError("its label is neither text nor a whole number")
    return str(label).strip()


SOURCE = SourceKind("WebDataset .tar shards", names_shards, open_shards)
