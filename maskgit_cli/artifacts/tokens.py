"""Token files (``maskgit-tokens``, version 1): codes of images, what ``tokenize`` and ``sample`` write.

A token file is HDF5, but its codes are one contiguous block at a known place. That is what lets
training map them into memory, several processes fill one file, and a killed run go on where it was:
HDF5 itself only ever writes a file once, whole, before the first code is there.

A file is filled as ``PATH.partial``, in which ``done`` says which rows hold codes. The finished file
is a compact copy without the rows that were skipped, and takes its name in one step.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from maskgit_cli.artifacts.atomic import (
    CREATED_BY,
    check_format,
    check_output,
    disk_errors,
    remove_leftovers,
    replacing_file,
    sha256_file,
)
from maskgit_cli.artifacts.hdf5 import fixed_texts, set_aside, texts_of
from maskgit_cli.artifacts.in_place import check_space, reserve, write_at
from maskgit_cli.config import VIEWS
from maskgit_cli.errors import ArtifactError, OutputError

TOKENS_FORMAT, TOKENS_VERSION = "maskgit-tokens", 1

# Codes are checked and copied this many bytes at a time, so that no file has to fit into memory.
CHUNK_BYTES = 16 * 2**20
# More than HDF5 needs for itself in a file with a handful of datasets.
HEADER_BYTES = 2**16


@dataclass(frozen=True)
class TokenMeta:
    """What a token file says of its codes.

    Attributes:
        codebook_size: K; codes are 0..K-1.
        grid: codes on a side of an image.
        resolution: pixels on a side of an image.
        views: which views of each image were tokenized, a key of :data:`~maskgit_cli.config.VIEWS`.
        class_names: name of each class, or empty where images have no classes or classes no names.
        tokenizer: name of the tokenizer's directory.
        tokenizer_sha256: of the tokenizer's weights.
        settings: of the stage that wrote the file.
        parents: what it was made from, each a dict of ``kind``, ``name`` and ``sha256``.
        created_by: the package and its version.
    """

    codebook_size: int
    grid: int
    resolution: int
    views: str
    class_names: list[str]
    tokenizer: str
    tokenizer_sha256: str
    settings: dict[str, Any]
    parents: list[dict[str, str]]
    created_by: str = CREATED_BY

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(V, h, w): the codes of one image."""
        return VIEWS[self.views], self.grid, self.grid


# How the attributes are stored: numbers and text as they are, the rest as JSON text.
_NUMBERS = ("codebook_size", "grid", "resolution")
_TEXTS = ("views", "tokenizer", "tokenizer_sha256", "created_by")
_JSONS: dict[str, type] = {"class_names": list, "settings": dict, "parents": list}


class _Layout(NamedTuple):
    """Where codes and done flags lie in a file: number of rows, and two offsets in bytes."""

    rows: int
    codes: int
    done: int


# --- reading ----------------------------------------------------------------------------------------


