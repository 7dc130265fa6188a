"""Output of the commands: the result on stdout; progress, messages and tables on stderr."""

from __future__ import annotations

import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, SupportsFloat

import rich_click as click

# Seconds between plain lines where stderr is not a terminal.
LINE_EVERY = 15.0
# Characters of a task's name next to its bar.
LONGEST_NAME = 24
# Characters of a value in a table.
LONGEST_VALUE = 24


def memory_gb() -> float:
    """Peak memory in GB: allocated on the GPU if one is used, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def duration(seconds: float) -> str:
    """A length of time for people: ``42s``, ``3m05s``, ``2h10m``, ``3d4h``."""
    s = int(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600}h"


def size(count: float) -> str:
    """A number of bytes for people: ``645 bytes``, ``12.3 kB``, ``539 MB``, ``2.09 GB``."""
    for unit, text in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {text}"
    return f"{count:.0f} bytes"


def amount(n: float, unit: str) -> str:
    """A number of units for people."""
    return size(n) if unit == "bytes" else f"{n:.0f}"


def shortened(text: str, length: int) -> str:
    """A text of at most ``length`` characters; a longer one ends in an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def is_terminal(stream: Any) -> bool:
    """Whether a standard stream is a terminal; a closed one is None."""
    return stream is not None and stream.isatty()


def printable(text: str) -> str:
    """A text whose control characters are escaped: names and records can hold anything, also commands to
    the terminal."""
    return "".join(c if c.isprintable() or c in "\n\xa0\u200d" else repr(c)[1:-1] for c in text)


def _print(text: str, **style: Any) -> None:
    """Write a line to stderr. A closed stderr is no reason to stop working."""
    with suppress(BrokenPipeError):
        click.secho(printable(text), err=True, **style)


def echo(text: str) -> None:
    """Write a line to stdout: as it is for other programs, printable on a terminal."""
    click.echo(printable(text) if is_terminal(sys.stdout) else text)


