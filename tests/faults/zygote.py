"""A process that has imported everything and forks one for each call, which then costs little.

Run as ``python -m faults.zygote FD``. Over the socket FD come pairs of a call and a folder for its outputs;
back go the number of each process, and later its wait status.
"""

import importlib
import os
import pickle
import pkgutil
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from faults.child import Call, run

# What stages import when they are called. A module that is not there any more is passed over.
EXTRA = ("accelerate", "matplotlib.pyplot", "rich.progress", "torchvision", "torch_fidelity", "yaml")


def send(connection: socket.socket, value: object) -> None:
    """Write one value to a socket."""
    data = pickle.dumps(value)
    connection.sendall(len(data).to_bytes(4, "big") + data)


def receive(connection: socket.socket) -> object:
    """Read one value from a socket; EOFError at its end."""
    size = int.from_bytes(_read(connection, 4), "big")
    return pickle.loads(_read(connection, size))


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def warm() -> None:
    """Import all that stages and commands import."""
    import maskgit_cli

    names = [module.name for module in pkgutil.walk_packages(maskgit_cli.__path__, "maskgit_cli.")]
    for name in (*EXTRA, *names):
        if not name.endswith("__main__"):  # which is the command line itself
            with suppress(ImportError):
                importlib.import_module(name)


def serve(connection: socket.socket) -> None:
    """Fork a process for each call until the other end closes; no process outlives this one."""
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    with selectors.DefaultSelector() as waiting:
        waiting.register(connection, selectors.EVENT_READ)
        waiting.register(reader, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is connection:
                    try:
                        call, outputs = receive(connection)
                    except (EOFError, ConnectionError):
                        _end(running)
                        return
                    pid = _fork(call, outputs)
                    running.add(pid)
                    send(connection, ("started", pid))
                else:
                    os.read(reader, 4096)
            for pid, status in _ended():
                running.discard(pid)
                send(connection, ("ended", pid, status))


def _ended() -> list[tuple[int, int]]:
    found = []
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _end(running: set[int]) -> None:
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _fork(call: Call, outputs: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run(call, outputs)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    warm()
    with socket.socket(fileno=int(sys.argv[1])) as own:
        serve(own)
