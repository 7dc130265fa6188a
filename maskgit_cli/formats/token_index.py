"""The index of a token file: where its datasets are, its metadata, and digests of all its bytes.

HDF5 allows a block of the user's own in front of a file (the user block, which HDF5 tools skip). That of a
token file is the index: one line with format, version, length and sha256 of the JSON object that follows it.

This package reads token files by their index alone and never gives one to libhdf5, which loops without end
over some damaged headers and follows links to other files. To HDF5 tools the file is an ordinary one, with
the same metadata as attributes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import LARGEST_RECORD, regular, sha256_bytes
from maskgit_cli.formats.in_place import write_at
from maskgit_cli.formats.json_text import parse_json

TOKENS_FORMAT, TOKENS_VERSION = "maskgit-tokens", 2

# Files are hashed and copied this many bytes at a time, so that none has to fit into memory.
CHUNK_BYTES = 16 * 2**20
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_LINE = re.compile(rb"maskgit-tokens (\d{1,9}) (\d{10}) ([0-9a-f]{64})\n")
_FIRST_LINE_BYTES = 110  # at most
_SMALLEST_BLOCK = 512  # of a user block in HDF5; its size is a power of two
_KEYS = {"complete": bool, "bytes": int, "metadata_sha256": str, "attributes": dict, "datasets": dict}
_DIGEST = re.compile("[0-9a-f]{64}")


class Extent(NamedTuple):
    """A contiguous dataset in a file.

    Attributes:
        offset: in bytes, of its first value from the beginning of the file; 0 before there is a file.
        dtype: of its values.
        shape: rows first.
        sha256: of its bytes; None where the digest of the metadata covers them, or of an unfinished file.
    """

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    sha256: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def map(self, path: Path) -> np.memmap:
        """The values, a read-only memory map."""
        return np.memmap(path, self.dtype, "r", self.offset, self.shape)

    def read(self, path: Path) -> np.ndarray:
        """The values, in memory."""
        count = math.prod(self.shape)
        return np.fromfile(path, self.dtype, count, offset=self.offset).reshape(self.shape)


class TokenIndex(NamedTuple):
    """What the index of a token file contains.

    Attributes:
        complete: whether every row has tokens.
        attributes: the metadata, as JSON values.
        datasets: by their names.
    """

    complete: bool
    attributes: dict[str, Any]
    datasets: dict[str, Extent]

    def those(self, names: Iterable[str]) -> dict[str, Extent]:
        """The datasets of these names, as far as there are any."""
        return {name: self.datasets[name] for name in names if name in self.datasets}


# --- writing ----------------------------------------------------------------------------------------


def block_size(attributes: Mapping[str, Any], datasets: Mapping[str, Extent]) -> int:
    """Bytes of the user block that holds the index of such a file, whatever offsets and digests will be."""
    longest = {name: extent._replace(offset=2**62, sha256="0" * 64) for name, extent in datasets.items()}
    needed = len(_encoded(TokenIndex(False, dict(attributes), longest), 2**62, "0" * 64))
    return max(_SMALLEST_BLOCK, 1 << (needed - 1).bit_length())


def write_index(path: Path, index: TokenIndex, outside: Iterable[str]) -> None:
    """Write the index into the user block of a file that is otherwise complete.

    Args:
        path: the file.
        index: its index.
        outside: names of the datasets that the digest of the metadata does not cover.

    Raises:
        OSError: the disk is full or not writable.
    """
    size = path.stat().st_size
    start = len(_encoded(index, size, "0" * 64))
    digest = _sha256_outside(path, start, size, index.those(outside).values())
    with path.open("r+b") as file:
        write_at(file.fileno(), _encoded(index, size, digest), 0)


def _encoded(index: TokenIndex, size: int, metadata_sha256: str) -> bytes:
    datasets = {
        name: {"offset": extent.offset, "dtype": extent.dtype.str, "shape": extent.shape}
        | ({"sha256": extent.sha256} if extent.sha256 else {})
        for name, extent in index.datasets.items()
    }
    values = {
        "complete": index.complete,
        "bytes": size,
        "metadata_sha256": metadata_sha256,
        "attributes": index.attributes,
        "datasets": datasets,
    }
    text = (json.dumps(values, ensure_ascii=False) + "\n").encode()
    first = f"{TOKENS_FORMAT} {TOKENS_VERSION} {len(text):010d} {sha256_bytes(text)}\n"
    return first.encode() + text


# --- reading ----------------------------------------------------------------------------------------


def is_token_file(path: Path) -> bool:
    """Whether a path is a regular file that begins as a token file of any version does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.read(_FIRST_LINE_BYTES)
    return first.startswith((f"{TOKENS_FORMAT} ".encode(), _HDF5_SIGNATURE))


