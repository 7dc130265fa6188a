"""Writing tokens in a thread, while the next images are encoded, and what a stage waits for meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from maskgit_cli.formats.token_writer import TokenWriter

T = TypeVar("T")

# Batches that may wait for the disk. A killed process loses these, and what the thread is writing.
WAITING = 16


class BackgroundWriter:
    """A context in which a thread stores batches of tokens; at its end all of them are on the disk.

    All batches that wait are stored together: their data, one flush to the disk, then the marks that these
    rows are done (see :meth:`~maskgit_cli.formats.token_writer.TokenWriter.write`). So a slow disk has fewer
    flushes, and a quick one loses less in a kill.

    Args:
        writer: of the file; for this thread alone meanwhile.
    """

    def __init__(self, writer: TokenWriter) -> None:
        self._writer = writer
        self._waiting: queue.Queue[tuple[np.ndarray, np.ndarray] | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def write(self, indices: np.ndarray, codes: np.ndarray) -> None:
        """Have tokens (B, V, h, w) stored in rows (B,); waits only while :data:`WAITING` batches do.

        Raises:
            OutputError: the disk was full or not writable at an earlier batch.
        """
        self._raise()
        self._waiting.put((indices, codes))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """Store what waits, until the end; after an error nothing is stored, and no batch waits."""
        ended = False
        while not ended:
            batches = [self._waiting.get()]
            while not self._waiting.empty():  # this thread alone takes any out
                batches.append(self._waiting.get())
            ended = batches[-1] is None
            stored = [batch for batch in batches if batch is not None]
            if not stored or self._error is not None:
                continue
            indices, codes = (np.concatenate(parts) for parts in zip(*stored, strict=True))
            try:
                self._writer.write(indices, codes)
            except BaseException as error:
                self._error = error


class Times:
    """Where the time of tokenizing goes: reading and decoding images, encoding them, and writing tokens.

    These overlap, so a part's time is that in which everything else waits for it.

    Attributes:
        images: number of images that were encoded, by this process.
    """

    def __init__(self) -> None:
        self.images = 0
        self._began = time.perf_counter()
        self._seconds = {"decoding": 0.0, "encoding": 0.0, "writing": 0.0}

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """A context whose time is that of a part."""
        began = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - began

    def of(self, part: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with the time that each takes to come counted for a part."""
        iterator = iter(items)
        while True:
            with self.measured(part):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def bound(self, processes: int, workers: int) -> str:
        """A line on the throughput of all processes and what bounds it."""
        rate = self.images * processes / (time.perf_counter() - self._began)
        part = max(self._seconds, key=lambda name: self._seconds[name])
        share = self._seconds[part] / sum(self._seconds.values())
        advice = f"; more --workers than {workers} may help" if part == "decoding" else ""
        return f"tokenized {rate:.3g} images/s; {share:.0%} of the time went into {part}{advice}"
