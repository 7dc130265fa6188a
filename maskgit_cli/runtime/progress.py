"""What a long stage says while it works. The library speaks through a :class:`Reporter`; the command
line has one that draws bars, and :data:`SILENT` says nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, SupportsFloat


class Task(Protocol):
    """One piece of work whose length is known."""

    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Count ``n`` more done; ``stats`` (a loss, say) are shown beside the bar."""


class Reporter(Protocol):
    """Where a stage's progress, news and warnings go."""

    def task(
        self, description: str, total: int, done: int = 0, unit: str = "images"
    ) -> AbstractContextManager[Task]:
        """Begin a piece of work of ``total`` units of which ``done`` were done in an earlier run."""

    def info(self, text: str) -> None:
        """Say something the user may want to know."""

    def warn(self, text: str) -> None:
        """Say something the user must not miss."""


class _SilentTask:
    def advance(self, n: int = 1, **stats: SupportsFloat) -> None:
        """Say nothing."""


class _SilentReporter:
    def task(
        self, description: str, total: int, done: int = 0, unit: str = "images"
    ) -> AbstractContextManager[Task]:
        """Begin a piece of work and say nothing."""
        return nullcontext(_SilentTask())

    def info(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


SILENT: Reporter = _SilentReporter()
