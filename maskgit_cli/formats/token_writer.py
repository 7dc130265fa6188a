"""Writing token files, row by row, so that a kill at any moment loses no finished row.

A file is filled as ``PATH.partial``, in which ``done`` marks the rows that have tokens. The finished file
is a compact copy without the rows that were skipped, and is renamed to ``PATH``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import disk_errors, remove_temporary_siblings, replacing_file
from maskgit_cli.formats.claim import Found, OutputKind
from maskgit_cli.formats.hdf5 import create_unfilled, encode_texts
from maskgit_cli.formats.in_place import check_space, reserve, write_at
from maskgit_cli.formats.records import record_difference
from maskgit_cli.formats.token_index import (
    TOKENS_FORMAT,
    TOKENS_VERSION,
    Extent,
    TokenIndex,
    block_size,
    write_index,
)
from maskgit_cli.formats.tokens import (
    FILLED,
    ROW_DATA,
    TRACE_TYPES,
    TokenMeta,
    Trace,
    chunks,
    damaged_rows,
    decode_texts,
    open_tokens,
    partial_path,
    ranges,
    read_header,
    row_checksums,
    row_data,
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
        self.meta, self._labels, self._index = read_header(self.partial)
        self.done = self._read_done()
        damaged = damaged_rows(self.partial, self._index)
        if len(damaged):
            warnings.warn(
                f"rows {ranges(damaged)} of {self.partial} differ from their checksums and are written again",
                stacklevel=2,
            )
            self.done[damaged] = False

    @classmethod
    def create_or_resume(
        cls,
        path: Path,
        meta: TokenMeta,
        names: Sequence[str],
        labels: np.ndarray,
        *,
        steps: int = 0,
        pixels: bool = False,
    ) -> TokenWriter:
        """Create a token file, or continue the unfinished one; the file or its directory has been claimed.

        Where several processes fill a file, rank 0 calls this before the others do.

        Args:
            path: of the finished file; its folder is created.
            meta: its metadata.
            names: name of each image (N,), N at least 1.
            labels: class numbers (N,), -1 for none.
            steps: S of the trace; 0 is no trace.
            pixels: whether digests of the images' pixels are stored.

        Raises:
            OutputError: the unfinished file has other settings, images or labels, or the disk is full or not
                writable.
        """
        assert len(names) == len(labels) > 0
        partial = partial_path(path)
        if partial.exists():
            return cls._resume(path, meta, names, labels)
        with replacing_file(partial, named=path) as temporary:
            rows = row_data(meta, len(names), steps, pixels)
            index = _create(temporary, meta, names, labels, rows)
            write_index(temporary, index, FILLED)
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

    def write(
        self,
        indices: np.ndarray,
        codes: np.ndarray,
        trace: Trace | None = None,
        pixels: np.ndarray | None = None,
    ) -> None:
        """Store tokens (B, V, h, w) and what goes with them in rows (B,), and only then mark these as done.

        Args:
            indices: the rows.
            codes: the tokens, in [0, K).
            trace: given if and only if the file was created with a trace.
            pixels: digests of the images' pixels uint8 (B, 32), likewise.

        Raises:
            OutputError: the disk is full or not writable.
        """
        values = {"codes": codes}
        if trace is not None:
            values |= {f"trace_{name}": getattr(trace, name) for name in TRACE_TYPES}
        if pixels is not None:
            values["pixels_sha256"] = pixels
        datasets = self._index.datasets
        assert values.keys() == self._index.those(ROW_DATA).keys()
        for name in values.keys() & {"codes", "trace_codes"}:
            assert values[name].min(initial=0) >= 0
            assert values[name].max(initial=0) < self.meta.codebook_size
        stored = {name: value.astype(datasets[name].dtype) for name, value in values.items()}
        stored["row_crc32"] = row_checksums(list(stored.values()))
        with disk_errors(self.path):
            file = os.open(self.partial, os.O_WRONLY)
            try:
                for name, value in stored.items():
                    _write_rows(file, datasets[name], indices, value)
                os.fsync(file)
                _write_rows(file, datasets["done"], indices, np.ones(len(indices), np.bool_))
            finally:
                os.close(file)
        self.done[indices] = True

    def finish(self, skipped: Sequence[tuple[str, str]] = ()) -> Path:
        """Write the finished file, without the rows that no process has done, and remove the partial.

        Args:
            skipped: (name, reason) of each image without tokens.

        Raises:
            OutputError: the disk is full or not writable.
            ArtifactError: the disk returns other rows than were written to it.
        """
        self.done = self._read_done()
        kept = np.flatnonzero(self.done)
        assert len(kept) > 0
        names = self._read_names()
        remove_temporary_siblings(self.path)
        with replacing_file(self.path) as temporary:
            rows = {
                name: extent._replace(shape=(len(kept), *extent.shape[1:]))
                for name, extent in self._index.those(ROW_DATA).items()
            }
            kept_names = [names[i] for i in kept]
            index = _create(temporary, self.meta, kept_names, self._labels[kept], rows, skipped)
            digests = self._copy_rows(kept, temporary, index)
            datasets = {
                name: extent._replace(sha256=digests.get(name)) for name, extent in index.datasets.items()
            }
            write_index(temporary, index._replace(datasets=datasets), FILLED)
        self.discard()
        return self.path

    def _copy_rows(self, kept: np.ndarray, target: Path, index: TokenIndex) -> dict[str, str]:
        """Copy rows to a finished file, checking their checksums; digest of each dataset."""
        copied = index.those((*ROW_DATA, "row_crc32"))
        sources = {name: self._index.datasets[name].map(self.partial) for name in copied}
        digests = {name: hashlib.sha256() for name in (*sources, "done")}
        offsets = {name: index.datasets[name].offset for name in digests}
        row_bytes = sum(index.datasets[name].row_bytes for name in sources)
        file = os.open(target, os.O_WRONLY)
        try:
            for rows in chunks(kept, row_bytes):
                values = {name: source[rows] for name, source in sources.items()}
                data = [values[name] for name in index.those(ROW_DATA)]
                wrong = rows[row_checksums(data) != values["row_crc32"]]
                if len(wrong):
                    raise ArtifactError(
                        f"rows {ranges(wrong)} of {self.partial} differ from their checksums; run the same "
                        "command again to write them again"
                    )
                values["done"] = np.ones(len(rows), np.bool_)
                for name, value in values.items():
                    piece = value.tobytes()
                    digests[name].update(piece)
                    write_at(file, piece, offsets[name])
                    offsets[name] += len(piece)
        finally:
            os.close(file)
        return {name: digest.hexdigest() for name, digest in digests.items()}

    def row_crc32(self) -> np.ndarray:
        """Checksum of each row in the unfinished file, uint32 (N,); 0 of rows that were never written."""
        return self._index.datasets["row_crc32"].read(self.partial)

    def discard(self) -> None:
        """Remove the unfinished file."""
        self.partial.unlink(missing_ok=True)

    def _read_done(self) -> np.ndarray:
        return self._index.datasets["done"].read(self.partial)

    def _read_names(self) -> list[str]:
        return decode_texts(self._index.datasets["names"].read(self.partial))


def _write_rows(file: int, extent: Extent, indices: np.ndarray, values: np.ndarray) -> None:
    """Write values (B, ...) to the rows (B,) of a dataset in an open file."""
    assert values.shape == (len(indices), *extent.shape[1:]), values.shape
    if not len(indices):
        return
    # Rows that follow one another, as those of a batch mostly do, are one write.
    starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
    for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True):
        data = values[start:stop].tobytes()
        write_at(file, data, extent.offset + int(indices[start]) * extent.row_bytes)


def _create(
    path: Path,
    meta: TokenMeta,
    names: Sequence[str],
    labels: np.ndarray,
    rows: dict[str, Extent],
    skipped: Sequence[tuple[str, str]] | None = None,
) -> TokenIndex:
    """Write a token file whose rows are allocated but unfilled, and without its index, which is returned.

    The file is unfinished if ``skipped`` is None.
    """
    complete = skipped is not None
    flat = [text for pair in skipped or () for text in pair]
    small = {
        "labels": np.asarray(labels, "<i4"),
        "names": encode_texts(names, (len(names),)),
        "skipped": encode_texts(flat, (len(flat) // 2, 2)),
        "row_crc32": np.zeros(len(names), "<u4"),
        "done": np.zeros(len(names), np.bool_),
    }
    datasets = rows | {name: Extent(0, array.dtype, array.shape) for name, array in small.items()}
    # As JSON gives them back: tuples become lists.
    attributes = json.loads(json.dumps(asdict(meta)))
    texts = {key: _attribute(value) for key, value in attributes.items()}
    block = block_size(attributes, datasets)
    bytes_of_texts = sum(len(text.encode()) for text in texts.values() if isinstance(text, str))
    # On a full disk HDF5 prints tracebacks, whatever exception is caught.
    check_space(path, block + sum(x.nbytes for x in datasets.values()) + bytes_of_texts + HEADER_BYTES)
    with h5py.File(path, "w", userblock_size=block) as file:
        file.attrs["format"], file.attrs["version"] = TOKENS_FORMAT, TOKENS_VERSION
        file.attrs["complete"] = complete
        for key, value in texts.items():
            file.attrs[key] = value
        for name, array in small.items():
            file[name] = array
        for name, extent in rows.items():
            create_unfilled(file, name, extent.dtype, extent.shape)
        # Of an empty dataset HDF5 gives a place that is none.
        offsets = {name: file[name].id.get_offset() if x.nbytes else 0 for name, x in datasets.items()}
    reserve(path)
    placed = {name: extent._replace(offset=offsets[name]) for name, extent in datasets.items()}
    return TokenIndex(complete, attributes, placed)


def _attribute(value: Any) -> Any:
    """A value of the metadata as an HDF5 attribute, which cannot be null."""
    if value is None:
        return math.nan
    return json.dumps(value) if isinstance(value, list | dict) else value
