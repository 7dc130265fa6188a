"""flax's msgpack files, read without flax or jax: nested dicts of arrays, which hold no code."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor

from maskgit_cli.errors import InputError

ARRAY, SCALAR = 1, 3  # flax's extension types; 2 is a complex number, which no network here has
_TYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "uint32", "uint8", "bool"
    )
}  # fmt: skip


def read_flax(path: Path) -> dict[str, Any]:
    """Read a msgpack file that ``flax.serialization`` wrote.

    Returns:
        Nested dicts whose leaves are tensors, numbers or text.

    Raises:
        InputError: the file is missing, damaged, or not a msgpack file.
    """
    try:
        # Mapped, so that the file itself is not in memory beside its tensors.
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            value = msgpack.unpackb(mapped, ext_hook=_array)
        if not isinstance(value, dict):
            raise ValueError("it does not hold a dict")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    # msgpack's own errors are of several families, and the text of some is empty.
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        deep = isinstance(error, msgpack.StackError)
        reason = "it is nested too deeply" if deep else str(error) or "it is damaged"
        raise InputError(f"{path} cannot be read as flax's msgpack: {reason}") from None
    return value


def _array(code: int, data: bytes) -> Tensor:
    """The array in an extension: a msgpack list of shape, type name and bytes."""
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"it has an extension of type {code}, which is not an array")
    shape, name, numbers = msgpack.unpackb(data)
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise ValueError("an array's shape is not a list of whole numbers")
    if not isinstance(name, str) or name not in _TYPES or not isinstance(numbers, bytes):
        raise ValueError(f"it has an array of type {name!r}")
    dtype = _TYPES[name]
    if math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array of shape {tuple(shape)} has {len(numbers)} bytes")
    if not numbers:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape)
