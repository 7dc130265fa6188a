"""Claims: how every stage takes the file or directory that it writes.

:func:`claim` checks the path, locks it against other processes, removes what killed processes left,
compares the result that is there with the one asked for, and yields what to do (:class:`Outcome`).
Next to an output ``NAME`` there may be, hidden and only as long as they are needed:

- ``.NAME.lock``, held by the process at work; it contains that process's host and id;
- ``.NAME.new``, the unfinished replacement of a finished directory (``--overwrite``);
- ``.NAME.old``, the replaced directory, between two renames;
- ``.NAME.replaced``, a finished training until the training that replaces it is complete;
- ``.NAME.<12 hex digits>.tmp``, a file or directory that is being written.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import (
    disk_errors,
    old_path,
    remove_directory,
    remove_leftovers_below,
    remove_temporary_siblings,
    sync,
)
from maskgit_cli.formats.locks import Warn, lock
from maskgit_cli.formats.records import Record, record_difference


class Outcome(enum.Enum):
    """What a stage finds at its output, and so what it does."""

    NEW = "new"  # nothing: it starts
    RESUME = "resume"  # an unfinished result of the same settings: it continues
    COMPLETE = "complete"  # a finished result of the same settings: there is nothing to do
    REPLACE = "replace"  # a finished result, with --overwrite: it starts or continues the replacement


class Found(NamedTuple):
    """A result, finished or not, at a path.

    Attributes:
        record: its settings, parents and whatever else two equal results have in common.
        complete: whether it is finished.
        damage: why it cannot be continued or used, or None.
    """

    record: Record
    complete: bool
    damage: str | None = None


def _same_record(record: Record) -> Record:
    return record


@dataclass(frozen=True)
class OutputKind:
    """How results of one kind are recognized, compared and replaced.

    Attributes:
        what: name of the kind, for messages.
        read: what is at a path that exists; None is nothing of this kind.
        compared: the part of a record that equal results have in common.
        start: writes the record of an unfinished result; None where the stage does.
        draft: path at which an unfinished result lies while a finished one is at the output's own path;
            None where results are written atomically, or keep their name (``keeps_name``).
        own: files and directories of this kind in a directory, its record last; each is removed before the
            next is asked for. Others are the user's, and survive a replacement. None: everything in it.
        folder: whether it is a directory; else it is a file.
        keeps_name: an unfinished result has the output's own path even where it replaces a finished one,
            which is renamed.
        out: the option that names the output; empty where it is an argument.
        suffix: that a file's name must have, if any.
    """

    what: str
    read: Callable[[Path], Found | None]
    compared: Callable[[Record], Record] = _same_record
    start: Callable[[Path, Record], None] | None = None
    draft: Callable[[Path], Path] | None = None
    own: Callable[[Path], Iterable[Path]] | None = None
    folder: bool = True
    keeps_name: bool = False
    out: str = ""
    suffix: str = ""

    @property
    def another_place(self) -> str:
        """How messages name another output."""
        return f"another place with {self.out}" if self.out else "another place"


@dataclass(frozen=True)
class Claim:
    """An output that this process may write.

    Attributes:
        output: the output.
        path: where to write: ``output``, or its draft.
        outcome: what to do.
        own: see :class:`OutputKind`.
    """

    output: Path
    path: Path
    outcome: Outcome
    own: Callable[[Path], Iterable[Path]] | None = None

    @property
    def already_complete(self) -> str:
        """The message for :attr:`Outcome.COMPLETE`."""
        return f"{self.output} is already complete; pass --overwrite to write it again"

    def finish(self) -> None:
        """Give a finished result the output's name, and remove the result that it replaces.

        Raises:
            OutputError: the file system refuses; the old result is still there then.
        """
        if self.path == new_path(self.output):
            _exchange(self.path, self.output)
        for old in (old_path(self.output), replaced_path(self.output)):
            _remove_replaced(old, self.output, self.own)


def new_path(path: Path) -> Path:
    """Where the replacement of a finished directory is built."""
    return path.with_name(f".{path.name}.new")


def replaced_path(path: Path) -> Path:
    """Where a finished result is kept until the one that has taken its name is complete."""
    return path.with_name(f".{path.name}.replaced")


@contextmanager
def claim(
    path: Path,
    kind: OutputKind,
    record: Record | Callable[[], Record],
    *,
    overwrite: bool = False,
    warn: Warn = warnings.warn,
) -> Iterator[Claim]:
    """Take an output for the time of the ``with`` block.

    Where several processes work together, rank 0 claims for all of them.

    Args:
        path: the file or directory to write.
        kind: what is to be written there.
        record: settings, parents and so on of the result asked for; or a function that returns them, which is
            called only where they are needed.
        overwrite: replace a finished result, and an unfinished one of other settings.
        warn: receives a warning where the file system has no locks.

    Raises:
        OutputError: the path cannot be an output, holds something else or a result of other settings, is
            in use by another process, or the file system refuses.
        ArtifactError: the record of the directory that is there is damaged.
    """
    path = check_output(path, kind)
    with lock(path, warn):
        _recover(path, kind)
        yield _settle(path, kind, record, overwrite)


def check_output(path: Path, kind: OutputKind) -> Path:
    """The path without symbolic links, if it can be an output of this kind.

    :func:`claim` does this first; a stage that does long work before its claim calls it before that work.

    Raises:
        OutputError: it cannot.
    """
    if path.name in ("", ".."):
        raise OutputError(f"{path}: name a file or folder to write, not the working directory")
    if not path.name.lower().endswith(kind.suffix):
        raise OutputError(f"{path}: the name of {kind.what} ends with {kind.suffix}")
    if path.is_symlink():  # a rename would replace the link
        with disk_errors(path), contextlib.suppress(FileNotFoundError):
            path.stat()  # links that form a loop lead nowhere
        path = path.resolve()
    if kind.folder and path.exists() and not path.is_dir():
        raise OutputError(
            f"{path} exists and is not {kind.what} (it is not a folder); choose {kind.another_place}"
        )
    if not kind.folder and path.is_dir():
        raise OutputError(f"{path} exists and is a folder; name a file to write")
    if not kind.folder and path.exists() and not path.is_file():
        raise OutputError(f"{path} exists and is not a regular file; name another file to write")
    return path


# --- what is there ----------------------------------------------------------------------------------


def _settle(path: Path, kind: OutputKind, record: Record | Callable[[], Record], overwrite: bool) -> Claim:
    """Compare what is there with what is asked for, and prepare the place to write."""
    outcome, place = Outcome.NEW, path
    found = _look(path, kind, overwrite)
    if found is not None and found.complete and not overwrite:
        _refuse(path, kind, found, _difference(found, kind, record), "exists and was made")
        _remove_equal_draft(path, kind, found)
        return Claim(path, path, Outcome.COMPLETE, kind.own)
    if found is not None and found.complete:
        outcome = Outcome.REPLACE
        if kind.keeps_name:
            _set_aside(path)
        found = None
    if kind.draft is not None and (outcome is Outcome.REPLACE or not kind.folder):
        place = kind.draft(path)
        found = _look(place, kind, False)
    if found is not None:
        difference = _difference(found, kind, record)
        if difference is None:
            outcome = Outcome.RESUME if outcome is Outcome.NEW else outcome
        elif not overwrite:
            _refuse(path, kind, found, difference, "was started")
        else:
            _discard(place, path, kind)
            found = None
    if found is None and kind.start is not None:
        kind.start(place, _called(record))
    return Claim(path, place, outcome, kind.own)


def _called(record: Record | Callable[[], Record]) -> Record:
    return record() if callable(record) else record


def _look(path: Path, kind: OutputKind, overwrite: bool) -> Found | None:
    """The result at a path; None if there is nothing, or nothing but temporary files.

    Raises:
        OutputError: a directory holds something else.
        ArtifactError: the record in a directory is damaged.
    """
    if not path.exists():
        return None
    if not kind.folder:
        return Found({}, True) if overwrite else _look_at_file(path, kind)
    if all(_is_ours_and_hidden(child.name) for child in path.iterdir()):
        remove_leftovers_below(path)
        return None
    found = kind.read(path)
    if found is None:
        raise OutputError(
            f"{path} exists and is not {kind.what}; choose {kind.another_place} "
            "(--overwrite does not replace it)"
        )
    return found


def _look_at_file(path: Path, kind: OutputKind) -> Found:
    """Any file may be replaced, so one that cannot be read is a damaged result."""
    try:
        return kind.read(path) or Found({}, True, f"{path} is not {kind.what}")
    except ArtifactError as error:
        return Found({}, True, str(error))


def _is_ours_and_hidden(name: str) -> bool:
    return name.startswith(".") and name.endswith((".tmp", ".lock"))


def _difference(found: Found, kind: OutputKind, record: Record | Callable[[], Record]) -> str | None:
    return found.damage or record_difference(kind.compared(found.record), kind.compared(_called(record)))


def _refuse(path: Path, kind: OutputKind, found: Found, difference: str | None, was: str) -> None:
    """Raise the error that says in what a result that is there differs, if it does."""
    if found.damage:
        raise OutputError(
            f"{path} exists and cannot be used ({found.damage}); choose {kind.another_place}, "
            "or pass --overwrite to replace it"
        )
    if difference:
        raise OutputError(
            f"{path} {was} with {difference}; use the same, {kind.another_place}, or --overwrite"
        )


def _remove_equal_draft(path: Path, kind: OutputKind, found: Found) -> None:
    """Remove a draft of the finished result that is there: its replacement was interrupted, or just done."""
    draft = kind.draft(path) if kind.draft is not None else None
    with contextlib.suppress(ArtifactError, OutputError):
        unfinished = _look(draft, kind, False) if draft is not None else None
        if draft and unfinished and _difference(unfinished, kind, found.record) is None:
            _discard(draft, path, kind)
    _remove_replaced(replaced_path(path), path, kind.own)


# --- replacing --------------------------------------------------------------------------------------


def _set_aside(path: Path) -> None:
    """Rename a finished result, which is kept until its replacement is complete."""
    replaced = replaced_path(path)
    if replaced.exists():  # it was complete before the one that has its name now, which is complete too
        remove_directory(replaced)
    with disk_errors(path):
        os.rename(path, replaced)


def _discard(place: Path, path: Path, kind: OutputKind) -> None:
    """Remove an unfinished result; files of the user in it only if the whole directory is a draft."""
    with disk_errors(place):
        if not place.is_dir():
            place.unlink()
        elif kind.own is None or place != path:
            remove_directory(place)
        else:
            _remove_all(kind.own(place))


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _exchange(new: Path, path: Path) -> None:
    """Put a finished directory in the place of another, which then has the name ``.NAME.old``."""
    old = old_path(path)
    with disk_errors(path):
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise
        sync(path.parent)


def is_empty_folder(path: Path) -> bool:
    """Whether there is a directory at ``path`` with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def _remove_replaced(old: Path, path: Path, own: Callable[[Path], Iterable[Path]] | None) -> None:
    """Remove a replaced directory, after the user's own files in it have gone over to the new one."""
    if not old.exists():
        return
    if own is not None:
        with disk_errors(path):
            _remove_all(own(old))
            _move_rest(old, path)
    shutil.rmtree(old, ignore_errors=True)


def _move_rest(old: Path, path: Path) -> None:
    """Move files, and folders that hold nothing, to where the new directory has nothing of that name."""
    for source in [*old.iterdir()]:
        target = path / source.name
        if not target.exists():
            os.rename(source, target)
        elif source.is_dir() and target.is_dir():
            _move_rest(source, target)


def _recover(path: Path, kind: OutputKind) -> None:
    """Finish or undo what killed processes left half done at an output."""
    new, old, replaced = new_path(path), old_path(path), replaced_path(path)
    with disk_errors(path):
        if not path.exists():
            # Between the renames of an exchange the new directory is complete. Where the user has removed the
            # output, an unfinished replacement is all there is.
            remaining = next((place for place in (new, old, replaced) if place.exists()), None)
            if remaining is not None:
                os.rename(remaining, path)
        if path.exists():
            _remove_replaced(old, path, kind.own)
        for place in (path, *([kind.draft(path)] if kind.draft else [])):
            remove_temporary_siblings(place)
