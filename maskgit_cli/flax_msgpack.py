"""Reads flax's msgpack files without flax or jax: nested dicts of arrays, which hold no code.

An array is an extension of type 1: itself a msgpack list of shape, type name and bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgpack
import torch

from maskgit_cli.errors import InputError

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


def read_flax(path: Path) -> Any:
    """Read a msgpack file that ``flax.serialization`` wrote.

    The file is read piece by piece: at no time is more of it in memory than its arrays and one piece.

    Returns:
        Nested dicts whose leaves are tensors, numbers or text.

    Raises:
        InputError: the file is missing, damaged, or no msgpack file.
    """
    try:
        with open(path, "rb") as file:
            limit = max(1, path.stat().st_size)
            unpacker = msgpack.Unpacker(
                file, ext_hook=_extension, strict_map_key=False, max_buffer_size=limit
            )
            value = unpacker.unpack()
            if unpacker.tell() != limit:
                raise ValueError("there is more in it than one value")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    # msgpack's own errors are of both families, and the last one's text is empty.
    except (ValueError, msgpack.UnpackException) as error:
        reason = str(error) or "it is cut short"
        raise InputError(f"{path} cannot be read as flax's msgpack: {reason}") from None
    return value


def _extension(code: int, data: bytes) -> Any:
    """A tensor from flax's extension types."""
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"it has an extension of type {code}, which is no array")
    fields = msgpack.unpackb(data)
    if not isinstance(fields, list) or len(fields) != 3:
        raise ValueError("an array has no shape, type and bytes")
    shape, name, numbers = fields
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("an array's shape is not a list of whole numbers")
    if not isinstance(name, str) or name not in _TYPES or not isinstance(numbers, bytes):
        raise ValueError(f"it has an array of type {name!r}")
    dtype = _TYPES[name]
    if math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array of shape {tuple(shape)} has {len(numbers)} bytes")
    if not numbers:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape)
