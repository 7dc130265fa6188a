"""Run directories: a training's record, metrics, previews and checkpoints.

``train`` and ``train-vqgan`` keep their state the same way; docs/artifacts.md specifies it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import (
    check_format,
    disk_errors,
    read_json,
    remove_directory,
    remove_leftovers,
    remove_leftovers_below,
    replacing_directory,
    sha256_file,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.tensors import read_tensors, write_tensors

RUN_FORMAT, RUN_VERSION = "maskgit-run", 1
LOCK_FILE = ".lock"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FORMAT, CHECKPOINT_VERSION = "maskgit-checkpoint", 1


class Checkpoint(NamedTuple):
    """What a training resumes from.

    Attributes:
        step: optimizer steps done.
        tensors: named tensors by the name of their file (``model``, ``ema``, ``optimizer`` ...).
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; what a killed process left half-written is not one."""
    return sorted(path for path in run.glob("checkpoints/step-*") if (path / "state.json").exists())


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = checkpoints(run)
    return found[-1] if found else None


def save_checkpoint(run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], keep: int) -> Path:
    """Write a checkpoint whole, then remove all but the ``keep`` newest.

    Raises:
        OutputError: the file system refuses.
    """
    path = checkpoint_path(run, step)
    remove_leftovers(path)
    with replacing_directory(path) as temporary:
        for name, group in tensors.items():
            write_tensors(temporary / f"{name}.safetensors", group)
        files = {file.name: sha256_file(file) for file in sorted(temporary.glob("*.safetensors"))}
        state = {"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, "step": step, "sha256": files}
        write_json(temporary / "state.json", state)
    remove_old_checkpoints(run, keep)
    return path


def remove_old_checkpoints(run: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints; also what a killed process didn't come to.

    Raises:
        OutputError: the file system refuses.
    """
    for old in checkpoints(run)[:-keep]:
        remove_directory(old)


def load_checkpoint(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint of a run, checking every file's digest; None where there is none.

    Raises:
        ArtifactError: a file is missing or not the one that was written.
    """
    path = newest_checkpoint(run)
    if path is None:
        return None
    state = read_json(path / "state.json", "a checkpoint")
    check_format(state, path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
    tensors = {}
    for name, digest in state["sha256"].items():
        file = path / name
        if not file.exists() or sha256_file(file) != digest:
            raise ArtifactError(
                f"{file} is missing or damaged; remove {path} to resume from the checkpoint before it"
            )
        tensors[name.removesuffix(".safetensors")] = read_tensors(file)
    return Checkpoint(int(state["step"]), tensors)


@contextmanager
def held(path: Path, ours: bool = True) -> Iterator[None]:
    """Keep other processes from training in a directory meanwhile.

    The lock is the operating system's and ends with the process, however that ends.

    Args:
        path: the directory; it holds the empty file ``.lock`` from then on.
        ours: False does nothing, for all but the main process of several.

    Raises:
        OutputError: another process trains there.
    """
    if not ours:
        yield
        return
    with disk_errors(path):
        descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError(
            f"{path}: another process is training there; wait for it, or choose another place with --out"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def settle_record(path: Path, record: Mapping[str, Any], overwrite: bool, what: str, free: Set[str]) -> bool:
    """Begin a training directory, or make sure that the one there is the same training.

    Args:
        path: the directory; ``config.json`` is written in it.
        record: what ``config.json`` is to hold. ``settings``, ``parents`` and sizes must be equal to
            what is there.
        overwrite: remove what is there and begin anew.
        what: what the directory is, for the errors.
        free: settings that may differ, because they say how far and how talkatively to train.

    Returns:
        True if a training is resumed.

    Raises:
        OutputError: the directory holds something else, was made with other settings, or another
            process is training there.
    """
    config = path / "config.json"
    if (path / LOCK_FILE).exists():
        with held(path):  # nobody is at work there
            pass
    if overwrite and path.exists():
        _check_ours(path, record["format"], what)
        remove_directory(path)
    remove_leftovers(path)
    remove_leftovers(config)
    if config.exists():
        old = read_json(config, what)
        check_format(old, path, record["format"], record["version"])
        _check_same(path, old, record, free)
        remove_leftovers_below(path)
        remove_old_checkpoints(path, record["settings"]["keep"])
        if old != record:
            write_json(config, record)
        return True
    if path.exists() and any(path.iterdir()):
        raise OutputError(f"{path} exists and is not {what}; choose another place with --out")
    write_json(config, record)
    return False


def _check_ours(path: Path, name: str, what: str) -> None:
    """Refuse to remove a directory that we did not make."""
    if not path.is_dir():
        raise OutputError(f"{path} is not a folder; choose another place with --out")
    config = path / "config.json"
    ours = config.exists() and read_json(config, what).get("format") == name
    if any(path.iterdir()) and not ours:
        raise OutputError(f"{path} is not {what}, so --overwrite does not remove it; choose another place")


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Set[str]) -> None:
    """Name the first setting in which an unfinished training differs from the one asked for."""
    before, after = dict(old.get("settings", {})), dict(new.get("settings", {}))
    for key in sorted((before.keys() | after.keys()) - free):
        if before.get(key) != after.get(key):
            raise OutputError(
                f"{path} was begun with {key} {before.get(key)}, not {after.get(key)}; "
                "use the same setting, another --out, or --overwrite to begin anew"
            )
    # What it is made from comes first, for all else follows from that: the network with its sizes, whatever
    # it is, the classes, the resolution.
    others = (old.keys() | new.keys()) - {"settings", "created_by"}
    for key in ("parents", *sorted(others)):
        if old.get(key) != new.get(key):
            raise OutputError(
                f"{path} was begun with other {key}; choose another --out, or --overwrite to begin anew"
            )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, oldest first; half a line that a kill left is not one.

    Raises:
        ArtifactError: one of them is no JSON object with a step.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [_metrics_line(line, number, path) for number, line in enumerate(lines, 1)]


def _metrics_line(text: str, number: int, path: Path) -> dict[str, Any]:
    """A line of ``metrics.jsonl``, which a power failure may have damaged."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        raise ArtifactError(
            f"{path}: line {number} is damaged; remove that line, then run the same command again"
        )
    return line


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, appended; lines after the resumed step are dropped.

    Args:
        run: the training directory.
        step: the step that training resumes from.

    Raises:
        ArtifactError: the lines that are there are damaged.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / METRICS_FILE
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, **values: float | int | None) -> None:
        """Add a line; ``step`` is among the values.

        Raises:
            OutputError: the file system refuses.
        """
        with disk_errors(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, (json.dumps(values) + "\n").encode())
            finally:
                os.close(descriptor)
