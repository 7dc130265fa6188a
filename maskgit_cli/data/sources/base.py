"""The interface of an image source. Torch is imported only when an image is read: `info` lists without it."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskgit_cli.formats.atomic import unicode_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Threads that decode images, and how many images each may be ahead of their use.
READERS = min(8, os.cpu_count() or 1)
AHEAD = 16


class Origin(NamedTuple):
    """Provenance of the images of a source.

    Attributes:
        path: the file or directory.
        kind: ``samples``, ``images``, ``tokens`` or ``npz``.
        sha256: of the one file that holds all images or all tokens; None if there is none.
        tokenizer_sha256: of the tokenizer that decoded the images, where that is known.
        settings: of the sampler, for a sample directory.
    """

    path: Path
    kind: str
    sha256: str | None = None
    tokenizer_sha256: str | None = None
    settings: dict[str, Any] | None = None


class ImageSource(ABC):
    """N images in a fixed order. It can be pickled, so that ``DataLoader`` workers can read from it.

    Attributes:
        origin: provenance of the images.
        names: name of each image, unique within its class in most sources (N,).
        labels: class indices int32 (N,), -1 where there is none.
        class_names: name of each class; empty if the images have no classes.
        decoded: whether a tokenizer makes the images from tokens.
    """

    decoded = False

    def __init__(
        self,
        origin: Origin,
        names: list[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.origin = origin
        self.names = names
        self.labels = np.full(len(names), -1, np.int32) if labels is None else labels
        self.class_names = [unicode_text(name) for name in class_names]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def open(self, index: int, side: int | None = None) -> Tensor:
        """One image, uint8 (3, H, W).

        Args:
            index: in [0, N).
            side: the shorter side that is needed; a far larger image may be returned smaller, see
                :func:`~maskgit_cli.data.images.decode_image`.

        Raises:
            InputError: the image cannot be read; the text begins with :meth:`location` and a colon.
        """

    def location(self, index: int) -> str:
        """Where an image is, for messages."""
        return f"{self.origin.path}: {self.names[index]}"

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """The images of ascending ``indices`` in lists of up to ``size``, read by threads ahead of use.

        Raises:
            InputError: an image cannot be read.
        """
        # Each thread silences warnings while it decodes; their saved filters may be restored out of order.
        with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
            images = self._read_ahead(pool, indices)
            while batch := list(islice(images, size)):
                yield batch

    def _read_ahead(self, pool: ThreadPoolExecutor, indices: Sequence[int]) -> Iterator[Tensor]:
        pending: deque[Future[Tensor]] = deque()
        try:
            for index in indices:
                pending.append(pool.submit(self.open, index))
                if len(pending) > READERS * AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class ImageFiles(ImageSource):
    """Images in files of their own.

    Attributes:
        paths: the N files.
    """

    def __init__(
        self,
        origin: Origin,
        paths: list[Path],
        names: list[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(origin, names, labels, class_names)
        self.paths = paths

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`."""
        from maskgit_cli.data.images import read_image

        return read_image(self.paths[index], side)

    def location(self, index: int) -> str:
        """The path of the file."""
        return str(self.paths[index])


class Decoding(NamedTuple):
    """How sources that hold tokens become images.

    Attributes:
        tokenizer: tokenizer, run or model directory; None finds the one with the recorded digest.
        device: where the tokenizer decodes.
    """

    tokenizer: Path | None
    device: torch.device | str


class SourceKind(NamedTuple):
    """A registry entry.

    Attributes:
        title: for the message that lists what can be opened.
        recognizes: whether a path is of this kind, as far as can be seen without reading it.
        open: opens a path that ``recognizes`` accepted.
    """

    title: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Path, Decoding], ImageSource]


def source_digest(source: ImageSource) -> str:
    """Sha256 that identifies the images: of the file that holds them, else of names, labels and class names.

    The digest of a listing does not depend on the content of the image files.
    """
    if source.origin.sha256 is not None:
        return source.origin.sha256
    listing = {"names": source.names, "labels": source.labels.tolist(), "class_names": source.class_names}
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
