"""What ``.tar`` and ``.zip`` sources share: names of members, classes by folders, and reading by offset.

An archive is never extracted, and a member is only ever read, so none can overwrite a file.
"""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from maskgit_cli.data.sources.base import ImageSource, Origin
from maskgit_cli.data.sources.folder import IMAGENET_TRAIN, first_split
from maskgit_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# Largest member that is read as an image.
LARGEST_MEMBER = 1 << 30
UNSAFE = "its path is absolute or contains .."


class ArchiveImages(ImageSource):
    """Images that are members of archives, which are opened anew for each.

    Args:
        origin: provenance of the images.
        names: of the N images.
        problems: reasons why members that are named like images are not read, by index.
        labels: class indices int32 (N,).
        class_names: name of each class.
    """

    def __init__(
        self,
        origin: Origin,
        names: list[str],
        problems: dict[int, str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(origin, names, labels, class_names)
        self.problems = problems

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`."""
        from maskgit_cli.data.images import decode_image

        where = self.location(index)
        if index in self.problems:
            raise InputError(f"{where}: {self.problems[index]}")
        with self._member(index, where) as file:
            return decode_image(file, where, side)

    @abstractmethod
    @contextmanager
    def _member(self, index: int, where: str) -> Iterator[IO[bytes]]:
        """A seekable file of the bytes of a member.

        Raises:
            InputError: it cannot be read; the text begins with ``where`` and a colon.
        """


class FilePart(io.RawIOBase):
    """A part of an open file as a file of its own.

    Args:
        file: an unbuffered file.
        offset: of the part, in bytes.
        size: of the part.
    """

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See :meth:`io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("negative position")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """See :meth:`io.RawIOBase.readinto`."""
        wanted = min(len(buffer), max(0, self._size - self._position))
        data = os.pread(self._file.fileno(), wanted, self._offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def plain_name(name: str) -> str:
    """The name of a member with ``/`` between its parts, and without ``./`` in front."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def is_hidden(name: str) -> bool:
    """Whether a member is hidden, or is one that macOS adds."""
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts)


def is_unsafe(name: str) -> bool:
    """Whether a member would lie outside the folder that it is extracted to."""
    return name.startswith("/") or name[1:3] == ":/" or (".." in name and ".." in name.split("/"))


def shared_folder(names: Iterable[str]) -> str:
    """The folder that all names begin with, with a slash; "" if there is none.

    In Kaggle's ImageNet it is that of the training images, although there are others.
    """
    safe = [name for name in names if not is_unsafe(name)]
    wanted = [f"{folder}/" for folder in IMAGENET_TRAIN]
    training = next((folder for name in safe for folder in wanted if name.startswith(folder)), "")
    if training or not safe:
        return training
    first, last = (name.split("/")[:-1] for name in (min(safe), max(safe)))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(f"{folder}/" for folder, _ in same)


def folder_classes(path: Path, names: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
    """Class indices int32 (N,), and names of the classes, of images in a folder per class.

    Args:
        path: of the archive, for messages.
        names: of N images, without the folder that they share. Those outside the archive are in no class.

    Returns:
        None and no classes where no image is in a folder.

    Raises:
        InputError: only some images are in folders, or the folders are parts of a data set.
    """
    class_names = sorted({folder for name in names if (folder := _folder(name))})
    if not class_names:
        return None, []
    loose = next((name for name in names if not _folder(name) and not is_unsafe(name)), None)
    if loose is not None:
        raise InputError(f"{path}: mixes images ({loose}) and class subfolders; extract it, and sort them")
    split = first_split(class_names)
    if split is not None:
        raise InputError(
            f"{path}: its folders ({', '.join(class_names)}) are splits, not classes; extract it, and give "
            f"its folder {split} instead"
        )
    index_of = {name: i for i, name in enumerate(class_names)} | {"": -1}
    return np.fromiter((index_of[_folder(name)] for name in names), np.int32, len(names)), class_names


def _folder(name: str) -> str:
    """The first folder of a name; "" if it has none, or is outside the archive."""
    return "" if is_unsafe(name) else name[: max(0, name.find("/"))]
