"""PyTorch's checkpoint files (.pth, .pt, .ckpt), read with ``torch.load(weights_only=True)``.

Checkpoints name classes of the trainer that wrote them. None of those is imported: an inert class of the
same name takes its place, which accepts everything and does nothing.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import regular

# What torch allows by itself and no checkpoint of weights needs, as its arguments can ask for any amount of
# memory or time: bytearray(10**12), a sparse tensor whose indices are checked one by one.
_REFUSED = re.compile(
    r"builtins\.bytearray|torch\.(cuda\.)?(sparse\.)?\w+Tensor|torch\.storage\.\w+"
    r"|torch\._utils\._rebuild_(?!tensor(_v[23])?$|parameter(_with_state)?$)\w+"
)
# Different names in one checkpoint (torch looks through all of them at each call), and values in one tuple
# with those nested in it (hashing one that holds another twice, 40 levels deep, would never end).
_MAX_NAMES, _MAX_TUPLE = 1000, 20_000
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


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
    regular(path)
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
        stand_ins: list[Any] = [(_stand_in(name), name) for name in names]
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
    opcode = re.search(r"Unsupported operand (\d+)", text)
    if opcode:
        names = {ord(op.code): op.name for op in pickletools.opcodes}
        name = names.get(int(opcode[1]), opcode[1])
        return f"its pickle has the opcode {name}, which torch.load does not support"
    if isinstance(error, LookupError):
        return "its pickle is damaged"
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
        names = archive.namelist()
        if len(set(names)) < len(names):  # the record that is checked may not be the one that torch reads
            raise InputError(f"{path} cannot be read: two records inside have one name")
        damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path} is damaged: the checksum of {damaged} inside does not match")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError(f"{path} cannot be read: a zip with {len(pickles) or 'no'} data.pkl inside")
        folder = pickles[0].removesuffix("data.pkl") + "data/"
        sizes = [r.file_size for r in archive.infolist() if r.filename.startswith(folder)]
        with archive.open(pickles[0]) as file:
            return _scan(file), sizes


def _names_in_pickles(file: IO[bytes]) -> set[str]:
    """What the five pickles of a checkpoint before PyTorch 1.6 name."""
    return {name for _ in range(5) for name in _scan(file)}


def _stand_in(name: str) -> type[StandIn]:
    """An inert class that errors show by the name that it stands for."""
    module, _, last = name.rpartition(".")
    return type(last, (StandIn,), {"__module__": module})


def _scan(file: IO[bytes]) -> set[str]:
    """The full names of the classes and functions that the next pickle in a file names; nothing is run.

    Raises:
        ValueError: unpickling could take more memory or time than the file's size explains.
    """
    names: set[str] = set()
    # The unpickler's stack with the size of each value: of a tuple all that hashing it visits, else 1.
    stack: list[int] = []
    marked: list[list[int]] = []
    memo: dict[int, int] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            names.add(_translated(argument))
        if opcode.name == "MARK":
            marked.append(stack)
            stack = []
        elif opcode.name in ("APPENDS", "SETITEMS"):
            stack = marked.pop()
        elif opcode.name == "TUPLE" or opcode.name in _TUPLES:
            count = _TUPLES.get(opcode.name, len(stack))
            size = 1 + sum(stack[len(stack) - count :])
            stack = stack[: len(stack) - count] if opcode.name in _TUPLES else marked.pop()
            stack.append(size)
            if size > _MAX_TUPLE:
                raise ValueError(f"it has a tuple of more than {_MAX_TUPLE} values")
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            del stack[len(stack) - len(opcode.stack_before) :]
            stack += [1] * len(opcode.stack_after)
    refused = sorted(filter(_REFUSED.fullmatch, names))
    if refused:
        raise ValueError(f"it names {refused[0]}, which no checkpoint of weights needs")
    if len(names) > _MAX_NAMES:
        raise ValueError(f"it names {len(names)} classes and functions")
    return names


def _translated(argument: str) -> str:
    """What torch looks up for a GLOBAL: protocol 2 has Python 2's names, ``__builtin__ xrange`` for range."""
    module, name = argument.split(" ", 1)
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


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
