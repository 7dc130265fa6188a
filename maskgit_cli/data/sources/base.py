"""The interface of an image source. Torch is imported only when an image is read: `info` lists without it."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskgit_cli.formats.atomic import unicode_text
from maskgit_cli.runtime.progress import SILENT, Reporter, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Threads that decode images, and how many images each may be ahead of their use.
READERS = min(8, os.cpu_count() or 1)
AHEAD = 16
ENDINGS = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff ppm pgm pbm pnm jp2 j2k jpx tga ico avif"
EXTENSIONS = frozenset("." + ending for ending in ENDINGS.split())
# Seconds after which a listing shows its progress.
LISTING_SHOWN_AFTER = 0.5
# Names whose digest is computed at a time.
CHUNK_NAMES = 2**16


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

    A path takes six times as much memory as a name, so paths are made when they are needed.

    Args:
        origin: provenance of the images.
        root: the folder that the names are relative to.
        names: of the N images, also the paths of their files.
        labels: class indices int32 (N,).
        class_names: name of each class.
    """

    def __init__(
        self,
        origin: Origin,
        root: Path,
        names: list[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(origin, names, labels, class_names)
        self.root = root

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / self.names[index]

    @property
    def paths(self) -> list[Path]:
        """The N files."""
        return [self.path(index) for index in range(len(self))]

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`."""
        from maskgit_cli.data.images import read_image

        return read_image(self.path(index), side)

    def location(self, index: int) -> str:
        """The path of the file."""
        return str(self.path(index))


class Opening(NamedTuple):
    """How a source is opened.

    Attributes:
        tokenizer: decodes the tokens of a source that holds tokens: a tokenizer, run or model directory; None
            finds the one with the recorded digest.
        device: where the tokenizer decodes.
        reporter: receives the progress of a long listing, and warnings.
    """

    tokenizer: Path | None
    device: torch.device | str
    reporter: Reporter = SILENT


class SourceKind(NamedTuple):
    """A registry entry.

    Attributes:
        title: for the message that lists what can be opened.
        recognizes: whether a path is of this kind, as far as can be seen without reading it.
        open: opens a path that ``recognizes`` accepted.
    """

    title: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Path, Opening], ImageSource]


@contextmanager
def listing(path: Path, reporter: Reporter) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts files as they are found; a listing that takes long shows the count."""
    started = time.monotonic()
    count = 0
    task: Task | None = None
    with ExitStack() as shown:

        def found(n: int) -> None:
            nonlocal count, task
            count += n
            if task is not None:
                task.advance(n)
            elif time.monotonic() - started >= LISTING_SHOWN_AFTER:
                reporter.info(f"listing the images of {path}")
                task = shown.enter_context(reporter.task("list", 0, unit="files"))
                task.advance(count)

        yield found


def is_image_name(name: str) -> bool:
    """Whether a file is named like an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def source_digest(source: ImageSource) -> str:
    """Sha256 that identifies the images: of the file that holds them, else of names, labels and class names.

    The digest of a listing does not depend on the content of the image files.
    """
    if source.origin.sha256 is not None:
        return source.origin.sha256
    # The JSON of {"names": [...], "labels": [...], "class_names": [...]}, a part at a time.
    digest = hashlib.sha256(b'{"names": [')
    for first in range(0, len(source), CHUNK_NAMES):
        part = json.dumps(source.names[first : first + CHUNK_NAMES])[1:-1]
        digest.update((", " if first else "").encode() + part.encode())
    rest = {"labels": source.labels.tolist(), "class_names": source.class_names}
    digest.update(b"], " + json.dumps(rest)[1:].encode())
    return digest.hexdigest()
