"""``maskgit --procs N STAGE``: run a stage in several processes on this machine.

``torchrun`` and ``accelerate launch`` work too, and are needed for several machines. On one machine this
starts sooner and, when a stage fails, prints the stage's one line instead of the launcher's report.
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

import rich_click as click

from maskgit_cli.cli.ending import ENDING, INTERRUPTED
from maskgit_cli.config.base import require
from maskgit_cli.errors import ConfigError

# Seconds between polls of the processes, and the seconds they get to end after SIGTERM, as many as job
# schedulers give.
POLL_EVERY = 0.1
PATIENCE = 30.0
# More processes than this per core slow one another down until nothing moves; a GPU needs a core to feed it.
PROCS_PER_CORE = 4

# Longest --nccl-timeout: a week, in minutes.
MOST_MINUTES = 10_080

# Environment variable with the number of the pipe's reading end, whose writing end the launcher holds.
LIFELINE = "MASKGIT_LIFELINE"
# Variables by which torch and Accelerate recognize one of several processes.
_WORLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def check_procs(procs: int) -> None:
    """Raise ConfigError unless this machine can run so many processes."""
    require(procs >= 1, "procs", procs, "1 or more")
    most = PROCS_PER_CORE * (os.cpu_count() or 1)
    require(procs <= most, "procs", procs, f"{most} or less, {PROCS_PER_CORE} per CPU core of this machine")


def check_timeout(minutes: float) -> None:
    """Raise ConfigError unless ranks can wait for one another so long."""
    require(0 < minutes <= MOST_MINUTES, "nccl_timeout", minutes, f"above 0 and {MOST_MINUTES:,} or less")


def check_launcher() -> None:
    """Raise ConfigError if `accelerate launch` was asked for several processes and started one.

    Without GPUs it starts one process, whatever its `--num_processes` says, and sets the address at which
    the others would meet, but neither their number nor this one's rank.
    """
    alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if alone and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate launch: it started one process instead of --num_processes, as it does with --cpu; "
            "use `maskgit --procs N` or `torchrun --nproc_per_node N -m maskgit_cli` instead"
        )


def leave_other_processes() -> None:
    """In a command that does not share its work: end all ranks but 0, which then works like a single process.

    The others exit with 0 at once. Launchers wait for all ranks, so the status of rank 0 is the job's.
    """
    if os.environ.get("RANK", "0") != "0":
        sys.exit(0)
    for name in _WORLD:
        os.environ.pop(name, None)


def start_processes(procs: int, arguments: list[str]) -> int:
    """Run ``maskgit ARGUMENTS`` in ``procs`` processes on this machine; returns the exit status.

    They communicate over NCCL if the stage runs on GPUs, else over gloo. The first that fails ends all, and
    its status is the result. They end with this process, however it ends: orphans would keep the cores,
    the GPUs and the lock of the run directory.
    """
    shared = dict(os.environ)
    shared |= {"WORLD_SIZE": str(procs), "LOCAL_WORLD_SIZE": str(procs)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if not _has_gpu(arguments):
        shared["ACCELERATE_USE_CPU"] = "true"
    # Each process would otherwise start as many threads as there are cores.
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // procs)))
    command = [sys.executable, "-m", "maskgit_cli", *_without_procs(arguments)]
    # Nothing is ever written: the reading ends see the end of the file when this process is gone.
    reader, writer = os.pipe()
    shared[LIFELINE] = str(reader)
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(procs):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(subprocess.Popen(command, env=environment, pass_fds=(reader,)))
        # Ignored until now, which the processes inherit: they handle it once there is something to save.
        signal.signal(signal.SIGUSR1, lambda number, frame: _pass_on(number, running))
        return _wait(running)
    except KeyboardInterrupt:
        # A terminal has signaled the others too. A training writes a checkpoint before it ends unless a
        # second Ctrl-C comes, and a closed terminal sends its signal twice.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        _end(running, PATIENCE)
        return INTERRUPTED
    finally:
        _end(running, 0.0)
        os.close(reader)
        os.close(writer)


def _pass_on(number: int, running: list[subprocess.Popen[bytes]]) -> None:
    """Send a signal to all processes that still run."""
    for process in running:
        process.send_signal(number)


def end_with_launcher() -> None:
    """In a process that :func:`start_processes` started: end when the launcher has ended, even by SIGKILL.

    What a stage writes survives a kill at any moment, so there is nothing to clean up.
    """
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is None:
        return

    def watch(reader: int) -> None:
        os.read(reader, 1)
        os._exit(1)

    threading.Thread(target=watch, args=(int(lifeline),), daemon=True).start()


def _wait(running: list[subprocess.Popen[bytes]]) -> int:
    """The first status that is not 0, or 0 once all have ended; reports a process that was killed."""
    while True:
        statuses = [process.poll() for process in running]
        for number, status in enumerate(statuses, 1):
            if status is not None and status < 0:
                # Before all other statuses: the others fail because this one does not answer any more.
                _report_kill(f"process {number} of {len(running)}", -status)
                return 128 - status  # as a shell does
        failed = [status for status in statuses if status]
        if failed:
            return failed[0]
        if all(status == 0 for status in statuses):
            return 0
        time.sleep(POLL_EVERY)


def _report_kill(which: str, number: int) -> None:
    """Print the line that a killed process could not print."""
    try:
        how = signal.Signals(number).name
    except ValueError:  # a real-time signal
        how = f"signal {number}"
    if number == signal.SIGKILL:
        how += ", likely out of memory"
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"maskgit: {which} was killed ({how}); run the same command again to resume", err=True)


def _end(running: list[subprocess.Popen[bytes]], patience: float) -> None:
    """End what still runs: SIGTERM first, SIGKILL after ``patience`` seconds."""
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
    """A free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _has_gpu(arguments: list[str]) -> bool:
    """Whether the processes will run on GPUs."""
    if "--device=cpu" in arguments or ("--device", "cpu") in itertools.pairwise(arguments):
        return False
    import torch

    return torch.cuda.is_available()


def _without_procs(arguments: list[str]) -> list[str]:
    """The arguments of the call without ``--procs N``, which comes before the stage's name."""
    at = next(i for i, argument in enumerate(arguments) if argument.startswith("--procs"))
    return arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :]
