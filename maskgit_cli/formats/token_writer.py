"""Writing token files, row by row, so that a kill at any moment loses no finished row.

A file is filled as ``PATH.partial``, in which ``done`` marks the rows that have tokens. The finished file
is a compact copy without the rows that were skipped, and is renamed to ``PATH``.
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
from maskgit_cli.formats.atomic import disk_errors, remove_temporary_siblings, replacing_file
from maskgit_cli.formats.claim import Found, OutputKind
from maskgit_cli.formats.hdf5 import create_unfilled, decode_texts, encode_texts
from maskgit_cli.formats.in_place import check_space, reserve, write_at
from maskgit_cli.formats.records import record_difference
from maskgit_cli.formats.tokens import (
    JSON_ATTRIBUTES,
    TOKENS_FORMAT,
    TOKENS_VERSION,
    TRACE_TYPES,
    TokenBlock,
    TokenMeta,
    Trace,
    chunks,
    open_tokens,
    partial_path,
    read_header,
    token_blocks,
)

# More than HDF5 needs for itself in a file with a handful of datasets.
HEADER_BYTES = 2**16


def tokens_record(meta: TokenMeta) -> dict[str, Any]:
    """What two equal token files have in common: neither names of folders nor package versions."""
    keys = ("resolution", "views", "grid", "codebook_size", "class_names", "settings", "parents")
    return {"tokenizer": meta.tokenizer_sha256[:12]} | {key: getattr(meta, key) for key in keys}


def _find(path: Path) -> Found | None:
    if path.suffix == ".partial":
        return Found(tokens_record(read_header(path)[0]), False)
    return Found(tokens_record(open_tokens(path).meta), True)


TOKENS = OutputKind("a token file", _find, draft=partial_path, folder=False)


class TokenWriter:
    """Fills a token file row by row, in any order, from one process or several.

    Use :meth:`create_or_resume`. No file is held open between calls.

    Attributes:
        path: of the finished file.
        meta: its metadata.
        done: rows that had tokens when this writer was created, or have been written by it, bool (N,).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = partial_path(path)
        self.meta, self._labels, self._layout, _ = read_header(self.partial)
        self.done = self._read_done()

    @classmethod
    def create_or_resume(
        cls, path: Path, meta: TokenMeta, names: Sequence[str], labels: np.ndarray, steps: int = 0
    ) -> TokenWriter:
        """Create a token file, or continue the unfinished one; the file or its directory has been claimed.

        Where several processes fill a file, rank 0 calls this before the others do.

        Args:
            path: of the finished file; its folder is created.
            meta: its metadata.
            names: name of each image (N,), N at least 1.
            labels: class numbers (N,), -1 for none.
            steps: S of the trace; 0 is no trace.

        Raises:
            OutputError: the unfinished file has other settings, images or labels, or the disk is full or not
                writable.
        """
        assert len(names) == len(labels) > 0
        partial = partial_path(path)
        if partial.exists():
            return cls._resume(path, meta, names, labels)
        with replacing_file(partial, named=path) as temporary:
            done = np.zeros(len(names), np.bool_)
            _create(temporary, meta, names, labels, done, token_blocks(meta, steps), None)
        return cls(path)

    @classmethod
    def _resume(cls, path: Path, meta: TokenMeta, names: Sequence[str], labels: np.ndarray) -> TokenWriter:
        try:
            writer = cls(path)
        except ArtifactError as error:
            raise OutputError(f"cannot resume: {error}; or pass --overwrite to start again") from error
        difference = record_difference(tokens_record(writer.meta), tokens_record(meta))
        if not np.array_equal(writer._labels, labels) or writer._read_names() != list(names):
            difference = difference or "other images or labels"
        if difference:
            raise OutputError(
                f"{path} was started with {difference}; use the same, another place, or --overwrite"
            )
        return writer

    def write(self, indices: np.ndarray, codes: np.ndarray, trace: Trace | None = None) -> None:
        """Store tokens (B, V, h, w) and their trace in rows (B,), and only then mark these as done.

        Args:
            indices: the rows.
            codes: the tokens, in [0, K).
            trace: given if and only if the file was created with a trace.

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
            skipped: (name, reason) of each image without tokens.

        Raises:
            OutputError: the disk is full or not writable.
        """
        self.done = self._read_done()
        kept = np.flatnonzero(self.done)
        assert len(kept) > 0
        names = self._read_names()
        remove_temporary_siblings(self.path)
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
                values = np.memmap(self.partial, block.dtype, "r", block.offset, shape)
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
            return decode_texts(file["names"][:])


def _write_rows(file: int, block: TokenBlock, indices: np.ndarray, values: np.ndarray) -> None:
    """Write values (B, ...) to the rows (B,) of a block in an open file."""
    assert values.shape == (len(indices), *block.shape), values.shape
    for index, row in zip(indices, values.astype(block.dtype), strict=True):
        write_at(file, row.tobytes(), block.offset + int(index) * row.nbytes)


def _create(
    path: Path,
    meta: TokenMeta,
    names: Sequence[str],
    labels: np.ndarray,
    done: np.ndarray,
    blocks: dict[str, TokenBlock],
    skipped: Sequence[tuple[str, str]] | None,
) -> None:
    """Write a token file with its blocks allocated but unfilled; it is unfinished if ``skipped`` is None."""
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
        "names": encode_texts(names, (len(names),)),
        "done": done,
        "skipped": encode_texts(flat, (len(flat) // 2, 2)),
    }
    texts = sum(len(value.encode()) for value in header.values() if isinstance(value, str))
    rows = len(names) * sum(block.row_bytes for block in blocks.values())
    # On a full disk HDF5 prints tracebacks, whatever exception is caught.
    check_space(path, rows + sum(array.nbytes for array in small.values()) + texts + HEADER_BYTES)
    with h5py.File(path, "w") as file:
        for key, value in header.items():
            file.attrs[key] = value
        for key, array in small.items():
            file[key] = array
        for key, block in blocks.items():
            create_unfilled(file, key, block.dtype, (len(names), *block.shape))
    reserve(path)