class _PlainTask:
    """Progress as a line now and then."""

    def __init__(self, description: str, total: int, done: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.before = done
        self.start = self.printed_at = time.monotonic()
        self.stats: dict[str, SupportsFloat] = {}
        self.printed = -1

    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Count ``n`` more done, and print a line if the last one is old."""
        self.done += n
        self.stats = stats or self.stats
        if time.monotonic() - self.printed_at >= LINE_EVERY:
            self.printed_at = time.monotonic()
            self.print()

    def print(self) -> None:
        """Print the line, unless it was the last one printed."""
        if self.printed == self.done:
            return
        self.printed = self.done
        elapsed = max(time.monotonic() - self.start, 1e-9)
        speed = (self.done - self.before) / elapsed
        left = ""
        if speed and self.done < self.total:
            left = f", {duration((self.total - self.done) / speed)} left"
        if self.unit == "bytes":  # a download needs no memory worth showing
            done = f"{size(self.done)} of {size(self.total)}" if self.total else size(self.done)
            _print(f"{self.description}: {done}, {size(speed)}/s{left}")
            return
        stats = "".join(f", {name} {float(value):.4g}" for name, value in self.stats.items())
        done = f"{self.done}/{self.total}" if self.total else str(self.done)
        count = f"{done} {self.unit}, {speed:.3g}/s"
        _print(f"{self.description}: {count}{left}{stats}, {memory_gb():.1f} GB")


class _BarTask:
    """Progress as a bar."""

    def __init__(self, progress: Any, task: Any) -> None:
        self.progress, self.task = progress, task
        self.shown_at = 0.0

    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Advance the bar by ``n``."""
        self.progress.advance(self.task, n)
        # Reading a number waits for the GPU, so it is done a few times per second at most.
        if stats and time.monotonic() - self.shown_at > 0.25:
            self.shown_at = time.monotonic()
            text = "".join(f"  {name} {float(value):.4g}" for name, value in stats.items())
            self.progress.update(self.task, stats=text)


def _next_to_the_bar(task: Any) -> str:
    """Count, rate, time left, memory and a loss, each of constant width, so that nothing jumps."""
    unit = task.fields["unit"]
    done, total = amount(task.completed, unit), amount(task.total or 0, unit)
    if task.finished:
        time_left = f"in {duration(task.finished_time)}"
    elif task.time_remaining is None:
        time_left = ""
    else:
        time_left = f"{duration(task.time_remaining)} left"
    speed = task.finished_speed or task.speed
    rate = (f"{size(speed)}/s" if unit == "bytes" else f"{speed:.3g}/s") if speed else ""
    if unit == "bytes":  # a download needs no memory worth showing
        counted = f"{done} of {total}" if task.total else done
        return f"{counted} {rate:>11} {time_left:>11}"
    stats = task.fields["stats"]
    counted = f"{done:>{len(total)}}/{total}" if task.total else f"{done} {unit}"
    return f"{counted} {rate:>9} {time_left:>11}  {memory_gb():.1f} GB{stats}"


def rank() -> int:
    """The rank that a launcher gave this process, 0 without one."""
    return int(os.environ.get("RANK", "0"))


class ConsoleReporter:
    """A :class:`~maskgit_cli.runtime.progress.Reporter` on stderr: bars on a terminal, plain lines elsewhere.

    Args:
        quiet: suppress progress and info messages; warnings are still shown.
        silent: print nothing at all, as on all ranks but 0.
    """

    def __init__(self, quiet: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.silent = silent
        self._bars: Any = None

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Any]:
        """Show the progress of a task; see :class:`~maskgit_cli.runtime.progress.Reporter`."""
        if not self.quiet and is_terminal(sys.stderr):
            with self._bar(description, total, done, unit) as bar:
                yield bar
            return
        plain = _PlainTask(description, total, done, unit)
        if self.quiet:
            plain.printed_at = float("inf")
        yield plain
        if not self.quiet:
            plain.print()

    @contextmanager
    def _bar(self, description: str, total: int, done: int, unit: str) -> Iterator[_BarTask]:
        """A bar; within another task it is below that one's, and disappears at its end."""
        outer = self._bars
        with nullcontext(outer) if outer else _progress_bars() as bars:
            self._bars = bars
            name = shortened(printable(description), LONGEST_NAME)
            bar = bars.add_task(name, total=total or None, completed=done, stats="", unit=unit)
            try:
                yield _BarTask(bars, bar)
            finally:
                self._bars = outer
                if outer:
                    bars.remove_task(bar)

    def info(self, text: str) -> None:
        """Print a message."""
        if not self.quiet:
            _print(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        if not self.silent:
            _print(f"warning: {text}", fg="yellow" if is_terminal(sys.stderr) else None)


def _progress_bars() -> Any:
    """Rich progress bars that take the room that the text leaves, so that a line never wraps."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        """The text next to the bar."""

        def render(self, task: Any) -> Text:
            return Text(_next_to_the_bar(task), style="dim")

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        Figures(table_column=Column(no_wrap=True)),
        console=Console(stderr=True),
        expand=True,
    )


# When the command at work began: its reporter is the first thing that it makes.
_began = time.monotonic()


def reporter(quiet: bool) -> ConsoleReporter:
    """The reporter of this process; only rank 0 prints."""
    global _began
    _began = time.monotonic()
    return ConsoleReporter(quiet, silent=rank() != 0)


def result(path: Path | None, record: Mapping[str, Any], as_json: bool) -> None:
    """Print a command's result on stdout, on rank 0: its path, or with ``--json`` one object."""
    if rank() == 0:
        echo(json.dumps(dict(record), ensure_ascii=is_terminal(sys.stdout)) if as_json else str(path))


def confirm(question: str) -> bool:
    """Ask a question on a terminal, with yes as the default; announce it where nobody can answer."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        log(question.removesuffix("?"))
        return True
    return click.confirm(printable(question), default=True, err=True)


def log(*lines: str) -> None:
    """Print lines on stderr, on rank 0."""
    for line in lines if rank() == 0 else ():
        _print(line)


def table(title: str, rows: Mapping[str, Any]) -> None:
    """Print names and values on stderr, on rank 0."""
    width = max((len(name) for name in rows), default=0)
    log(title, *(f"  {name:<{width}}  {value}" for name, value in rows.items()))


def summary(
    quiet: bool,
    made: Path | None,
    facts: Mapping[str, Any],
    *,
    resumed: bool = False,
    look: Path | None = None,
    then: str | None = None,
) -> None:
    """Print on stderr, on rank 0, what a command made and what is likely to be done with it.

    Args:
        quiet: print nothing.
        made: the result; None is nothing on the disk.
        facts: its final numbers by their names; those that are None are left out.
        resumed: whether earlier calls had done some of it, so that the time is not that of all of it.
        look: where to look first.
        then: the likely next command.
    """
    if quiet:
        return
    numbers = [f"{name} {_number(value)}" for name, value in facts.items() if value is not None]
    took = duration(time.monotonic() - _began)
    log(f"{made}: {', '.join([*numbers, f'{took} since it was resumed' if resumed else took])}")
    if look is not None and look.exists():
        log(f"  look at {look}")
    if then is not None:
        log(f"  next: {then}")


def _number(value: Any) -> str:
    """A value for people: whole numbers with separators, others with four digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def quoted(path: Path) -> str:
    """A path as it is typed in a shell."""
    return shlex.quote(str(path))


def next_with(path: Path) -> str | None:
    """The command that uses a model or tokenizer directory; None of other files, as of ``export --to v1``."""
    if (path / "tokenizer").is_dir():
        return f"maskgit sample {quoted(path)}"
    if (path / "config.json").is_file():
        return f"maskgit tokenize IMAGES tokens.h5 --tokenizer {quoted(path)}"
    return None


def final_metrics(run: Path, names: Sequence[str]) -> dict[str, Any]:
    """The last value of each of some quantities in a training's log, and of all scores there."""
    from maskgit_cli.reports.inspecting import last_metrics

    return last_metrics(run, names)


def columns(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> None:
    """Print names with several values each on stderr, under heads, on rank 0."""
    lines = [("", *map(str, heads)), *((name, *map(_cell, values)) for name, values in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    log(title, *(f"  {'  '.join(line)}".rstrip() for line in cells))


def _cell(value: object) -> str:
    """A value in a table."""
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return shortened(text, LONGEST_VALUE)