def read_index(path: Path, outside: Iterable[str]) -> TokenIndex:
    """Read the index of a token file, and check the metadata against their digest.

    Args:
        path: the file.
        outside: names of the datasets that the digest of the metadata does not cover.

    Raises:
        ArtifactError: the file cannot be read, is no token file, is damaged, or of another version.
    """
    try:
        with regular(path).open("rb") as file:
            first = file.read(_FIRST_LINE_BYTES)
            line = _FIRST_LINE.match(first)
            _check_first_line(path, first, line)
            assert line is not None
            length = int(line[2])
            if length > LARGEST_RECORD:
                raise ArtifactError(f"{path} is damaged: its index would have {length:,} bytes")
            file.seek(line.end())
            text = file.read(length)
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise ArtifactError(f"no token file at {path}: it does not exist") from None
    except PermissionError:
        raise ArtifactError(f"{path} cannot be read: no permission; change that first") from None
    except (OSError, InputError) as error:
        raise ArtifactError(f"{path} is not a token file ({error})") from None
    if len(text) < length:
        raise _damaged(path, "it ends within its index", "truncated or damaged")
    if sha256_bytes(text) != line[3].decode():
        raise _damaged(path, "its index does not match its digest")
    return _checked(path, parse_json(text, path), line.end() + length, size, outside)


def _check_first_line(path: Path, first: bytes, line: re.Match[bytes] | None) -> None:
    again = "write it again with the command that made it, and --overwrite"
    if first.startswith(_HDF5_SIGNATURE):
        raise ArtifactError(
            f"{path} is HDF5 without an index, as version 1 of {TOKENS_FORMAT} was; this package reads "
            f"version {TOKENS_VERSION}; {again}"
        )
    if line is None and first.startswith(f"{TOKENS_FORMAT} ".encode()):
        raise _damaged(path, "its first line is not that of a token file")
    if line is None:
        raise ArtifactError(f"{path} is not a token file; `maskgit tokenize` writes one")
    if int(line[1]) != TOKENS_VERSION:
        raise ArtifactError(
            f"{path} has version {int(line[1])} of {TOKENS_FORMAT}; this package reads version "
            f"{TOKENS_VERSION}; {again}"
        )


def _checked(
    path: Path, values: Mapping[str, Any], start: int, size: int, outside: Iterable[str]
) -> TokenIndex:
    """The index in a JSON object, after all checks that need no knowledge of what tokens are."""
    for key, kind in _KEYS.items():
        if type(values.get(key)) is not kind:
            raise _damaged(path, f"its index has no {key}")
    if values["bytes"] != size:
        raise _damaged(path, f"it has {size:,} bytes, not {values['bytes']:,}", "truncated or damaged")
    datasets = {name: _extent(path, name, value) for name, value in values["datasets"].items()}
    last = start
    for name, extent in sorted(datasets.items(), key=lambda item: item[1].offset):
        if extent.nbytes and not last <= extent.offset <= size - extent.nbytes:
            raise _damaged(path, f"its {name} are not where they can be")
        last = max(last, extent.offset + extent.nbytes)
    index = TokenIndex(values["complete"], values["attributes"], datasets)
    found = _sha256_outside(path, start, size, index.those(outside).values())
    if found != values["metadata_sha256"]:
        raise _damaged(path, "its metadata do not match their digest")
    return index


def _extent(path: Path, name: str, value: Any) -> Extent:
    """A dataset in the index, if it can be one."""
    problem = _damaged(path, f"its index says nothing usable about {name}")
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        raise problem
    numbers = [value.get("offset"), *value["shape"]]
    # Larger numbers are no place in a file, and products of them would take long.
    if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers) or len(numbers) > 6:
        raise problem
    digest = value.get("sha256")
    if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise problem
    if not re.fullmatch(r"<u2|<u4|<i4|<f4|\|u1|\|b1|\|S[1-9]\d{0,5}", str(value.get("dtype"))):
        raise problem
    return Extent(numbers[0], np.dtype(value["dtype"]), tuple(value["shape"]), digest)


def _damaged(path: Path, what: str, how: str = "damaged") -> ArtifactError:
    return ArtifactError(f"{path} is {how}: {what}; write it again")


# --- digests ----------------------------------------------------------------------------------------


def pieces(path: Path, start: int, stop: int) -> Iterator[memoryview]:
    """The bytes ``start`` to ``stop`` of a file, in pieces of at most :data:`CHUNK_BYTES`.

    Each piece is valid until the next one is asked for.
    """
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(stop - start, 1))))
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            count = file.readinto(buffer[: min(len(buffer), stop - start)])
            if not count:
                return
            yield buffer[:count]
            start += count


def _sha256_outside(path: Path, start: int, size: int, extents: Iterable[Extent]) -> str:
    """Hexadecimal sha256 of the bytes of a file from ``start``, those in ``extents`` left out."""
    digest = hashlib.sha256()
    for extent in sorted((e for e in extents if e.nbytes), key=lambda extent: extent.offset):
        for piece in pieces(path, start, extent.offset):
            digest.update(piece)
        start = extent.offset + extent.nbytes
    for piece in pieces(path, start, size):
        digest.update(piece)
    return digest.hexdigest()
