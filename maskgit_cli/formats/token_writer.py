"""Writing token files, row by row, so that a kill at any moment loses no row that was done.

A file is filled as ``PATH.partial``, in which ``done`` says which rows hold codes. The finished file
is a compact copy without the rows that were skipped, and takes its name in one step.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import check_output, disk_errors, remove_leftovers, replacing_file
from maskgit_cli.formats.hdf5 import fixed_texts, set_aside, texts_of
from maskgit_cli.formats.in_place import check_space, reserve, write_at
from maskgit_cli.formats.tokens import (
    JSON_ATTRIBUTES,
    TOKENS_FORMAT,
    TOKENS_VERSION,
    TRACE_TYPES,
    Block,
    TokenFile,
    TokenMeta,
    Trace,
    blocks_of,
    chunks,
    open_tokens,
    partial_path,
    read_header,
)

# More than HDF5 needs for itself in a file with a handful of datasets.
HEADER_BYTES = 2**16


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
    if partial.exists() and _identity(read_header(partial)[0]) == _identity(meta):
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
        self.meta, self._labels, self._layout, _ = read_header(self.partial)
        self.done = self._read_done()

    @classmethod
    def create_or_resume(
        cls,
        path: Path,
        meta: TokenMeta,
        names: Sequence[str],
        labels: np.ndarray,
        overwrite: bool = False,
        steps: int = 0,
    ) -> TokenWriter:
        """Begin a token file, or go on with the unfinished one of the same settings and images.

        Where several processes fill a file, one calls this first and the others afterwards.

        Args:
            path: where the finished file will stand; its folder is made.
            meta: what the file says of its codes.
            names: name of each image (N,), N at least 1.
            labels: class numbers (N,), -1 where there is none.
            overwrite: replace a finished file, and begin anew over an unfinished one that differs.
            steps: S of the trace; 0 is no trace.

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
            _create(temporary, meta, names, labels, done, blocks_of(meta, steps), None)
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

    def write(self, indices: np.ndarray, codes: np.ndarray, trace: Trace | None = None) -> None:
        """Store codes (B, V, h, w) and what led to them in rows (B,), and only then mark these as done.

        Args:
            indices: the rows.
            codes: in [0, K).
            trace: there if the file was begun with a trace.

        Raises:
            OutputError: the disk is full or not writable.
        """
        values = {"codes": codes}
        if trace is not None:
            values |= {f"trace_{name}": getattr(trace, name) for name in TRACE_TYPES}
        assert values.keys() == self._layout.blocks.keys()
        for name in values.keys() & {"codes", "trace_codes"}:
            assert values[name].min(initial=0) >= 0
            assert values[name].max(initial=0) < self.meta.codebook_size
        with disk_errors(self.path):
            file = os.open(self.partial, os.O_WRONLY)
            try:
                for name, block in self._layout.blocks.items():
                    _write_rows(file, block, indices, values[name])
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
            labels, blocks = self._labels[kept], self._layout.blocks
            _create(temporary, self.meta, kept_names, labels, self.done[kept], blocks, skipped)
            self._copy_rows(kept, temporary)
        self.discard()
        return self.path

    def _copy_rows(self, kept: np.ndarray, target: Path) -> None:
        written = read_header(target)[2].blocks
        file = os.open(target, os.O_WRONLY)
        try:
            for name, block in self._layout.blocks.items():
                shape = (self._layout.rows, *block.shape)
                values = np.memmap(self.partial, block.type, "r", block.offset, shape)
                offset = written[name].offset
                for rows in chunks(kept, block.row_bytes):
                    data = values[rows].tobytes()
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


def _write_rows(file: int, block: Block, indices: np.ndarray, values: np.ndarray) -> None:
    """Put values (B, ...) where the rows (B,) of a block stand in an open file."""
    assert values.shape == (len(indices), *block.shape), values.shape
    for index, row in zip(indices, values.astype(block.type), strict=True):
        write_at(file, row.tobytes(), block.offset + int(index) * row.nbytes)


def _create(
    path: Path,
    meta: TokenMeta,
    names: Sequence[str],
    labels: np.ndarray,
    done: np.ndarray,
    blocks: dict[str, Block],
    skipped: Sequence[tuple[str, str]] | None,
) -> None:
    """Write a whole token file but for its blocks, whose place is set aside. None skipped: unfinished."""
    header: dict[str, Any] = {
        "format": TOKENS_FORMAT,
        "version": TOKENS_VERSION,
        "complete": skipped is not None,
        **dataclasses.asdict(meta),
    }
    header |= {key: json.dumps(header[key]) for key in JSON_ATTRIBUTES}
    flat = [text for pair in skipped or () for text in pair]
    small = {
        "labels": np.asarray(labels, np.int32),
        "names": fixed_texts(names, (len(names),)),
        "done": done,
        "skipped": fixed_texts(flat, (len(flat) // 2, 2)),
    }
    texts = sum(len(value.encode()) for value in header.values() if isinstance(value, str))
    rows = len(names) * sum(block.row_bytes for block in blocks.values())
    # Where the disk is full HDF5 fails in a way that leaves tracebacks, whatever one catches.
    check_space(path, rows + sum(array.nbytes for array in small.values()) + texts + HEADER_BYTES)
    with h5py.File(path, "w") as file:
        for key, value in header.items():
            file.attrs[key] = value
        for key, array in small.items():
            file[key] = array
        for key, block in blocks.items():
            set_aside(file, key, block.type, (len(names), *block.shape))
    reserve(path)
