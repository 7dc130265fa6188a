"""``maskgit --procs N STAGE``: start the same stage in several processes that find one another.

``torchrun`` and ``accelerate launch`` work too, and are what several machines need; on one machine this
starts sooner and, when a stage fails, leaves the stage's one line instead of the launcher's report.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import click

from maskgit_cli.cli import ENDING
from maskgit_cli.config.base import require

# Seconds between looks at the processes, and those they are given to end when asked to: what batch systems
# give them.
LOOK_EVERY = 0.1
PATIENCE = 30.0

# Tells a process which of its files is the pipe whose other end the launcher holds.
LIFELINE = "MASKGIT_LIFELINE"


def start_processes(procs: int, words: list[str]) -> int:
    """Run ``maskgit WORDS`` in ``procs`` processes on this machine; gives the exit status.

    They talk over NCCL where the stage runs on GPUs, else over gloo. The first that fails ends all, and
    its status is the result. They do not outlive this one, however it ends: orphans would keep the
    cores and GPUs, and the training directory locked, with nobody to stop them.

    Raises:
        ConfigError: ``procs`` is below 1.
    """
    require(procs >= 1, "procs", procs, "1 or more")
    shared = dict(os.environ)
    shared |= {"WORLD_SIZE": str(procs), "LOCAL_WORLD_SIZE": str(procs)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if not _has_gpu(words):
        shared["ACCELERATE_USE_CPU"] = "true"
    # Every process would otherwise start as many threads as there are cores.
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // procs)))
    command = [sys.executable, "-m", "maskgit_cli", *_without_procs(words)]
    # Nothing is ever written: that the reading end comes to an end is what tells of the launcher's.
    reader, writer = os.pipe()
    shared[LIFELINE] = str(reader)
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(procs):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(subprocess.Popen(command, env=environment, pass_fds=(reader,)))
        return _wait(running)
    except KeyboardInterrupt:
        # A terminal has told the others too. A training writes a checkpoint before it ends, and only a
        # second Ctrl-C keeps it from that: a closed terminal sends its signal twice.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        _end(running, PATIENCE)
        return 130
    finally:
        _end(running, 0.0)
        os.close(reader)
        os.close(writer)


def end_with_launcher() -> None:
    """In a process that :func:`start_processes` started: end when the launcher has ended, even killed.

    What a stage writes survives a kill at any moment, so there is nothing to tidy up.
    """
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is None:
        return

    def watch(reader: int) -> None:
        os.read(reader, 1)
        os._exit(1)

    threading.Thread(target=watch, args=(int(lifeline),), daemon=True).start()


def _wait(running: list[subprocess.Popen[bytes]]) -> int:
    """The first status that is not 0, or 0 once all have ended well; says so if one was killed."""
    while True:
        statuses = [process.poll() for process in running]
        for number, status in enumerate(statuses, 1):
            if status is not None and status < 0:
                # Before all other statuses: the others fail because this one no longer answers them.
                _tell_of_kill(f"process {number} of {len(running)}", -status)
                return 128 - status  # what a shell gives
        failed = [status for status in statuses if status]
        if failed:
            return failed[0]
        if all(status == 0 for status in statuses):
            return 0
        time.sleep(LOOK_EVERY)


def _tell_of_kill(which: str, number: int) -> None:
    """The line that a process could not say itself."""
    try:
        how = signal.Signals(number).name
    except ValueError:  # a real-time signal
        how = f"signal {number}"
    if number == signal.SIGKILL:
        how += "; the system does so when memory runs out"
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"maskgit: {which} was killed ({how}); run the same command again to go on", err=True)


def _end(running: list[subprocess.Popen[bytes]], patience: float) -> None:
    """End what still runs: asked to, then killed after so many seconds."""
    alive = [process for process in running if process.poll() is None]
    if patience:
        for process in alive:
            process.terminate()
    until = time.monotonic() + patience
    for process in alive:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _has_gpu(words: list[str]) -> bool:
    """Whether the processes will work on GPUs."""
    if "--device=cpu" in words or ("--device", "cpu") in itertools.pairwise(words):
        return False
    import torch

    return torch.cuda.is_available()


def _without_procs(words: list[str]) -> list[str]:
    """The words of the call less ``--procs N``, which stands before the stage's name."""
    at = next(i for i, word in enumerate(words) if word.startswith("--procs"))
    return words[:at] + words[at + (1 if "=" in words[at] else 2) :]
