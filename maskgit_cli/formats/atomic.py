"""Files written whole or not at all: a temporary sibling, fsync, then rename."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskgit_cli import __version__
from maskgit_cli.errors import ArtifactError, OutputError

CREATED_BY = f"maskgit-cli {__version__}"

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EFBIG: "the file would be larger than the file system or `ulimit -f` allows",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder it belongs in does not exist and cannot be made",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a symbolic link on the way leads back to itself",
    errno.EIO: "the disk reports an error",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses while ``path`` is written into one line.

    Raises:
        OutputError: the disk is full, read-only, or not ours to write.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise OutputError(f"cannot write {path}: {reason}") from error


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a place that holds something, unless the user said ``--overwrite``.

    Raises:
        OutputError: ``path`` exists and ``overwrite`` is false.
    """
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists; choose another place, or pass --overwrite to replace it")


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sibling(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _sync(path: Path) -> None:
    """Push a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; on a clean exit it becomes ``path``, else it is removed.

    Raises:
        OutputError: the file system refuses.
    """
    temporary = _sibling(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Like :func:`replacing_file` for a folder. A folder already there is replaced.

    A folder cannot be swapped for another in one step on every system: the old one is moved aside
    first and removed after the new one stands. A kill between the two leaves the old one under a hidden
    name (``.NAME.old``), and the next call for the same place puts it back before anything else.

    Raises:
        OutputError: the file system refuses.
    """
    temporary, aside = _sibling(path), _aside(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_back(aside, path)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            _sync(temporary)
            if path.exists():
                os.rename(path, aside)
            os.rename(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _put_back(aside, path)


def _aside(path: Path) -> Path:
    """Where the folder at ``path`` stands while another takes its place."""
    return path.with_name(f".{path.name}.old")


def _put_back(aside: Path, path: Path) -> None:
    """Undo a swap that was cut off after its first half, or finish one after its second."""
    if not aside.exists():
        return
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(aside, path)


def remove_directory(path: Path) -> None:
    """Remove a folder so that a kill leaves all of it or, under its own name, nothing.

    Raises:
        OutputError: the file system refuses.
    """
    aside = _sibling(path)
    with disk_errors(path):
        os.rename(path, aside)
        shutil.rmtree(aside)


def _remove(leftovers: Iterable[Path]) -> None:
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary siblings of ``path`` that killed processes left behind; see the swap above."""
    _put_back(_aside(path), path)
    _remove(path.parent.glob(f".{glob.escape(path.name)}.????????????.tmp"))


def remove_leftovers_below(folder: Path) -> None:
    """Remove what killed processes left behind anywhere in a folder of ours."""
    _remove(sorted(folder.rglob(".*.????????????.tmp")))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the file system refuses.
    """
    with replacing_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, whole or not at all.

    Raises:
        OutputError: the file system refuses.
    """
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; ``what`` names the artifact it belongs to, for the error's text.

    Raises:
        ArtifactError: the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent} is not {what}: it has no {path.name}") from None
    except NotADirectoryError:
        raise ArtifactError(f"{path.parent} is a file, not {what}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} does not hold a JSON object")
    return value


def check_format(value: Mapping[str, Any], path: Path, name: str, version: int) -> None:
    """Hold an artifact's record to the format and version that this package reads.

    Raises:
        ArtifactError: it is of another format or of a newer version.
    """
    found = value.get("format")
    if found != name:
        raise ArtifactError(f"{path} is {found or 'no artifact of ours'}, not {name}")
    if value.get("version") != version:
        raise ArtifactError(
            f"{path} has version {value.get('version')} of {name}; this package reads version {version}"
        )


def parent(kind: str, path: Path, sha256: str) -> dict[str, str]:
    """The record by which an artifact names another it was made from."""
    return {"kind": kind, "name": path.name, "sha256": sha256}
