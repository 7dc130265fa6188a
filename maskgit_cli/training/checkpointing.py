"""Writing checkpoints while the training goes on: a copy on the device, then a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from maskgit_cli.runtime.distributed import on_main, world
from maskgit_cli.runtime.progress import Reporter

Groups = Mapping[str, Mapping[str, Tensor]]


class CheckpointWriter:
    """A context that writes one checkpoint at a time, in a thread of rank 0; all ranks call it alike.

    The context ends when the last checkpoint is complete, also when the training was interrupted or failed.

    Args:
        reporter: receives a warning where a checkpoint fails and another error ends the training.
        newest: step of the checkpoint that the training resumes from, 0 without one.
    """

    def __init__(self, reporter: Reporter, newest: int = 0) -> None:
        self.newest, self._reporter = newest, reporter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
            elif self._written is not None and (failure := self._written.exception()) is not None:
                self._reporter.warn(f"the last checkpoint is not complete: {failure}")
        finally:
            self._thread.shutdown()

    def write(self, step: int, groups: Groups, save: Callable[[Groups], object]) -> None:
        """Copy tensors and have them written; returns as soon as they are copied.

        Args:
            step: of the checkpoint.
            groups: the tensors, which may change as soon as this returns.
            save: writes the copies.

        Raises:
            OutputError: the checkpoint before this one could not be written.
        """
        self.wait()
        if world().main:
            copies, copied = _copies(groups)
            self._written = self._thread.submit(_save, copies, copied, save)
        self.newest = step

    def check(self) -> None:
        """Raise the error of a checkpoint that has failed meanwhile, without waiting for one.

        Raises:
            OutputError: the file system refuses.
        """
        on_main(lambda: self._result() if self._written is not None and self._written.done() else None)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            OutputError: the file system refuses.
        """
        on_main(self._result)

    def _result(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()


def _copies(groups: Groups) -> tuple[Groups, Any]:
    """Copies of tensors on their devices, and the event after which a GPU has made them.

    A GPU without room for them copies to the CPU, which the training waits for.
    """
    try:
        copies = {file: {name: _copy(t) for name, t in group.items()} for file, group in groups.items()}
    except torch.OutOfMemoryError:
        copies = {
            file: {name: t.detach().cpu() for name, t in group.items()} for file, group in groups.items()
        }
    device = next((t.device for group in copies.values() for t in group.values() if t.is_cuda), None)
    if device is None:
        return copies, None
    return copies, torch.cuda.current_stream(device).record_event()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _save(groups: Groups, copied: Any, save: Callable[[Groups], object]) -> None:
    """Write copies; a GPU sends them in a stream of its own, between the kernels of the training."""
    stream: AbstractContextManager[Any] = nullcontext()
    if copied is not None:
        own = torch.cuda.Stream(copied.device)
        own.wait_event(copied)
        stream = torch.cuda.stream(own)
    with stream:
        save(groups)
