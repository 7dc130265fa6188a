"""Image source: the uint8 NHWC array ``arr_0`` of an ``.npz``, the format of ADM's evaluator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from maskgit_cli.data.sources.base import ImageSource, Opening, Origin, SourceKind
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.npz import NPZ_ERRORS, npz_names, npz_reason, open_array

if TYPE_CHECKING:
    from torch import Tensor


class NpzImages(ImageSource):
    """The images of ``arr_0``, streamed: reading in ascending order decompresses the file once.

    Args:
        path: the file.

    Raises:
        InputError: it holds no such array, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        if "arr_0" not in npz_names(path):
            raise InputError(f"{path}: holds neither statistics (mu, sigma) nor images (arr_0)")
        with _damage(str(path)):
            stream, self.shape = _open_images(path)
            stream.close()
        names = [f"{i:06d}" for i in range(self.shape[0])]
        super().__init__(Origin(path, "npz", sha256_file(path)), names)
        self._stream: IO[bytes] | None = None
        self._next = 0  # the image at which the stream is
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`; an index below the previous one reads from the beginning again."""
        import torch

        _, height, width, _ = self.shape
        length = height * width * 3
        stream, self._stream = self._stream, None  # kept only if reading succeeds
        with _damage(self.location(index)):
            # A forked process shares the position in the file with its parent, so it opens its own.
            if stream is None or self._next > index or self._process != os.getpid():
                stream, self._next, self._process = _open_images(self.origin.path)[0], 0, os.getpid()
            stream.seek((index - self._next) * length, os.SEEK_CUR)
            data = stream.read(length)
            if len(data) < length:
                raise EOFError("the array ends early")
        self._stream, self._next = stream, index + 1
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """See :meth:`ImageSource.batches`; read by the calling thread, in order."""
        for start in range(0, len(indices), size):
            yield [self.open(index) for index in indices[start : start + size]]


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """Turn what reading a damaged file raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except NPZ_ERRORS as error:
        raise InputError(f"{where}: damaged ({npz_reason(error)})") from error


def _open_images(path: Path) -> tuple[IO[bytes], tuple[int, ...]]:
    """The bytes of ``arr_0`` from its first image on, and its shape (N, H, W, 3)."""
    stream, (shape, fortran, dtype) = open_array(path, "arr_0")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or 0 in shape:
        raise InputError(f"{path}: arr_0 is {dtype} {shape}, not uint8 (N, H, W, 3)")
    return stream, shape


def is_npz(path: Path) -> bool:
    """Whether a path is an ``.npz`` file."""
    return path.suffix.lower() == ".npz" and path.is_file()


def open_npz(path: Path, _: Opening) -> NpzImages:
    """Open the images of an ``.npz``; see :class:`NpzImages`."""
    return NpzImages(path)


SOURCE = SourceKind("an .npz with uint8 images (arr_0)", is_npz, open_npz)