class TokenFile:
    """A finished token file, mapped read-only. It can be handed to other processes: they map it anew.

    Attributes:
        path: the file.
        meta: what it says of its codes.
        labels: class numbers int32 (N,), -1 where there is none.
    """

    def __init__(self, path: Path, meta: TokenMeta, labels: np.ndarray, offset: int) -> None:
        self.path = path
        self.meta = meta
        self.labels = labels
        self._offset = offset

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map would copy all of it; what was derived from the file is read again.
        return {key: self.__dict__[key] for key in ("path", "meta", "labels", "_offset")}

    @functools.cached_property
    def codes(self) -> np.memmap:
        """Codes uint16 (N, V, h, w), a read-only memory map."""
        shape = (len(self), *self.meta.row_shape)
        return np.memmap(self.path, np.dtype("<u2"), "r", self._offset, shape)

    @functools.cached_property
    def sha256(self) -> str:
        """Hexadecimal sha256 of the whole file."""
        return sha256_file(self.path)

    @functools.cached_property
    def names(self) -> list[str]:
        """Name of each image (N,)."""
        with h5py.File(self.path, "r", locking=False) as file:
            return texts_of(file["names"][:])

    @functools.cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of each image that could not be read."""
        with h5py.File(self.path, "r", locking=False) as file:
            return [(name, reason) for name, reason in map(texts_of, file["skipped"][:])]


def partial_path(path: Path) -> Path:
    """Where a token file stands while it is being filled."""
    return path.with_name(path.name + ".partial")


def open_tokens(path: Path) -> TokenFile:
    """Open a finished token file and check all of it, codes included.

    Raises:
        ArtifactError: it is missing, unfinished, damaged, of another format or version, or what it
            holds is not consistent.
    """
    if not path.exists():
        if partial_path(path).exists():
            raise ArtifactError(f"{path} is not finished; run the command that makes it again to finish it")
        raise ArtifactError(f"no token file at {path}: it does not exist")
    meta, labels, layout, complete = _read(path)
    if not complete:
        raise ArtifactError(f"{path} is not finished; run the command that makes it again to finish it")
    tokens = TokenFile(path, meta, labels, layout.codes)
    _check_codes(tokens)
    return tokens


def check_tokenizer(meta: TokenMeta, tokenizer_sha256: str) -> None:
    """Hold a tokenizer to the one that codes came from.

    Args:
        meta: of the codes.
        tokenizer_sha256: of the weights of the tokenizer about to be used on them.

    Raises:
        ArtifactError: it is another one.
    """
    if meta.tokenizer_sha256 != tokenizer_sha256:
        raise ArtifactError(
            f"the codes are of tokenizer {meta.tokenizer} (sha256 {meta.tokenizer_sha256[:12]}…), not of the "
            f"one given (sha256 {tokenizer_sha256[:12]}…); give the tokenizer they were made with"
        )


def _read(path: Path) -> tuple[TokenMeta, np.ndarray, _Layout, bool]:
    """Everything but codes and names, checked; the last is whether the file claims to be complete."""
    if not path.is_file() or not h5py.is_hdf5(path):
        raise ArtifactError(f"{path} is not a token file (not HDF5); `maskgit tokenize` makes one")
    try:
        with h5py.File(path, "r", locking=False) as file:
            values = {key: file.attrs[key] for key in ("format", "version") if key in file.attrs}
            check_format(values, path, TOKENS_FORMAT, TOKENS_VERSION)
            meta = _read_meta(file, path)
            layout = _read_layout(file, path, meta)
            labels = file["labels"][:]
            complete = bool(file.attrs["complete"])
            if complete and not file["done"][:].all():
                raise ArtifactError(f"{path} is damaged: it claims to be complete but has rows without codes")
    except ArtifactError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path} is truncated or damaged; make it again ({reason})") from None
    highest = len(meta.class_names) or np.iinfo(np.int32).max
    if labels.min() < -1 or labels.max() >= highest:
        raise ArtifactError(f"{path} is damaged: it has a label outside its {len(meta.class_names)} classes")
    return meta, labels, layout, complete


def _read_meta(file: h5py.File, path: Path) -> TokenMeta:
    values: dict[str, Any] = {key: int(file.attrs[key]) for key in _NUMBERS}
    values |= {key: str(file.attrs[key]) for key in _TEXTS}
    for key, kind in _JSONS.items():
        try:
            values[key] = json.loads(file.attrs[key])
        except ValueError:
            raise ArtifactError(f"{path} is damaged: its {key} are not JSON") from None
        if not isinstance(values[key], kind):
            raise ArtifactError(f"{path} is damaged: its {key} are not a {kind.__name__}")
    if values["views"] not in VIEWS:
        raise ArtifactError(f"{path} has views {values['views']!r}, which this package does not know")
    return TokenMeta(**values)


def _read_layout(file: h5py.File, path: Path, meta: TokenMeta) -> _Layout:
    """Check kind, shape, contiguity and extent of the datasets."""
    rows = len(file["labels"])
    if rows == 0:
        raise ArtifactError(f"{path} holds no images")
    _check_dataset(file["codes"], path, "uint16", (rows, *meta.row_shape))
    _check_dataset(file["labels"], path, "int32", (rows,))
    _check_dataset(file["names"], path, "bytes", (rows,))
    _check_dataset(file["done"], path, "bool", (rows,))
    _check_dataset(file["skipped"], path, "bytes", (len(file["skipped"]), 2))
    return _Layout(rows, file["codes"].id.get_offset(), file["done"].id.get_offset())


def _check_dataset(dataset: h5py.Dataset, path: Path, kind: str, shape: tuple[int, ...]) -> None:
    name = dataset.name.removeprefix("/")
    found = "bytes" if dataset.dtype.kind == "S" else dataset.dtype.newbyteorder("=").name
    if dataset.shape != shape or found != kind or dataset.dtype.byteorder == ">":
        raise ArtifactError(
            f"{path} is damaged: its {name} are {dataset.dtype} {dataset.shape}, not {kind} {shape}"
        )
    offset = dataset.id.get_offset()
    if offset is None and dataset.size > 0:
        raise ArtifactError(f"{path}: its {name} are not contiguous; `maskgit tokenize` makes such a file")
    if dataset.size > 0 and offset + dataset.nbytes > path.stat().st_size:
        raise ArtifactError(f"{path} is truncated: its {name} end beyond the end of the file; make it again")


def _check_codes(tokens: TokenFile) -> None:
    size = tokens.meta.codebook_size
    for rows in _chunks(np.arange(len(tokens)), tokens.meta):
        highest = int(tokens.codes[rows[0] : rows[-1] + 1].max())
        if highest >= size:
            raise ArtifactError(
                f"{tokens.path} is damaged: code {highest} is outside its codebook of {size}; make it again"
            )


def _chunks(rows: np.ndarray, meta: TokenMeta) -> Iterator[np.ndarray]:
    """Row numbers in parts whose codes take :data:`CHUNK_BYTES` or less."""
    step = max(1, CHUNK_BYTES // (2 * math.prod(meta.row_shape)))
    return (rows[i : i + step] for i in range(0, len(rows), step))


# --- writing ----------------------------------------------------------------------------------------


def completed(path: Path, meta: TokenMeta) -> TokenFile | None:
    """The finished file at ``path`` if it is the one that ``meta`` describes; None if there is none.

    Raises:
        OutputError: the file there was made with other settings, from something else, or is damaged.
    """
    if not path.exists():
        return None
    _check_no_folder(path)
    try:
        tokens = open_tokens(path)
    except ArtifactError as error:
        raise OutputError(f"{error}; or write to another file, or pass --overwrite to replace it") from error
    _check_same(path, tokens.meta, meta, "exists and was made")
    _remove_stale_partial(path, meta)
    return tokens


def _check_no_folder(path: Path) -> None:
    """A folder is never replaced by a file, whatever the user says."""
    if path.is_dir():
        raise OutputError(f"{path} exists and is a folder; name a file to write")


def _remove_stale_partial(path: Path, meta: TokenMeta) -> None:
    """A kill between the rename of the finished file and the removal of its partial leaves both."""
    partial = partial_path(path)
    if partial.exists() and _identity(_read(partial)[0]) == _identity(meta):
        partial.unlink()


def _check_same(path: Path, old: TokenMeta, new: TokenMeta, what: str) -> None:
    """Name the first thing in which the file that is there differs from the one asked for."""
    advice = "; use the same, write to another file, or pass --overwrite to begin anew"
    before, after = _identity(old), _identity(new)
    for key in before | after:
        have, want = before.get(key), after.get(key)
        if have != want:
            brief = max(len(str(have)), len(str(want))) <= 80
            difference = f"with {key} {have}, not {want}" if brief else f"with other {key}"
            raise OutputError(f"{path} {what} {difference}{advice}")


def _identity(meta: TokenMeta) -> dict[str, Any]:
    """What two files must have in common to be the same: neither names of folders nor versions."""
    values = dict(meta.settings)
    values |= {key: getattr(meta, key) for key in ("resolution", "views", "grid", "codebook_size")}
    values |= {"tokenizer": meta.tokenizer_sha256[:12], "class_names": meta.class_names}
    values |= {parent["kind"]: parent["sha256"][:12] for parent in meta.parents}
    return json.loads(json.dumps(values))  # tuples and lists are the same


class TokenWriter:
    """Fills a token file row by row, in any order, from one process or several.

    Use :meth:`create_or_resume`. No file is held open between calls.

    Attributes:
        path: where the finished file will stand.
        meta: what the file says of its codes.
        done: which rows held codes when this writer was made, or by its own doing, bool (N,).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = partial_path(path)
        self.meta, self._labels, self._layout, _ = _read(self.partial)
        self.done = self._read_done()

    @classmethod
    def create_or_resume(
        cls,
        path: Path,
        meta: TokenMeta,
        names: Sequence[str],
        labels: np.ndarray,
        overwrite: bool = False,
    ) -> TokenWriter:
        """Begin a token file, or go on with the unfinished one of the same settings and images.

        Where several processes fill a file, one calls this first and the others afterwards.

        Args:
            path: where the finished file will stand; its folder is made.
            meta: what the file says of its codes.
            names: name of each image (N,), N at least 1.
            labels: class numbers (N,), -1 where there is none.
            overwrite: replace a finished file, and begin anew over an unfinished one that differs.

        Raises:
            OutputError: a finished file is there; an unfinished one of other settings or images is
                there; or the disk is full or not writable.
        """
        assert len(names) == len(labels) > 0
        _check_no_folder(path)
        check_output(path, overwrite)
        partial = partial_path(path)
        if partial.exists():
            try:
                return cls._resume(path, meta, names, labels)
            except OutputError:
                if not overwrite:
                    raise
        remove_leftovers(partial)
        with replacing_file(partial) as temporary:
            done = np.zeros(len(names), np.bool_)
            _create(temporary, meta, names, labels, done, None)
        return cls(path)

    @classmethod
    def _resume(cls, path: Path, meta: TokenMeta, names: Sequence[str], labels: np.ndarray) -> TokenWriter:
        try:
            writer = cls(path)
        except ArtifactError as error:
            raise OutputError(f"cannot resume: {error}; or pass --overwrite to begin anew") from error
        _check_same(writer.partial, writer.meta, meta, "was begun")
        if not np.array_equal(writer._labels, labels) or writer._read_names() != list(names):
            raise OutputError(
                f"{writer.partial} was begun with other images or labels; "
                "write to another file, or pass --overwrite to begin anew"
            )
        return writer

    def write(self, indices: np.ndarray, codes: np.ndarray) -> None:
        """Store codes (B, V, h, w) in rows (B,), and only then mark these as done.

        Raises:
            OutputError: the disk is full or not writable.
        """
        assert codes.shape == (len(indices), *self.meta.row_shape), codes.shape
        assert codes.min(initial=0) >= 0
        assert codes.max(initial=0) < self.meta.codebook_size
        rows = codes.astype("<u2")
        with disk_errors(self.path):
            file = os.open(self.partial, os.O_WRONLY)
            try:
                for index, row in zip(indices, rows, strict=True):
                    write_at(file, row.tobytes(), self._layout.codes + int(index) * row.nbytes)
                os.fsync(file)
                for index in indices:
                    write_at(file, b"\1", self._layout.done + int(index))
            finally:
                os.close(file)
        self.done[indices] = True

    def finish(self, skipped: Sequence[tuple[str, str]] = ()) -> Path:
        """Write the finished file, without the rows that no process has done, and remove the partial.

        Args:
            skipped: (name, reason) of each image that has no codes.

        Raises:
            OutputError: the disk is full or not writable.
        """
        self.done = self._read_done()
        kept = np.flatnonzero(self.done)
        assert len(kept) > 0
        names = self._read_names()
        remove_leftovers(self.path)
        with replacing_file(self.path) as temporary:
            kept_names = [names[i] for i in kept]
            _create(temporary, self.meta, kept_names, self._labels[kept], self.done[kept], skipped)
            self._copy_codes(kept, temporary)
        self.discard()
        return self.path

    def _copy_codes(self, kept: np.ndarray, target: Path) -> None:
        shape = (self._layout.rows, *self.meta.row_shape)
        codes = np.memmap(self.partial, np.dtype("<u2"), "r", self._layout.codes, shape)
        offset = _read(target)[2].codes
        file = os.open(target, os.O_WRONLY)
        try:
            for rows in _chunks(kept, self.meta):
                data = codes[rows].tobytes()
                write_at(file, data, offset)
                offset += len(data)
        finally:
            os.close(file)

    def discard(self) -> None:
        """Remove the unfinished file."""
        self.partial.unlink(missing_ok=True)

    def _read_done(self) -> np.ndarray:
        return np.fromfile(self.partial, np.bool_, self._layout.rows, offset=self._layout.done)

    def _read_names(self) -> list[str]:
        with h5py.File(self.partial, "r", locking=False) as file:
            return texts_of(file["names"][:])


