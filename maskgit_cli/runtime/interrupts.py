"""Checkpoints between two steps on signals: on SIGUSR1, and before the end on Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from maskgit_cli.runtime.distributed import world
from maskgit_cli.runtime.progress import SILENT, Reporter

# All ranks must stop at the same step, or some wait for the others' gradients forever. Agreeing on it waits
# for the GPU, so it is done about this often, in seconds.
AGREE_EVERY = 2.0


class Interrupts:
    """A context in which the first Ctrl-C waits for the end of the step, and the second interrupts it.

    SIGTERM and SIGHUP wait as well where their handler is Python's own for Ctrl-C, which the command line
    installs; they may come repeatedly: a closed terminal sends two, a job scheduler one to each process and
    the launcher another. SIGUSR1 asks for a checkpoint and ends nothing (Slurm sends it with
    ``--signal=USR1@SECONDS``). Other handlers stay. Outside the main thread nothing is handled.
    """

    def __init__(self, accelerator: Any, reporter: Reporter = SILENT) -> None:
        self._accelerator, self._reporter = accelerator, reporter
        self._asked = self._stopping = False
        self._asked_to_save = self._saving = False
        self._handled: list[int] = []
        self._before: Any = None  # the handler of SIGUSR1, where it was replaced
        self._agreed, self._since = 0, time.monotonic()
        self._steps_between = 1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._handled.append(number)
            if signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, signal.SIG_IGN):
                self._before = signal.signal(signal.SIGUSR1, self._note_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._handled:
            signal.signal(number, signal.default_int_handler)
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)
        if self._asked and error is None and world().size == 1:  # the signal came in the last checkpoint
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_save = True

    @property
    def saving(self) -> bool:
        """Whether a checkpoint was asked for, at the step of the last call of :meth:`asked`."""
        return self._saving

    def asked(self, step: int, last: bool) -> bool:
        """Whether to stop after this step, once it is in a checkpoint; the same on all ranks.

        Args:
            step: the step that was just done.
            last: whether it is the last one.
        """
        self._saving = False
        if world().size == 1:
            self._stopping = self._asked
            if self._asked_to_save:
                self._saving, self._asked_to_save = True, False
        elif last or not self._agreed or step - self._agreed >= self._steps_between:
            self._stopping = self._agree(step)
        return self._stopping

    def _agree(self, step: int) -> bool:
        """Whether any rank was asked to stop; also chooses the number of steps until the next agreement."""
        now = time.monotonic()
        mine = [float(self._asked), float(self._asked_to_save), now - self._since]
        self._asked_to_save = False
        total = self._accelerator.reduce(torch.tensor(mine, device=self._accelerator.device), reduction="sum")
        asked, save, seconds = total.tolist()
        self._saving = save > 0
        # The sum is the same on all ranks, and so is the next step of agreement.
        steps = step - self._agreed if self._agreed else 1
        self._steps_between = max(1, int(AGREE_EVERY * steps * world().size / max(seconds, 1e-3)))
        self._agreed, self._since = step, now
        return asked > 0

    def checkpointed(self, step: int, wait: Callable[[], None]) -> None:
        """End as Ctrl-C does, if :meth:`asked` returned True at this step.

        Args:
            step: the step.
            wait: returns once its checkpoint is complete.

        Raises:
            KeyboardInterrupt: it did.
        """
        if self._stopping:
            wait()
            self._reporter.info(f"stopped after step {step}, with a checkpoint")
            raise KeyboardInterrupt


def outlive_interrupts(worker: int) -> None:
    """Make a DataLoader worker ignore SIGINT, SIGHUP, SIGUSR1 and the first SIGTERM.

    Terminals and job schedulers signal all processes of a job, but a training finishes its step, which fails
    in torch when a worker is gone. The second SIGTERM is the one that ends workers.
    """

    def only_once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, only_once)
