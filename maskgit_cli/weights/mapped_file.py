"""A file of weights as memory that the system fills when it is looked at, and that can be given back."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Checkpoint(NamedTuple):
    """A file of weights that has been read.

    Attributes:
        value: what was saved, mostly nested dicts whose leaves are tensors or stand for some. These are for
            reading only.
        forget: gives the memory back that they have taken by being looked at; they stay usable.
    """

    value: Any
    forget: Callable[[], None]


class MappedFile:
    """The bytes of a file, which is not empty.

    Args:
        path: of the file; it has to stay as it is.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:  # a copy on write: torch has no tensors that cannot be written to
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.bytes)

    def read(self, start: int, end: int) -> bytes:
        """A copy of some of the bytes."""
        return self._map[start:end]

    def forget(self) -> None:
        """Let go of the pages that have been looked at; the next look reads them anew."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)
