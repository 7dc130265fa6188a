"""PyTorch's checkpoint files (.pth, .pt, .ckpt): a pickle, and the numbers of its tensors.

Tensors are views of the mapped file: reading takes no memory of its own until they are used, and what
was used can be forgotten again.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from maskgit_cli.errors import InputError
from maskgit_cli.weights.mapped_file import Checkpoint, MappedFile
from maskgit_cli.weights.unpickling import Placeholder, Refused, Storage, load_pickle, whole_numbers

# What a pickle calls the type of a storage, after ``torch.``, and the numbers in it.
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What the pickles before PyTorch 1.6 begin with, a number and the version of the format.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a PyTorch checkpoint; nothing in it is run.

    Returns:
        Tensors on the CPU, plain containers, numbers and text, and a
        :class:`~maskgit_cli.weights.unpickling.Placeholder` for everything else.

    Raises:
        InputError: the file is missing, damaged, or no checkpoint of PyTorch.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(64)
        if begin.startswith(b"PK"):
            mapped = MappedFile(path)
            return Checkpoint(_read_zip(path, mapped), mapped.forget)
        if begin.startswith(b"\x80"):
            mapped = MappedFile(path)
            return Checkpoint(_read_legacy(path, mapped), mapped.forget)
    except Refused as reason:
        raise InputError(f"{path} cannot be read as a checkpoint of PyTorch: {reason}") from None
    except zipfile.BadZipFile:  # a zip's directory stands at its end
        raise InputError(
            f"{path} cannot be read as a checkpoint of PyTorch: it is cut short or damaged"
        ) from None
    except (OSError, ValueError, NotImplementedError, struct.error) as error:
        raise InputError(f"{path} cannot be read as a checkpoint of PyTorch: {error}") from None
    raise InputError(f"{path} is no checkpoint of PyTorch")


def _read_zip(path: Path, mapped: MappedFile) -> Any:
    """A checkpoint of PyTorch 1.6 or newer: a zip of a pickle and the numbers of each storage."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"it is a zip file with {len(pickles) or 'no'} data.pkl inside")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and _stored(file, entries[f"{folder}byteorder"])[:6] != b"little":
            raise Refused("it was written on a big-endian machine")

        def find(identifier: Any) -> Storage:
            """The numbers of a storage, a view of the mapped file; None for a type that is not read."""
            dtype, key, count, view = _described(identifier)
            if dtype is None:
                return Storage(None)
            entry = entries.get(f"{folder}data/{key}")
            if entry is None or view is not None:
                raise Refused(f"the numbers of storage {key!r} are missing")
            if count * dtype.itemsize > entry.file_size:
                raise Refused(f"the numbers of storage {key!r} are cut short")
            return Storage(_numbers(mapped, _start(file, entry), count, dtype))

        return load_pickle(io.BytesIO(_stored(file, entries[pickles[0]])), find)


def _start(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a zip's entry begin."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise Refused(f"{entry.filename} inside is compressed, which PyTorch never does")
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise Refused(f"{entry.filename} inside is not where it should be")
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name + extra


def _stored(file: IO[bytes], entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a zip's entry."""
    file.seek(_start(file, entry))
    return file.read(entry.file_size)


def _read_legacy(path: Path, mapped: MappedFile) -> Any:
    """A checkpoint of PyTorch before 1.6: pickles one after the other, then the numbers.

    Where the numbers stand is known only when the pickles have been read, so the main one is read
    twice: to learn of its storages, and again to build what it holds.
    """

    def none(identifier: Any) -> Storage:
        """Of the pickles before and after the main one: they have no storages."""
        raise Refused("it refers to a storage where it has none")

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickles:
        stream: Any = pickles
        if load_pickle(stream, none) != _LEGACY_MAGIC or load_pickle(stream, none) != _LEGACY_VERSION:
            raise Refused("it is a pickle, but not one of PyTorch's")
        system = load_pickle(stream, none)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused("it was written on a big-endian machine")
        begin = stream.tell()
        known: dict[str, tuple[torch.dtype, int]] = {}

        def learn(identifier: Any) -> Storage:
            """Note the type and size of a storage; its numbers can wait."""
            dtype, key, count, _ = _described(identifier)
            if dtype is None:
                raise Refused(f"it holds numbers of type {identifier[1].name!r}, which are not read here")
            known[key] = (dtype, count)
            return Storage(None)

        load_pickle(stream, learn)
        keys = load_pickle(stream, none)
        storages = dict(_legacy_storages(mapped, stream, keys, known))

        def find(identifier: Any) -> Storage:
            """The numbers of a storage, or of the part of it that is meant."""
            dtype, key, count, view = _described(identifier)
            if key not in storages or (dtype, count) != known[key]:
                raise Refused(f"the numbers of storage {key!r} are missing")
            return Storage(_part(storages[key], view))

        stream.seek(begin)
        return load_pickle(stream, find)


def _legacy_storages(
    mapped: MappedFile, stream: IO[bytes], keys: Any, known: dict[str, tuple[torch.dtype, int]]
) -> Iterator[tuple[str, Tensor]]:
    """Names and numbers of the storages that stand after the pickles, each behind its length."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in known for key in keys):
        raise Refused("its list of storages is damaged")
    for key in keys:
        dtype, count = known[key]
        if stream.read(8) != struct.pack("<q", count):
            raise Refused(f"the numbers of storage {key!r} are cut short")
        yield key, _numbers(mapped, stream.tell(), count, dtype)
        stream.seek(count * dtype.itemsize, io.SEEK_CUR)


def _part(numbers: Tensor, view: Any) -> Tensor:
    """The part of a storage that the view in a legacy persistent id means."""
    if view is None:
        return numbers
    if not isinstance(view, tuple) or len(view) != 3:
        raise Refused("a view of a storage is damaged")
    start, count = whole_numbers(view[1:])
    if start + count > len(numbers):
        raise Refused("a view of a storage reaches beyond it")
    return numbers[start : start + count]


def _numbers(mapped: MappedFile, start: int, count: int, dtype: torch.dtype) -> Tensor:
    """``count`` numbers from byte ``start``: a view where they stand at a multiple of their size."""
    end = start + count * dtype.itemsize
    if end > len(mapped):
        raise Refused("its numbers are cut short")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    part = mapped.bytes[start:end]
    return (part if start % dtype.itemsize == 0 else part.clone()).view(dtype)


def _described(identifier: Any) -> tuple[torch.dtype | None, str, int, Any]:
    """Type of the numbers (None for one not read here), key, count and view of a storage."""
    parts = identifier if isinstance(identifier, tuple) else ()
    if len(parts) not in (5, 6) or parts[0] != "storage" or not isinstance(parts[1], Placeholder):
        raise Refused("it refers to something outside that is no storage")
    kind, key, count = parts[1].name.removeprefix("torch."), parts[2], parts[4]
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise Refused("a storage has no name or no size")
    return _STORAGES.get(kind), key, count, parts[5] if len(parts) == 6 else None
