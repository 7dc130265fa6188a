"""Archives of arrays (``.npz``), read without objects and within the memory that their size explains.

A header of a few bytes can ask for any amount of memory, so each is compared with the size of its member, and
that with the size of the archive, before an array is read.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import regular

# What reading a damaged archive raises. Zip files of unknown versions raise NotImplementedError, encrypted
# ones RuntimeError, and headers of arrays, which are Python's literals, the other two.
NPZ_ERRORS = (
    *(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, SyntaxError, tokenize.TokenError),
)
# Deflate packs 258 bytes into 2 bits at best.
DEFLATE_RATIO = 1032
# Bytes of an array that is read whole, per byte of the archive, beyond those that any archive may have:
# numbers that networks compute hardly shrink.
WHOLE_RATIO, WHOLE_BYTES = 20, 1 << 28


class Header(NamedTuple):
    """What an array's header says.

    Attributes:
        shape: of the array.
        fortran: whether its first axis varies fastest.
        dtype: of its entries.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]

    @property
    def bytes(self) -> int:
        """Bytes of the entries."""
        return math.prod(self.shape) * self.dtype.itemsize


def npz_reason(error: BaseException) -> str:
    """Why an archive cannot be read, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an ``.npz``, without reading them.

    Raises:
        InputError: the file is missing or is not an ``.npz``.
    """
    regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except NPZ_ERRORS as error:
        raise InputError(f"{path}: not a readable .npz ({npz_reason(error)})") from error


def open_array(path: Path, name: str) -> tuple[IO[bytes], Header]:
    """The bytes of an array from its first entry on, and its header, which agrees with the file's size.

    Raises:
        One of :data:`NPZ_ERRORS`: the archive is damaged, or the array holds objects.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        _check_member(member, size)
        stream = archive.open(member)  # stays open by itself
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has version {version[0]}.{version[1]} of the .npy format")
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    header = Header(*(one if version == (1, 0) else two)(stream))
    if header.dtype.hasobject:
        raise ValueError(f"{name} holds objects, which are not read")
    if min(header.shape, default=0) < 0 or stream.tell() + header.bytes != member.file_size:
        raise ValueError(f"{name} does not have the bytes of {header.dtype} {header.shape}")
    return stream, header


def _check_member(member: zipfile.ZipInfo, size: int) -> None:
    """Check a member's sizes against those of the archive."""
    packed, name = member.compress_size, member.filename
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed by method {member.compress_type}, which NumPy does not use")
    largest = packed if member.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO * packed
    if packed > size or member.file_size > largest:
        raise ValueError(f"{name} is said to have {member.file_size:,} bytes, more than the file holds")


def read_array(path: Path, name: str) -> np.ndarray:
    """An array, read whole.

    Raises:
        As :func:`open_array`; also ValueError for an array that is far larger than the file.
    """
    stream, header = open_array(path, name)
    stream.close()
    if header.bytes > WHOLE_BYTES + WHOLE_RATIO * path.stat().st_size:
        raise ValueError(f"{name} has {header.bytes:,} bytes, far more than the file")
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
