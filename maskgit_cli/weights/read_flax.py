"""Reads flax's msgpack files without flax or jax: nested dicts of arrays, which hold no code.

An array is an extension of type 1: itself a msgpack list of shape, type name and bytes. Only where these
stand is read; the numbers stay in the file until they are wanted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import torch
from torch import Tensor

from maskgit_cli.errors import InputError
from maskgit_cli.weights.mapped_file import Checkpoint, MappedFile

ARRAY, SCALAR = 1, 3  # flax's codes; 2 is a complex number, which no network here has
_TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint32": torch.uint32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
# First bytes of msgpack's extensions, of bytes and of short maps, with the width of the length after them.
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD4: 0, 0xD5: 0, 0xD6: 0, 0xD7: 0, 0xD8: 0}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}
# More bytes than an array's shape and type take, and deeper than any network is nested.
_PREFIX, _DEPTH = 1024, 32


class PackedArray(NamedTuple):
    """An array that is still in its file.

    Attributes:
        numbers: its bytes, a view of the mapped file.
        dtype: of its numbers.
        shape: of the array.
    """

    numbers: Tensor
    dtype: torch.dtype
    shape: tuple[int, ...]

    def load(self) -> Tensor:
        """A copy in memory: in the file, numbers stand at any byte, which no tensor may."""
        return self.numbers.clone().view(self.dtype).reshape(self.shape)


def read_flax(path: Path) -> Checkpoint:
    """Read a msgpack file that ``flax.serialization`` wrote.

    Returns:
        Nested dicts whose leaves are :class:`PackedArray`, numbers or text.

    Raises:
        InputError: the file is missing, damaged, or no msgpack file.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise ValueError("it is empty")
        mapped = MappedFile(path)
        with open(path, "rb") as file:
            unpacker = msgpack.Unpacker(file, max_buffer_size=size)
            value = _value(unpacker, mapped, _DEPTH)
            if unpacker.tell() != size:
                raise ValueError("there is more in it than one value")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    # msgpack's own errors are of both families, and the text of some is empty.
    except (ValueError, msgpack.UnpackException) as error:
        reason = "it is cut short" if isinstance(error, msgpack.OutOfData) else str(error) or "it is damaged"
        raise InputError(f"{path} cannot be read as flax's msgpack: {reason}") from None
    return Checkpoint(value, mapped.forget)


def _value(unpacker: Any, mapped: MappedFile, depth: int) -> Any:
    """The value that begins where the unpacker stands."""
    start = unpacker.tell()
    first = mapped.read(start, start + 1)
    if first and first[0] in _MAPS:
        if depth == 0:
            raise ValueError(f"it is nested more than {_DEPTH} deep")
        count = unpacker.read_map_header()
        return {_key(unpacker): _value(unpacker, mapped, depth - 1) for _ in range(count)}
    if first and first[0] in _EXTENSIONS:
        unpacker.skip()
        return _array(mapped, start, unpacker.tell())
    return unpacker.unpack()


def _key(unpacker: Any) -> str:
    """A key of a map."""
    key = unpacker.unpack()
    if not isinstance(key, str):
        raise ValueError(f"it has a key of type {type(key).__name__}")
    return key


def _is_side(value: object) -> bool:
    """Whether a value can be the length of one side of an array."""
    return isinstance(value, int) and 0 <= value < 2**31


def _array(mapped: MappedFile, start: int, end: int) -> PackedArray:
    """The array whose extension stands between two bytes of the file."""
    code = start + 1 + _EXTENSIONS[mapped.read(start, start + 1)[0]]  # where its type stands
    if mapped.read(code, code + 1)[0] not in (ARRAY, SCALAR):
        raise ValueError("it has an extension that is no array")
    fields = msgpack.Unpacker()
    fields.feed(mapped.read(code + 1, min(end, code + 1 + _PREFIX)))
    count, shape, name = fields.read_array_header(), fields.unpack(), fields.unpack()
    if count != 3 or not isinstance(shape, list) or not all(map(_is_side, shape)):
        raise ValueError("an array's shape is not a list of whole numbers")
    if not isinstance(name, str) or name not in _TYPES:
        raise ValueError(f"it has an array of type {name!r}")
    length = code + 1 + fields.tell()  # where the length of its bytes stands
    width = _BYTES.get(mapped.read(length, length + 1)[0], end)
    numbers = mapped.bytes[length + 1 + width : end]
    dtype = _TYPES[name]
    if math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array of shape {tuple(shape)} has {len(numbers)} bytes")
    return PackedArray(numbers, dtype, tuple(shape))
