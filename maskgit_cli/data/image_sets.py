"""Sets of images to be scored: sample directories, folders, CSVs, token files and ``.npz`` of pixels.

Every set gives uint8 pixels (3, H, W) at the images' own size, in a fixed order, a share at a time.
"""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.data.images import read_image
from maskgit_cli.data.sources import list_images
from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.feature_statistics import npz_names
from maskgit_cli.formats.models import find_tokenizer
from maskgit_cli.formats.samples import IMAGES, SETTINGS_FILE, open_samples
from maskgit_cli.formats.tokens import TokenFile, check_tokenizer, open_tokens, partial_path
from maskgit_cli.networks.inference import decode_codes
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer

# Threads that decode files, and how many images each may be ahead of the network.
READERS = min(8, os.cpu_count() or 1)
AHEAD = 16


class Origin(NamedTuple):
    """Where images come from.

    Attributes:
        path: where they are.
        kind: what that is: ``samples``, ``images``, ``tokens`` or ``npz``.
        sha256: of the one file that holds them all, or the codes of them all; None if there is none.
        tokenizer_sha256: of the tokenizer they went through, where that is known.
        settings: how they were sampled, for a sample directory.
    """

    path: Path
    kind: str
    sha256: str | None = None
    tokenizer_sha256: str | None = None
    settings: dict[str, Any] | None = None


class ImageSet(Protocol):
    """Images in a fixed order, and their :class:`Origin`."""

    origin: Origin

    def __len__(self) -> int:
        """Number of images."""

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """The images of ascending ``indices`` in lists of up to ``size``, each uint8 (3, H, W)."""


class FolderImages:
    """Image files, read by threads ahead of their use. One that can't be read is an error.

    Args:
        path: a folder, or a CSV of path,label.
        origin: of the images, if it is more than that folder.

    Raises:
        InputError: there is no image.
    """

    def __init__(self, path: Path, origin: Origin | None = None) -> None:
        self.origin = origin or Origin(path, "images")
        self.files = list_images(path).paths

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """See :class:`ImageSet`.

        Raises:
            InputError: a file can't be read; scores of a part of the images would pass for the whole's.
        """
        with _kept_warning_filters(), ThreadPoolExecutor(READERS) as pool:
            images = self._read_ahead(pool, indices)
            while batch := list(islice(images, size)):
                yield batch

    def _read_ahead(self, pool: ThreadPoolExecutor, indices: Sequence[int]) -> Iterator[Tensor]:
        pending: deque[Future[Tensor]] = deque()
        try:
            for index in indices:
                pending.append(pool.submit(read_image, self.files[index]))
                if len(pending) > READERS * AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _kept_warning_filters() -> Iterator[None]:
    """Put Python's warning filters back in the end: threads that each silence warnings muddle them."""
    with warnings.catch_warnings():
        yield


class TokenImages:
    """The images that a token file's codes stand for; of several views of an image, the first.

    Args:
        tokens: the codes.
        tokenizer: the tokenizer they came from, on the device it is to run on.
        origin: of the images, if it is more than that file.

    Raises:
        ArtifactError: they came from another tokenizer.
    """

    def __init__(self, tokens: TokenFile, tokenizer: Tokenizer, origin: Origin | None = None) -> None:
        check_tokenizer(tokens.meta, tokenizer.sha256)
        self.origin = origin or Origin(tokens.path, "tokens", tokens.sha256, tokenizer.sha256)
        self.tokens = tokens
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """See :class:`ImageSet`."""
        device = next(self.tokenizer.network.parameters()).device
        for start in range(0, len(indices), size):
            codes = self.tokens.codes[indices[start : start + size], 0].astype(np.int64)  # (B, h, w)
            yield list(decode_codes(self.tokenizer, torch.from_numpy(codes), device))


class ArrayImages:
    """The uint8 NHWC array ``arr_0`` of an ``.npz``, as ADM's evaluator reads; streamed, not loaded.

    Args:
        path: the file.

    Raises:
        InputError: it holds no such array.
    """

    def __init__(self, path: Path) -> None:
        if "arr_0" not in npz_names(path):
            raise InputError(f"{path}: holds neither statistics (mu, sigma) nor images (arr_0)")
        self.path = path
        with self._stream() as (_, shape):
            self.shape = shape
        self.origin = Origin(path, "npz", sha256_file(path))

    def __len__(self) -> int:
        return self.shape[0]

    @contextmanager
    def _stream(self) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """The array's bytes from its first image on, and its shape."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as stream:
                version = np.lib.format.read_magic(stream)
                one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
                shape, fortran, dtype = {(1, 0): one, (2, 0): two}[version](stream)
                if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or shape[0] == 0:
                    raise InputError(f"{self.path}: arr_0 is {dtype} {shape}, not uint8 (N, H, W, 3)")
                yield stream, shape
        except InputError:
            raise
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ArtifactError(f"{self.path} is damaged: {' '.join(str(error).split())}") from error

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """See :class:`ImageSet`."""
        _, height, width, _ = self.shape
        length, position = height * width * 3, 0
        with self._stream() as (stream, _):
            for start in range(0, len(indices), size):
                batch = []
                for index in indices[start : start + size]:
                    stream.seek((index - position) * length, os.SEEK_CUR)
                    data = stream.read(length)
                    if len(data) < length:
                        raise EOFError(f"arr_0 ends at image {index}")
                    pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
                    batch.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
                    position = index + 1
                yield batch


# --- what a path holds ------------------------------------------------------------------------------


def open_image_set(path: Path, tokenizer: Path | None, device: torch.device | str = "cpu") -> ImageSet:
    """Open whatever holds images.

    Args:
        path: a sample directory, a folder of images, a CSV, a token file, or an ``.npz`` with ``arr_0``.
        tokenizer: what decodes tokens; None finds it by the digest that they name.
        device: where tokens are decoded.

    Raises:
        InputError: nothing is there, or no image.
        ArtifactError: an artifact is unfinished or damaged, or the tokenizer is another one.
    """
    if is_sample_directory(path):
        return _open_samples(path, tokenizer, device)
    if path.is_dir() or path.suffix.lower() == ".csv":
        return FolderImages(path)
    if path.suffix.lower() == ".npz":
        return ArrayImages(path)
    if not path.exists() and not partial_path(path).exists():
        raise InputError(f"{path}: no such folder or file")
    tokens = open_tokens(path)
    return TokenImages(tokens, _tokenizer(tokens, tokenizer, device))


def is_sample_directory(path: Path) -> bool:
    """Whether a path is a sample directory, finished or not."""
    return (path / SETTINGS_FILE).is_file()


def _open_samples(path: Path, tokenizer: Path | None, device: torch.device | str) -> ImageSet:
    """Its PNGs if it has them, else what its codes stand for."""
    _, record, tokens = open_samples(path)
    origin = Origin(path, "samples", tokens.sha256, tokens.meta.tokenizer_sha256, record["settings"])
    if not (path / IMAGES).is_dir():
        return TokenImages(tokens, _tokenizer(tokens, tokenizer, device), origin)
    images = FolderImages(path / IMAGES, origin)
    # A picture that was inpainted in several windows has a row of codes for each.
    if len(images) != record.get("images"):
        counts = f"{len(images)} images, not the {record.get('images')} that were drawn"
        raise ArtifactError(f"{path} has {counts}; draw the samples again with --overwrite")
    return images


def _tokenizer(tokens: TokenFile, given: Path | None, device: torch.device | str) -> Tokenizer:
    near = [tokens.path.parent / "tokenizer"]
    return load_tokenizer(find_tokenizer(tokens.meta.tokenizer_sha256, given, near), device)
