"""How a command ends: exit statuses, the one line of an error, and signals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from typing import NoReturn

import rich_click as click

from maskgit_cli.cli import console

FAILED, INTERRUPTED = 1, 130
# An error in one of several processes is mostly an error in all. Rank 0 reports it, and the launcher ends
# the others within this many seconds.
OTHERS_WAIT = 3.0

# Signals that ask a process to end: `kill`, a job scheduler, a closed terminal. They act like Ctrl-C.
ENDING = (signal.SIGTERM, signal.SIGHUP)

# Errors of the system that can occur anywhere; where files are written, the library says more.
REFUSALS = {
    errno.EACCES: "permission denied; change the permissions or choose another path",
    errno.EPERM: "operation not permitted; change the permissions or choose another path",
    errno.ENOSPC: "the disk is full",
    errno.ENAMETOOLONG: "the name is too long",
}


def handle_signals() -> None:
    """Let :data:`ENDING` do what Ctrl-C does, unless they are ignored, as under nohup.

    SIGUSR1 asks a training for a checkpoint; while there is nothing to save it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print one line on stderr and end the process with this exit status."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *ENDING):  # a second one ends the process at once
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, signal.SIG_DFL)
    if os.environ.get("RANK", "0") != "0":
        if status == INTERRUPTED:  # all ranks were interrupted; rank 0 reports it
            sys.exit(status)
        time.sleep(OTHERS_WAIT)
    with contextlib.suppress(BrokenPipeError):  # of `2>&1 | tee`, which Ctrl-C has ended too
        click.echo(console.printable(f"maskgit: {' '.join(message.split())}"), err=True)
    sys.exit(status)


def fail_usage(error: click.ClickException) -> NoReturn:
    """Report a usage error: with rich-click's panel on a terminal, else as one line that scripts can log."""
    ctx = getattr(error, "ctx", None)
    if ctx is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        formatter = ctx.make_formatter(error_mode=True)
        formatter.write_error(error)
        click.echo(formatter.getvalue(), err=True, nl=False)
        sys.exit(error.exit_code)
    hint = f" (see {ctx.command_path} --help)" if ctx is not None else ""
    fail(error.format_message().rstrip(".") + hint, error.exit_code)


def fail_unexpectedly(error: Exception) -> NoReturn:
    """Report an error that no part of the library expected."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        fail(f"{error.filename or 'standard output'}: {REFUSALS[error.errno]}")
    text = " ".join(str(error).split())[:300]
    fail(f"{type(error).__name__}: {text} (rerun with --debug for the full traceback)")


def leave_quietly() -> NoReturn:
    """End when the reader of stdout (head, say) has closed its end; there is no one to report to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(FAILED)
