"""Calls of the command line in processes of their own, with a time limit, and what they came to."""

import atexit
import functools
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from faults import zygote
from faults.child import Call

TESTS = Path(__file__).parents[1]


class Outcome(NamedTuple):
    """How a call ended.

    Attributes:
        status: exit status, or minus the number of the signal that ended it; None if it did not end in time.
        stdout: what it printed.
        stderr: what it said.
        seconds: how long it took.
        operations: what it did to the disk, where a fault was asked for.
    """

    status: int | None
    stdout: str
    stderr: str
    seconds: float
    operations: list[str]

    @property
    def said(self) -> list[str]:
        """The lines of stderr that are not progress: warnings and errors."""
        return [line for line in self.stderr.splitlines() if line.startswith("maskgit: ")]

    def __str__(self) -> str:
        ended = "did not end" if self.status is None else f"status {self.status}"
        return f"{ended} after {self.seconds:.1f} s; stderr: {self.stderr[-600:].strip() or 'empty'}"


class Process:
    """One call under way."""

    def __init__(self, pid: int, call: Call, outputs: Path, server: "_Server") -> None:
        self.pid, self.call, self.outputs = pid, call, outputs
        self._server, self._began = server, time.monotonic()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it, and with SIGKILL to what it started."""
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def paused(self, seconds: float = 30.0) -> bool:
        """Wait until it pauses at its fault; False if it ended before."""
        until = time.monotonic() + seconds
        while not (self.outputs / "paused").exists():
            if self._server.status(self.pid, 0.01) is not None or time.monotonic() > until:
                return False
        return True

    def release(self) -> None:
        """End its pause."""
        (self.outputs / "released").touch()

    def wait(self, seconds: float | None = None) -> Outcome:
        """Wait for its end; it is killed after the call's time limit."""
        limit = self.call.seconds if seconds is None else seconds
        status = self._server.status(self.pid, limit)
        took = time.monotonic() - self._began
        if status is None:
            self.kill()
            self._server.status(self.pid, 30.0)
        log = self.outputs / "operations"
        operations = log.read_text().split() if log.exists() else []
        return Outcome(status, self._text("stdout"), self._text("stderr"), took, operations)

    def _text(self, name: str) -> str:
        path = self.outputs / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


class _Server:
    """The forking process, seen from the tests."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        paths = os.pathsep.join(dict.fromkeys([str(TESTS), *filter(None, sys.path)]))
        environment = {**os.environ, "PYTHONPATH": paths, "MASKGIT_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "faults.zygote", str(theirs.fileno())]
        self.process = subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(),))
        theirs.close()
        self._statuses: dict[int, int] = {}
        self.outputs = Path(tempfile.mkdtemp(prefix="maskgit-faults-"))
        self._count = 0

    def start(self, call: Call) -> Process:
        self._count += 1
        outputs = self.outputs / str(self._count)
        outputs.mkdir()
        self._connection.settimeout(120.0)
        zygote.send(self._connection, (call, outputs))
        while (reply := zygote.receive(self._connection))[0] != "started":
            self._statuses[reply[1]] = reply[2]
        self._statuses.pop(reply[1], None)  # of an earlier process of this number
        return Process(reply[1], call, outputs, self)

    def status(self, pid: int, seconds: float) -> int | None:
        """Exit status of a process, once it is known within so many seconds."""
        until = time.monotonic() + seconds
        while pid not in self._statuses:
            left = until - time.monotonic()
            if left <= 0:
                return None
            if not select.select([self._connection], [], [], left)[0]:
                return None
            _, ended, status = zygote.receive(self._connection)  # whole, however slowly it comes
            self._statuses[ended] = status
        return self._statuses[pid]

    def close(self) -> None:
        self._connection.close()
        self.process.wait(10)
        subprocess.run(["rm", "-rf", str(self.outputs)], check=False)


@functools.cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server


def start(call: Call) -> Process:
    """Start a call."""
    return _server().start(call)


def finish(call: Call) -> Outcome:
    """Make a call and wait for its end."""
    return start(call).wait()
