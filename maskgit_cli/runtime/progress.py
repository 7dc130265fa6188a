"""Progress and messages of long stages, through a :class:`Reporter`.

The command line has one with progress bars; :data:`SILENT` reports nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, SupportsFloat


class Task(Protocol):
    """A piece of work of known length."""

    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Count ``n`` more units as done; ``stats`` (a loss, say) are shown next to the bar."""


class Reporter(Protocol):
    """Receives progress updates, messages and warnings of a stage."""

    def task(
        self, description: str, total: int, done: int = 0, unit: str = "images"
    ) -> AbstractContextManager[Task]:
        """Start a piece of work of ``total`` units (0: not known), ``done`` of which were done before."""

    def info(self, text: str) -> None:
        """Show a message, which ``--quiet`` suppresses."""

    def warn(self, text: str) -> None:
        """Show a warning, which ``--quiet`` does not suppress."""


class _SilentTask:
    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Report nothing."""


class _SilentReporter:
    def task(
        self, description: str, total: int, done: int = 0, unit: str = "images"
    ) -> AbstractContextManager[Task]:
        """Start a piece of work, and report nothing."""
        return nullcontext(_SilentTask())

    def info(self, text: str) -> None:
        """Report nothing."""

    def warn(self, text: str) -> None:
        """Report nothing."""


SILENT: Reporter = _SilentReporter()
