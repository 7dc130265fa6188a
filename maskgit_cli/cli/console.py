"""What the user sees: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, SupportsFloat

import click

# Seconds between plain lines where stderr is no terminal.
LINE_EVERY = 15.0
# Characters of a task's name beside its bar.
LONGEST_NAME = 24


def memory_gb() -> float:
    """Memory in GB that the work needs: allocated on the GPU if one is used, else resident at its peak."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def duration(seconds: float) -> str:
    """A length of time as people say it: ``42s``, ``3m05s``, ``2h10m``, ``3d4h``."""
    s = int(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600}h"


def size(count: float) -> str:
    """A number of bytes as people say it: ``645 bytes``, ``12.3 kB``, ``539 MB``, ``2.09 GB``."""
    for unit, text in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {text}"
    return f"{count:.0f} bytes"


def amount(n: float, unit: str) -> str:
    """A number of units as people read it."""
    return size(n) if unit == "bytes" else f"{n:.0f}"


def shortened(text: str, length: int) -> str:
    """A text of at most ``length`` characters, the end of a longer one replaced by a mark."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _tell(text: str, **style: Any) -> None:
    """Write a line to stderr. The work is worth more than its news: whoever read them may have left."""
    with suppress(BrokenPipeError):
        click.secho(text, err=True, **style)


class _PlainTask:
    """Progress as a line now and then."""

    def __init__(self, description: str, total: int, done: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.before = done
        self.began = self.spoke = time.monotonic()
        self.stats: dict[str, SupportsFloat] = {}
        self.said = -1

    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Count ``n`` more done, and say so if the last line is old."""
        self.done += n
        self.stats = stats or self.stats
        if time.monotonic() - self.spoke >= LINE_EVERY:
            self.spoke = time.monotonic()
            self.say()

    def say(self) -> None:
        """Write the line, unless it was the last one written."""
        if self.said == self.done:
            return
        self.said = self.done
        elapsed = max(time.monotonic() - self.began, 1e-9)
        speed = (self.done - self.before) / elapsed
        left = ""
        if speed and self.done < self.total:
            left = f", {duration((self.total - self.done) / speed)} left"
        stats = "".join(f", {name} {float(value):.4g}" for name, value in self.stats.items())
        if self.unit == "bytes":  # what is fetched needs no memory to speak of
            done = f"{size(self.done)} of {size(self.total)}" if self.total else size(self.done)
            _tell(f"{self.description}: {done}, {size(speed)}/s{left}")
            return
        _tell(
            f"{self.description}: {self.done}/{self.total} {self.unit}, {speed:.3g}/s{left}{stats}, "
            f"{memory_gb():.1f} GB"
        )


class _BarTask:
    """Progress as a bar."""

    def __init__(self, progress: Any, task: Any) -> None:
        self.progress, self.task = progress, task
        self.shown = 0.0

    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Move the bar on by ``n``."""
        self.progress.advance(self.task, n)
        # Reading a number off the GPU waits for it, so do that a few times a second at most.
        if stats and time.monotonic() - self.shown > 0.25:
            self.shown = time.monotonic()
            text = "".join(f"  {name} {float(value):.4g}" for name, value in stats.items())
            self.progress.update(self.task, stats=text)


def _beside_the_bar(task: Any, unit: str) -> str:
    """Count, rate, time left, memory and a loss; each as wide at the end as now, so that nothing jumps."""
    done, total = amount(task.completed, unit), amount(task.total or 0, unit)
    if task.finished:
        time_left = f"in {duration(task.finished_time)}"
    elif task.time_remaining is None:
        time_left = ""
    else:
        time_left = f"{duration(task.time_remaining)} left"
    speed = task.finished_speed or task.speed
    shown = (f"{size(speed)}/s" if unit == "bytes" else f"{speed:.3g}/s") if speed else ""
    stats = task.fields["stats"]
    if unit == "bytes":  # what is fetched needs no memory to speak of
        counted = f"{done} of {total}" if task.total else done
        return f"{counted} {shown:>11} {time_left:>11}"
    return f"{done:>{len(total)}}/{total} {shown:>9} {time_left:>11}  {memory_gb():.1f} GB{stats}"


class ConsoleReporter:
    """A :class:`~maskgit_cli.runtime.progress.Reporter` on stderr: bars on a terminal, plain lines elsewhere.

    Args:
        quiet: leave out progress and news; warnings stay.
        speaks: False in all but the main process of several.
    """

    def __init__(self, quiet: bool = False, speaks: bool = True) -> None:
        self.quiet = quiet
        self.speaks = speaks

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Any]:
        """Show a piece of work; see :class:`~maskgit_cli.runtime.progress.Reporter`."""
        if self.speaks and not self.quiet and sys.stderr.isatty():
            with self._progress(unit) as progress:
                name = shortened(description, LONGEST_NAME)
                task = progress.add_task(name, total=total, completed=done, stats="")
                yield _BarTask(progress, task)
            return
        plain = _PlainTask(description, total, done, unit)
        if self.quiet or not self.speaks:
            plain.spoke = float("inf")
        yield plain
        if not self.quiet and self.speaks:
            plain.say()

    def _progress(self, unit: str) -> Any:
        """A bar that takes what room the words leave, so that a line never wraps on 80 columns."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.table import Column
        from rich.text import Text

        class Words(ProgressColumn):
            """What stands beside the bar."""

            def render(self, task: Any) -> Text:
                return Text(_beside_the_bar(task, unit), style="dim")

        return Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            Words(table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
            expand=True,
        )

    def info(self, text: str) -> None:
        """Say something the user may want to know."""
        if self.speaks and not self.quiet:
            _tell(text)

    def warn(self, text: str) -> None:
        """Say something the user must not miss."""
        if self.speaks:
            _tell(f"warning: {text}", fg="yellow" if sys.stderr.isatty() else None)


def _speaks() -> bool:
    """Whether this process speaks for all that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def reporter(quiet: bool) -> ConsoleReporter:
    """The reporter for this process; of several, only the first speaks."""
    return ConsoleReporter(quiet, speaks=_speaks())


def result(path: Path | None, record: Mapping[str, Any], as_json: bool) -> None:
    """Print what a command made: its path, or with ``--json`` one object. Of several processes, once."""
    if not _speaks():
        return
    click.echo(json.dumps(dict(record), ensure_ascii=False) if as_json else str(path))


def table(title: str, rows: Mapping[str, Any]) -> None:
    """Show names and values on stderr; of several processes, once."""
    if not _speaks():
        return
    width = max((len(name) for name in rows), default=0)
    click.echo(title, err=True)
    for name, value in rows.items():
        click.echo(f"  {name:<{width}}  {value}", err=True)


# Longer values end in an ellipsis where they stand in columns.
_VALUE_WIDTH = 24


def columns(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> None:
    """Show names with several values each on stderr, under heads; of several processes, once."""
    if not _speaks():
        return
    lines = [("", *map(str, heads)), *((name, *map(_plain, values)) for name, values in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    click.echo(title, err=True)
    for line in lines:
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo(f"  {'  '.join(cells)}".rstrip(), err=True)


def _plain(value: object) -> str:
    """A value as it stands in a table."""
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _VALUE_WIDTH else text[: _VALUE_WIDTH - 1] + "…"
