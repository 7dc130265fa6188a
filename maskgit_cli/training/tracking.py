"""The log of a training in TensorBoard or Weights & Biases, through Accelerate's trackers."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.atomic import disk_errors, write_bytes
from maskgit_cli.runtime.distributed import world
from maskgit_cli.training.common import MetricsLine

# Name of the project in trackers, and of the folder of their files in a training directory.
PROJECT, FOLDER = "maskgit", "tracking"


def add_tracker(accelerator: Any, name: str | None) -> None:
    """Choose the tracker of a training, if it is installed.

    Args:
        accelerator: an ``accelerate.Accelerator``.
        name: ``tensorboard`` or ``wandb``; None is none.

    Raises:
        ConfigError: its package is missing.
    """
    if name is None:
        return
    from accelerate.tracking import filter_trackers

    # As Accelerator(log_with=...) does; the directory is not known by then. It warns about what is missing.
    accelerator.log_with = filter_trackers([name], FOLDER)
    if not accelerator.log_with:
        raise ConfigError(f"--log-with {name}: the package is not installed; run `pip install {name}`")


class TrackedLog:
    """Lines of a training's log that also go to its tracker, under the same names.

    A context; its end ends the tracker. Without a tracker it only passes lines on.

    Args:
        log: receives all lines.
        accelerator: with the tracker of :func:`add_tracker`.
        out: the training directory; files of the tracker are in its folder ``tracking``.
        step: that the training resumes from; TensorBoard drops points after it.
        settings: of the training.

    Raises:
        OutputError: the file system refuses.
    """

    def __init__(
        self, log: MetricsLine, accelerator: Any, out: Path, step: int, settings: Mapping[str, Any]
    ) -> None:
        self.log, self.accelerator, self._stack = log, accelerator, ExitStack()
        self.tracked = bool(accelerator.log_with) and world().main
        if not self.tracked:
            return
        folder = out / FOLDER
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            accelerator.project_configuration.logging_dir = str(folder)
            wandb = {"dir": str(folder), "name": out.name, "id": _run_id(folder), "resume": "allow"}
            options = {"tensorboard": {"purge_step": step + 1}, "wandb": {**wandb, "config": dict(settings)}}
            _start(accelerator, options)
        for tracker in accelerator.trackers:
            self._stack.callback(tracker.finish)

    def __enter__(self) -> TrackedLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def append(self, **values: Any) -> None:
        """Add a line; ``step`` is among the values. A tracker gets those that are finite numbers."""
        self.log.append(**values)
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        step = numbers.pop("step")
        numbers = {key: value for key, value in numbers.items() if math.isfinite(value)}
        if self.tracked and numbers:
            self.accelerator.log(numbers, step=step)


def _start(accelerator: Any, options: Mapping[str, Any]) -> None:
    """Start the tracker; what it raises is its own: no login, say, or no connection.

    Raises:
        ConfigError: it cannot be started.
    """
    try:
        accelerator.init_trackers(PROJECT, init_kwargs=options)
    except OSError:
        raise
    except Exception as error:
        name = accelerator.log_with[0]
        raise ConfigError(f"--log-with {name}: cannot be started ({' '.join(str(error).split())})") from error


def _run_id(folder: Path) -> str:
    """The name by which Weights & Biases finds the run again when it is resumed, also from elsewhere."""
    file = folder / "wandb-run-id"
    if not file.exists():
        write_bytes(file, uuid.uuid4().hex[:12].encode())
    return file.read_text()
