"""Stopping a training between two steps, with a checkpoint, when its process is asked to end."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

import torch

from maskgit_cli.distributed import world
from maskgit_cli.progress import SILENT, Reporter

# Several processes must stop at the same step, or some wait for the others' gradients for ever. To agree
# costs a wait for the GPU, so they do it at every tenth step alone.
AGREE_EVERY = 10


class Interrupts:
    """Within it, the first Ctrl-C waits for the step to end; the second does what it always does.

    The same holds for every signal whose handler is Python's for Ctrl-C, as the command line sees to for
    SIGTERM and SIGHUP. Other handlers stay, and threads other than the main one cannot have any.
    """

    def __init__(self, accelerator: Any, reporter: Reporter = SILENT) -> None:
        self._accelerator, self._reporter = accelerator, reporter
        self._asked = False
        self._handled: list[int] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._handled.append(number)
        return self

    def __exit__(self, *error: object) -> None:
        for number in self._handled:
            signal.signal(number, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(number, signal.default_int_handler)

    def asked(self, step: int, last: bool) -> bool:
        """Whether to stop after this step; the same on every process.

        Args:
            step: the step that was just done.
            last: whether it is the last one; no interruption gets lost.
        """
        if world().size == 1:
            return self._asked
        if step % AGREE_EVERY and not last:
            return False
        flag = torch.tensor(float(self._asked), device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, reduction="sum") > 0)

    def stop(self, step: int) -> None:
        """End as Ctrl-C does, after the checkpoint of this step has been written.

        Raises:
            KeyboardInterrupt: always.
        """
        self._reporter.info(f"stopped after step {step}, with a checkpoint")
        raise KeyboardInterrupt
