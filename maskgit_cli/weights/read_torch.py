"""PyTorch's checkpoint files (.pth, .pt, .ckpt), read with ``torch.load(weights_only=True)``.

Checkpoints name classes of the trainer that wrote them. None of those is imported: an inert class of the
same name takes its place, which accepts everything and does nothing.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from maskgit_cli.errors import InputError


class StandIn:
    """Base of the inert classes: any arguments, any state, no behavior."""

    def __new__(cls, *_args: Any, **_options: Any) -> StandIn:
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, _state: Any) -> None:
        """Ignore the state."""


def read_checkpoint(path: Path) -> Any:
    """Read a PyTorch checkpoint; no code in it is run.

    Returns:
        Tensors on the CPU (views of the mapped file), plain containers, numbers and text, and an instance of
        a :class:`StandIn` for everything else.

    Raises:
        InputError: the file is missing, damaged, or not a PyTorch checkpoint.
    """
    try:
        with open(path, "rb") as file:
            begin, sizes = file.read(2), None
            if begin == b"PK":
                names, sizes = _check_zip(path)
            elif begin[:1] == b"\x80":
                file.seek(0)
                names = _names_in_pickles(file)
            else:
                raise InputError(f"{path} is not a PyTorch checkpoint")
        stand_ins: list[Any] = [(type("StandIn", (StandIn,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and old storages
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=begin == b"PK")
        _check_tensors(value, sizes)
    except InputError:
        raise
    except Exception as error:  # an unpickler on hostile bytes can raise nearly anything
        raise InputError(f"{path} cannot be read as a PyTorch checkpoint: {_reason(error)}") from None
    return value


def _reason(error: Exception) -> str:
    """Why reading failed, in a few words; torch's own text advises to load the file unsafely."""
    text = " ".join(str(error).split())
    found = re.search(r"WeightsUnpickler error: (.*?)(?: Please use | Check the documentation|$)", text)
    blocked = re.search(r"unsupported GLOBAL (\S+)", text)
    if blocked:
        return f"it names {blocked[1]}, which no checkpoint needs"
    return (found[1] if found else text)[:200] or type(error).__name__


def _check_zip(path: Path) -> tuple[set[str], list[int]]:
    """What the pickle of a checkpoint names, and the sizes of its records of numbers in bytes.

    Torch ignores the zip's checksums and does not compare sizes, so that is done here.

    Raises:
        InputError: a record is damaged or compressed, or there is no pickle.
    """
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            # Torch never compresses, and a compressed record could unpack to any size.
            if record.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"{path} cannot be read: {record.filename} inside is compressed")
        damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path} is damaged: the checksum of {damaged} inside does not match")
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError(f"{path} cannot be read: a zip with {len(pickles) or 'no'} data.pkl inside")
        folder = pickles[0].removesuffix("data.pkl") + "data/"
        sizes = [r.file_size for r in archive.infolist() if r.filename.startswith(folder)]
        with archive.open(pickles[0]) as file:
            return set(_names(file)), sizes


def _names_in_pickles(file: IO[bytes]) -> set[str]:
    """What the five pickles of a checkpoint before PyTorch 1.6 name."""
    return {name for _ in range(5) for name in _names(file)}


def _names(file: IO[bytes]) -> Iterator[str]:
    """The full names of the classes and functions that the next pickle in a file names."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".", 1)
            yield name
            # Protocol 2 has Python 2's name of that module, which torch translates.
            if name.startswith("__builtin__."):
                yield name.replace("__builtin__", "builtins", 1)


def _check_tensors(value: Any, sizes: list[int] | None) -> None:
    """Refuse tensors that are larger than their numbers, by repeating them or by reaching beyond them.

    A few bytes could otherwise stand for more than any disk holds.

    Args:
        value: of the checkpoint.
        sizes: bytes of each record of numbers; None where the format has none.

    Raises:
        ValueError: there is one.
    """
    waiting, seen = [value], set()  # containers may be nested deeply, or hold themselves
    storages: dict[int, int] = {}
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            if item.numel() * item.element_size() > storage.nbytes():
                raise ValueError(f"a tensor of shape {tuple(item.shape)} is larger than its numbers")
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict | list | tuple | set) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
    if sizes is not None:
        largest = sorted(sizes, reverse=True)
        for i, size in enumerate(sorted(storages.values(), reverse=True)):
            if i >= len(largest) or size > largest[i]:
                raise ValueError(f"the numbers of a tensor are cut short: {size} bytes are needed")
