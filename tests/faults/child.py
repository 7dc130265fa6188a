"""The forked process of one case: its limits, the fault that happens in it, and one call of the command line.

Everything that a case asks for is data, so that it can be sent to the process and printed on failure.
"""

import dataclasses
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# What changes a disk from Python: the moments at which a process can be killed or refused something.
OPERATIONS = ("fsync", "replace", "rename", "unlink", "remove", "rmdir", "pwrite", "link")
WRITES = ("write", "pwrite", "fsync", "replace", "rename")

# Lines that are not broken, so that what is said can be searched.
PLAIN: dict[str, str | None] = {"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"}


class Fault(NamedTuple):
    """What happens at the ``at``-th call (from 1) of one of ``operations``.

    Attributes:
        deed: ``kill`` (SIGKILL), ``signal``, ``refuse`` (an OSError), or ``pause``.
        at: which call; 0 is none, and the calls are only counted.
        after: whether the call is made before the deed rather than not at all or later.
        argument: number of the signal or of the error.
        operations: names of functions of ``os``.
    """

    deed: str = "count"
    at: int = 0
    after: bool = False
    argument: int = 0
    operations: tuple[str, ...] = OPERATIONS

    def __str__(self) -> str:
        what = {"signal": "signal", "refuse": "errno"}.get(self.deed)
        number = f" {self.argument}" if what else ""
        when = "after" if self.after else "before"
        return f"{self.deed}{number} {when} change {self.at} of the disk"


@dataclass(frozen=True)
class Call:
    """One call of the command line, or of a function, in a process of its own.

    Attributes:
        words: of the command line.
        cwd: the working directory.
        fault: what happens on the way.
        environment: variables to set; None removes one.
        memory: bytes of address space beyond those at the start; None is no limit.
        file_size: RLIMIT_FSIZE in bytes; None is no limit.
        seconds: after which the process counts as one that never ends.
        function: called with ``words`` instead of the command line.
        terminal: path of a terminal to write to, else output goes to files.
    """

    words: tuple[Any, ...]
    cwd: Path
    fault: Fault | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    memory: int | None = 3 * 2**30
    file_size: int | None = None
    seconds: float = 10.0
    function: Callable[..., None] | None = None
    terminal: str | None = None

    def but(self, **changes: Any) -> "Call":
        """The same call with other values."""
        return dataclasses.replace(self, **changes)


def run(call: Call, outputs: Path) -> None:
    """Make a call in this process. ``outputs`` gets stdout, stderr and the log of disk operations."""
    _set_up(call, outputs)
    if call.function is not None:
        call.function(*call.words)
        return
    from maskgit_cli import SIZES
    from maskgit_cli.cli import main

    SIZES["tiny"] = dataclasses.replace(SIZES["tiny"], width=32, depth=1, heads=4, mlp_width=64)
    main([str(word) for word in call.words])


def _set_up(call: Call, outputs: Path) -> None:
    os.chdir(call.cwd)
    _redirect(call.terminal, outputs)
    for name, value in call.environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _use_hub_settings()
    if call.memory is not None:
        limit = _address_space() + call.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if call.file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (call.file_size, call.file_size))
    if call.fault is not None:
        inject(call.fault, outputs)


def _redirect(terminal: str | None, outputs: Path) -> None:
    """Open stdout and stderr as the interpreter does where text is UTF-8."""
    for number, stream, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        place, flags = terminal or outputs / stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY
        file = os.open(place, flags, 0o666)
        os.dup2(file, number)
        os.close(file)
        opened = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, stream, opened)


def _use_hub_settings() -> None:
    """Take over what the hub's library read from the environment when it was imported."""
    from huggingface_hub import constants

    home = os.environ.get("HF_HOME")
    if home:
        constants.HF_HOME, constants.HF_HUB_CACHE = home, str(Path(home, "hub"))
    endpoint, template = os.environ.get("HF_ENDPOINT", constants.ENDPOINT), "HUGGINGFACE_CO_URL_TEMPLATE"
    setattr(constants, template, endpoint + getattr(constants, template).removeprefix(constants.ENDPOINT))
    constants.ENDPOINT = endpoint
    constants.HF_HUB_OFFLINE = bool(os.environ.get("HF_HUB_OFFLINE"))
    constants.HF_HUB_DISABLE_XET = True


def _address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# --- faults -----------------------------------------------------------------------------------------


def inject(fault: Fault, outputs: Path) -> None:
    """Wrap the operations, so that the fault happens at its call and every call is in a log."""
    log = os.open(outputs / "operations", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    write, calls = os.write, []

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **settings: Any) -> Any:
            calls.append(name)
            write(log, f"{name}\n".encode())
            now = len(calls) == fault.at
            if now and not fault.after:
                _do(fault, outputs)
            try:
                return original(*arguments, **settings)
            finally:
                if now and fault.after:
                    _do(fault, outputs)

        return operation

    for name in fault.operations:
        setattr(os, name, wrapped(name, getattr(os, name)))


def _do(fault: Fault, outputs: Path) -> None:
    if fault.deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.deed == "signal":
        os.kill(os.getpid(), fault.argument)
    elif fault.deed == "refuse":
        raise OSError(fault.argument, os.strerror(fault.argument))
    elif fault.deed == "pause":
        Path(outputs, "paused").touch()
        while not Path(outputs, "released").exists():
            time.sleep(0.01)