def _create(
    path: Path,
    meta: TokenMeta,
    names: Sequence[str],
    labels: np.ndarray,
    done: np.ndarray,
    skipped: Sequence[tuple[str, str]] | None,
) -> None:
    """Write a whole token file but for its codes, whose place is set aside. None skipped: unfinished."""
    header: dict[str, Any] = {
        "format": TOKENS_FORMAT,
        "version": TOKENS_VERSION,
        "complete": skipped is not None,
        **dataclasses.asdict(meta),
    }
    header |= {key: json.dumps(header[key]) for key in _JSONS}
    flat = [text for pair in skipped or () for text in pair]
    small = {
        "labels": np.asarray(labels, np.int32),
        "names": fixed_texts(names, (len(names),)),
        "done": done,
        "skipped": fixed_texts(flat, (len(flat) // 2, 2)),
    }
    texts = sum(len(value.encode()) for value in header.values() if isinstance(value, str))
    codes = 2 * len(names) * math.prod(meta.row_shape)
    # Where the disk is full HDF5 fails in a way that leaves tracebacks, whatever one catches.
    check_space(path, codes + sum(array.nbytes for array in small.values()) + texts + HEADER_BYTES)
    with h5py.File(path, "w") as file:
        for key, value in header.items():
            file.attrs[key] = value
        for key, array in small.items():
            file[key] = array
        set_aside(file, "codes", (len(names), *meta.row_shape))
    reserve(path)
