"""Locks on outputs, against other processes on this and on other hosts."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from maskgit_cli.errors import OutputError
from maskgit_cli.formats.atomic import disk_errors

Warn = Callable[[str], object]
# Seconds to wait for a lock whose process is dead: its workers hold the lock until they notice.
DEAD_WAIT = 10.0
# Seconds to wait for the name of the process that holds a lock: it writes it just after it has the lock.
UNNAMED_WAIT = 1.0


@contextmanager
def lock(path: Path, warn: Warn = warnings.warn) -> Iterator[None]:
    """Hold the lock of an output: ``.NAME.lock`` next to it, or in it where its folder cannot be written.

    The operating system releases the lock of a process that dies. Where the file system has no such locks
    (some network file systems), the existence of the file is the lock if filelock supports that; else a
    warning says that nothing keeps other processes off.

    Raises:
        OutputError: another process holds it.
    """
    created = [folder for folder in path.parents if not folder.exists()]
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock")
        if not os.access(path.parent, os.W_OK) and path.is_dir():
            file = path / ".lock"
    guard = filelock.FileLock(file)
    try:
        with warnings.catch_warnings(action="ignore"), disk_errors(path):
            _acquire(guard, file, path)
    except (OSError, NotImplementedError) as error:
        warn(f"{path} cannot be locked ({error}): do not write it from two processes at a time")
    native = not isinstance(guard, filelock.SoftFileLock)  # a soft lock writes and removes its own file
    if not native:
        warn(f"{path}: the file system has no locks; if a killed process leaves {file}, remove that file")
    elif guard.is_locked:
        _write_holder(file)
    try:
        yield
    finally:
        if native:
            file.unlink(missing_ok=True)
        guard.release()
        _remove_empty(created)


def _acquire(guard: filelock.BaseFileLock, file: Path, path: Path) -> None:
    """Acquire a lock, or say who holds it.

    Raises:
        OutputError: another process holds it.
    """
    deadline = time.monotonic() + UNNAMED_WAIT
    while True:
        try:
            guard.acquire(timeout=DEAD_WAIT if _is_dead(_holder(file)) else 0)
            return
        except filelock.Timeout:
            holder = _holder(file)
        if holder is not None or time.monotonic() > deadline:
            who = f"process {holder[1]} on {holder[0]}" if holder else "another process"
            raise OutputError(f"{path} is in use by {who}; wait until it ends, or choose another place")
        time.sleep(0.01)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that were created for an output, innermost first, if nothing was written."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _write_holder(file: Path) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock holds nevertheless
        file.write_text(f"{socket.gethostname()} {os.getpid()}\n", encoding="utf-8")


def _holder(file: Path) -> tuple[str, int] | None:
    """Host and process that a lock file names; None if it names none."""
    try:
        host, process = file.read_text(encoding="utf-8").split()
        return host, int(process)
    except (OSError, ValueError):
        return None


def _is_dead(holder: tuple[str, int] | None) -> bool:
    """Whether the process of a lock file is known to have ended."""
    if holder is None or holder[0] != socket.gethostname():
        return False
    try:
        os.kill(holder[1], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
