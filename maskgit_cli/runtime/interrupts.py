"""Stopping a training between two steps, with a checkpoint, when its process is asked to end."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from maskgit_cli.runtime.distributed import world
from maskgit_cli.runtime.progress import SILENT, Reporter

# Several processes must stop at the same step, or some wait for the others' gradients for ever. To agree
# costs a wait for the GPU, so it is done about as often as this, in seconds.
AGREE_EVERY = 2.0


class Interrupts:
    """Within it, the first Ctrl-C waits for the step to end; the second does what it always does.

    The same holds for every signal whose handler is Python's for Ctrl-C, as the command line sees to for
    SIGTERM and SIGHUP, but that these may come again and again: a closed terminal sends two, a batch
    system one to each process and its launcher another. Other handlers stay, and threads other than the
    main one cannot have any.
    """

    def __init__(self, accelerator: Any, reporter: Reporter = SILENT) -> None:
        self._accelerator, self._reporter = accelerator, reporter
        self._asked = self._stopping = False
        self._handled: list[int] = []
        self._agreed, self._since = 0, time.monotonic()
        self._steps_between = 1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._handled.append(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._handled:
            signal.signal(number, signal.default_int_handler)
        if self._asked and error is None and world().size == 1:  # it came in the last checkpoint
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def asked(self, step: int, last: bool) -> bool:
        """Whether to stop after this step, once it is in a checkpoint; the same on every process.

        Args:
            step: the step that was just done.
            last: whether it is the last one.
        """
        if world().size == 1:
            self._stopping = self._asked
        elif last or not self._agreed or step - self._agreed >= self._steps_between:
            self._stopping = self._agree(step)
        return self._stopping

    def _agree(self, step: int) -> bool:
        """Ask all processes, and find out after how many steps to do so again."""
        now = time.monotonic()
        mine = torch.tensor([float(self._asked), now - self._since], device=self._accelerator.device)
        asked, seconds = self._accelerator.reduce(mine, reduction="sum").tolist()
        # All have the same sum, so all come to the same step.
        steps = step - self._agreed if self._agreed else 1
        self._steps_between = max(1, int(AGREE_EVERY * steps * world().size / max(seconds, 1e-3)))
        self._agreed, self._since = step, now
        return asked > 0

    def checkpointed(self, step: int) -> None:
        """End as Ctrl-C does, if that is what :meth:`asked` said.

        Raises:
            KeyboardInterrupt: it is.
        """
        if self._stopping:
            self._reporter.info(f"stopped after step {step}, with a checkpoint")
            raise KeyboardInterrupt


def outlive_interrupts(worker: int) -> None:
    """Leave it to the main process when this one, which reads images for it, ends.

    Terminals and batch systems signal all processes of a job, but a training wants to finish its step, and
    torch fails that when a worker is gone. The second SIGTERM counts: it is how workers are ended.
    """

    def only_once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, only_once)
