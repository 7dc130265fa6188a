"""Files and directories written whole or not at all: a temporary sibling, fsync, then rename."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maskgit_cli import __version__
from maskgit_cli.errors import ArtifactError, InputError, OutputError
from maskgit_cli.formats.json_text import parse_json

CREATED_BY = f"maskgit-cli {__version__}"
# Bytes of a record that is read whole. The largest, an unfinished sweep's, has a few MiB.
LARGEST_RECORD = 64 << 20
# Bytes of a list of images or classes: ten million lines of 100 bytes.
LARGEST_LIST = 1 << 30
# Hidden names next to an output, which error messages do not show.
_HIDDEN = re.compile(r"\.(.+)\.(?:[0-9a-f]{12}\.tmp|new|old)")
_TEMPORARY = "????????????.tmp"
_SHA256 = re.compile("[0-9a-f]{64}")
# Key of a record's digest of itself.
RECORD_DIGEST = "record_sha256"

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EFBIG: "the file would be larger than the file system or `ulimit -f` allows",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "its folder does not exist and cannot be created",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOTEMPTY: "a folder in its place cannot be removed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its symbolic links form a loop",
    errno.EIO: "the disk reports an error",
}


def shown_path(path: Path) -> Path:
    """The path as the user knows it: hidden temporary names in it become the final ones."""
    return Path(*(match[1] if (match := _HIDDEN.fullmatch(part)) else part for part in path.parts))


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system while ``path`` is written into one line that names the user's path.

    Raises:
        OutputError: the disk is full or read-only, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise OutputError(f"cannot write {shown_path(path)}: {reason}") from error


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular(path: Path, limit: int | None = None) -> Path:
    """A path to open for reading; pipes, sockets and devices are refused, as reading them may never end.

    Other errors, such as a missing file, are raised when the path is opened.

    Args:
        path: the path.
        limit: largest size in bytes, for files that are read whole.

    Raises:
        InputError: it is no regular file or directory, or is larger than ``limit``.
    """
    try:
        found = path.stat()
    except OSError:
        return path
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: a pipe or device, not a file; store what it sends in a file")
    if limit is not None and stat.S_ISREG(found.st_mode) and found.st_size > limit:
        raise InputError(f"{path} has {found.st_size:,} bytes; at most {limit:,} are read of such a file")
    return path


def temporary_sibling(path: Path) -> Path:
    """A hidden name next to ``path`` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing_file(path: Path, *, named: Path | None = None, in_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write; on a clean exit it becomes ``path``, otherwise it is removed.

    Args:
        path: the file.
        named: the path that error messages name; None is ``path``.
        in_folder: put the temporary file in a temporary folder, for a library that creates further
            files next to the one it writes.

    Raises:
        OutputError: the file system refuses.
    """
    temporary = temporary_sibling(path)
    with disk_errors(named or path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if in_folder:
                temporary.mkdir()
            written = temporary / path.name if in_folder else temporary
            yield written
            sync(written)
            os.replace(written, path)
            sync(path.parent)
        finally:
            _remove([temporary])


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Like :func:`replacing_file` for a directory. One that is already there is replaced.

    No portable call exchanges two directories: the old one is renamed first and removed after the new
    one has its name. A kill between the two renames leaves the old one as ``.NAME.old``, which the next
    call for the same path renames back.

    Raises:
        OutputError: the file system refuses.
    """
    temporary, old = temporary_sibling(path), old_path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _restore(old, path)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                sync(file)
            sync(temporary)
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
            sync(path.parent)
        finally:
            _remove([temporary])
            _restore(old, path)


def old_path(path: Path) -> Path:
    """Name of a directory while another one takes its place."""
    return path.with_name(f".{path.name}.old")


def _restore(old: Path, path: Path) -> None:
    """Undo an exchange that ended after its first rename, or finish one that ended after its second."""
    if not old.exists():
        return
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(old, path)


def remove_directory(path: Path) -> None:
    """Remove a directory so that a kill leaves all of it or, under its own name, nothing.

    Raises:
        OutputError: the file system refuses.
    """
    temporary = temporary_sibling(path)
    with disk_errors(path):
        os.rename(path, temporary)
        shutil.rmtree(temporary)


def _remove(leftovers: Iterable[Path]) -> None:
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def remove_temporary_siblings(path: Path) -> None:
    """Remove temporary siblings of ``path`` that killed processes left."""
    _remove(path.parent.glob(f".{glob.escape(path.name)}.{_TEMPORARY}"))


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of ``path``; restore a directory whose exchange they cut off."""
    _restore(old_path(path), path)
    remove_temporary_siblings(path)


def remove_leftovers_below(folder: Path) -> None:
    """Remove temporary files and stale locks anywhere in an output that this process has locked."""
    _remove(sorted([*folder.rglob(f".*.{_TEMPORARY}"), *folder.rglob(".*.lock")]))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        OutputError: the file system refuses.
    """
    with replacing_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record: a JSON object, indented, with its own digest as ``record_sha256``, atomically.

    Raises:
        OutputError: the file system refuses.
    """
    record = {**value, RECORD_DIGEST: record_sha256(value)}
    write_bytes(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a record without its ``record_sha256``, which is checked.

    A ``record_sha256`` of null is not: it marks a record that a user has edited.

    Args:
        path: of the record.
        what: names the artifact it belongs to, for error messages.

    Raises:
        ArtifactError: the file is missing, is not a JSON object, or differs from its digest.
        InputError: it is not a regular file, or larger than :data:`LARGEST_RECORD`.
    """
    regular(path, LARGEST_RECORD)
    try:
        value = parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent} is not {what}: it has no {path.name}") from None
    except NotADirectoryError:
        raise ArtifactError(f"{path.parent} is a file, not {what}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    missing = object()
    digest = value.pop(RECORD_DIGEST, missing)
    if digest is missing and str(value.get("format")).startswith("maskgit-") and value.get("version") != 1:
        raise ArtifactError(f"{path} is damaged: it has no {RECORD_DIGEST}")
    if digest not in (missing, None, record_sha256(value)):
        raise ArtifactError(
            f"{path} is damaged or was edited: it differs from its {RECORD_DIGEST}; to accept an edit, "
            f"set {RECORD_DIGEST} to null"
        )
    return value


def record_sha256(value: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of a record: of its JSON text in ASCII with sorted keys and without spaces."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def check_format(
    value: Mapping[str, Any],
    path: Path,
    name: str,
    version: int,
    keys: Mapping[str, type] = MappingProxyType({}),
) -> None:
    """Check that an artifact's record has a format and version that this package reads, and good parents.

    Earlier versions of every format are read as well. Records and weights of version 1 have no digests.

    Args:
        value: the record.
        path: of the artifact, for messages.
        name: the format.
        version: its newest version.
        keys: that the record must have, and types of their values.

    Raises:
        ArtifactError: it has another format or version, lacks a key, or has parents that are none.
    """
    found = value.get("format")
    if found != name:
        raise ArtifactError(f"{path} is {found or 'not a maskgit artifact'}, not {name}")
    if type(value.get("version")) is not int or not 1 <= value["version"] <= version:
        raise ArtifactError(
            f"{path} has version {value.get('version')} of {name}; this package reads version {version}"
        )
    for key, kind in keys.items():
        if not isinstance(value.get(key), kind) or (kind is int and value[key] is True):
            raise ArtifactError(f"{path} is damaged: its record has no usable {key}")
    if "parents" in value:
        check_parents(value["parents"], path)


def check_parents(parents: Any, path: Path) -> None:
    """Check that ``parents`` in the record at ``path`` is a list of parents.

    Raises:
        ArtifactError: it is not.
    """
    if not isinstance(parents, list):
        raise ArtifactError(f"{path} is damaged: its parents are not a list")
    for entry in parents:
        texts = isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("kind", "name"))
        if not texts or not is_sha256(entry.get("sha256")):
            raise ArtifactError(f"{path} is damaged: an entry of its parents lacks kind, name or sha256")


def is_sha256(value: object) -> bool:
    """Whether a value is a sha256 in hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def unicode_text(text: str) -> str:
    """A name of a file as Unicode text: bytes that are not UTF-8 become escapes such as ``\\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def parent(kind: str, path: Path, sha256: str) -> dict[str, str]:
    """An entry of an artifact's ``parents``: what it was made from."""
    return {"kind": kind, "name": unicode_text(path.name), "sha256": sha256}
