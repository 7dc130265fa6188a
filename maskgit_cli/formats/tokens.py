"""Token files (``maskgit-tokens``, version 1): tokens of images, as ``tokenize`` and ``sample`` write them.

A token file is HDF5, but its tokens (the dataset ``codes``) are one contiguous block at a known offset.
So training maps them into memory, several processes fill one file, and a killed run resumes: HDF5 writes
a file only once, before the first token is stored.

A file of samples may also hold their trace: the tokens, confidences and mask after each sampling step.

This module reads; :mod:`maskgit_cli.formats.token_writer` writes.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from maskgit_cli.config.stages import VIEWS
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import CREATED_BY, check_format, sha256_file
from maskgit_cli.formats.hdf5 import decode_texts

TOKENS_FORMAT, TOKENS_VERSION = "maskgit-tokens", 1

# Tokens are checked and copied this many bytes at a time, so that no file has to fit into memory.
CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class TokenMeta:
    """Metadata of a token file.

    Attributes:
        codebook_size: K; tokens are 0..K-1.
        grid: tokens per side of an image.
        resolution: pixels per side of an image.
        views: which views of each image were tokenized, a key of :data:`~maskgit_cli.config.stages.VIEWS`.
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
        """(V, h, w): the tokens of one image."""
        return VIEWS[self.views], self.grid, self.grid


# Attributes stored as numbers, as text, and as JSON text.
_NUMBERS = ("codebook_size", "grid", "resolution")
_TEXTS = ("views", "tokenizer", "tokenizer_sha256", "created_by")
JSON_ATTRIBUTES: dict[str, type] = {"class_names": list, "settings": dict, "parents": list}
# Datasets (N, S, h, w) of a sampler's trace: names without "trace_", and types.
TRACE_TYPES = {"codes": "<u2", "confidences": "<f4", "masks": "|b1"}


class Trace(NamedTuple):
    """State of a sampler after each of its S steps, for B images or all N of a file.

    Attributes:
        codes: uint16 (B, S, h, w), the kept tokens and, at masked positions, those sampled in the step.
        confidences: float32 (B, S, h, w), -inf where the token was kept before the step.
        masks: bool (B, S, h, w), True where the position is masked after the step.
    """

    codes: np.ndarray
    confidences: np.ndarray
    masks: np.ndarray


class TokenBlock(NamedTuple):
    """A dataset whose rows are filled from outside HDF5.

    Attributes:
        dtype: of its values.
        shape: of a row, one image.
        offset: in bytes, of the first row in the file; 0 before there is a file.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return self.dtype.itemsize * math.prod(self.shape)


class TokenLayout(NamedTuple):
    """Offsets in a token file.

    Attributes:
        rows: number of images N.
        blocks: tokens and, if there is one, the trace.
        done: offset in bytes of the flags that mark rows with tokens.
    """

    rows: int
    blocks: dict[str, TokenBlock]
    done: int


def token_blocks(meta: TokenMeta, steps: int) -> dict[str, TokenBlock]:
    """The blocks of a file, without offsets: its tokens, and a trace of S steps unless S is 0."""
    blocks = {"codes": TokenBlock(np.dtype("<u2"), meta.row_shape)}
    if steps:
        shape = (steps, meta.grid, meta.grid)
        blocks |= {f"trace_{name}": TokenBlock(np.dtype(kind), shape) for name, kind in TRACE_TYPES.items()}
    return blocks


# --- reading ----------------------------------------------------------------------------------------


class TokenFile:
    """A finished token file, mapped read-only. It can be pickled; the copy opens its own map.

    Attributes:
        path: the file.
        meta: its metadata.
        labels: class numbers int32 (N,), -1 for none.
    """

    def __init__(
        self, path: Path, meta: TokenMeta, labels: np.ndarray, blocks: dict[str, TokenBlock]
    ) -> None:
        self.path = path
        self.meta = meta
        self.labels = labels
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map would copy all of it; cached values are read again.
        return {key: self.__dict__[key] for key in ("path", "meta", "labels", "_blocks")}

    @functools.cached_property
    def codes(self) -> np.memmap:
        """Tokens uint16 (N, V, h, w), a read-only memory map."""
        return self._map("codes")

    @functools.cached_property
    def trace(self) -> Trace | None:
        """The sampler's trace, read-only memory maps; None if it was not stored."""
        if "trace_codes" not in self._blocks:
            return None
        return Trace(*(self._map(f"trace_{name}") for name in TRACE_TYPES))

    def _map(self, name: str) -> np.memmap:
        block = self._blocks[name]
        return np.memmap(self.path, block.dtype, "r", block.offset, (len(self), *block.shape))

    @functools.cached_property
    def sha256(self) -> str:
        """Hexadecimal sha256 of the whole file."""
        return sha256_file(self.path)

    @functools.cached_property
    def names(self) -> list[str]:
        """Name of each image (N,)."""
        with h5py.File(self.path, "r", locking=False) as file:
            return decode_texts(file["names"][:])

    @functools.cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of each image that could not be read."""
        with h5py.File(self.path, "r", locking=False) as file:
            return [(name, reason) for name, reason in map(decode_texts, file["skipped"][:])]


def partial_path(path: Path) -> Path:
    """Path of a token file while it is being filled."""
    return path.with_name(path.name + ".partial")


def open_tokens(path: Path) -> TokenFile:
    """Open a finished token file and check all of it, tokens included.

    Raises:
        ArtifactError: it is missing, unfinished, damaged, inconsistent, or of another format or version.
    """
    unfinished = f"{path} is not finished; run the command that wrote it again to finish it"
    if not path.exists():
        if partial_path(path).exists():
            raise ArtifactError(unfinished)
        raise ArtifactError(f"no token file at {path}: it does not exist")
    meta, labels, layout, complete = read_header(path)
    if not complete:
        raise ArtifactError(unfinished)
    tokens = TokenFile(path, meta, labels, layout.blocks)
    _check_codes(tokens)
    return tokens


def check_tokenizer(meta: TokenMeta, tokenizer_sha256: str) -> None:
    """Check that a tokenizer is the one that a file's tokens came from.

    Args:
        meta: of the file.
        tokenizer_sha256: of the tokenizer's weights.

    Raises:
        ArtifactError: it is another tokenizer.
    """
    if meta.tokenizer_sha256 != tokenizer_sha256:
        raise ArtifactError(
            f"the tokens are of tokenizer {meta.tokenizer} (sha256 {meta.tokenizer_sha256[:12]}…), not of "
            f"the one given (sha256 {tokenizer_sha256[:12]}…); name the tokenizer that they came from"
        )


def read_header(path: Path) -> tuple[TokenMeta, np.ndarray, TokenLayout, bool]:
    """Metadata, labels (N,), layout, and whether the file is marked as complete, all checked.

    Raises:
        ArtifactError: it is damaged, inconsistent, or of another format or version.
    """
    if path.is_file() and not os.access(path, os.R_OK):
        raise ArtifactError(f"{path} cannot be read: no permission; change that first")
    if not path.is_file() or not h5py.is_hdf5(path):
        raise ArtifactError(f"{path} is not a token file (not HDF5); `maskgit tokenize` writes one")
    try:
        with h5py.File(path, "r", locking=False) as file:
            values = {key: file.attrs[key] for key in ("format", "version") if key in file.attrs}
            check_format(values, path, TOKENS_FORMAT, TOKENS_VERSION)
            meta = _read_meta(file, path)
            layout = _read_layout(file, path, meta)
            labels = file["labels"][:]
            complete = bool(file.attrs["complete"])
            if complete and not file["done"][:].all():
                raise ArtifactError(f"{path} is damaged: it is marked complete but has rows without tokens")
    except ArtifactError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path} is truncated or damaged; write it again ({reason})") from None
    highest = len(meta.class_names) or np.iinfo(np.int32).max
    if labels.min() < -1 or labels.max() >= highest:
        raise ArtifactError(f"{path} is damaged: it has a label outside its {len(meta.class_names)} classes")
    return meta, labels, layout, complete


def _read_meta(file: h5py.File, path: Path) -> TokenMeta:
    values: dict[str, Any] = {key: int(file.attrs[key]) for key in _NUMBERS}
    values |= {key: str(file.attrs[key]) for key in _TEXTS}
    for key, kind in JSON_ATTRIBUTES.items():
        try:
            values[key] = json.loads(file.attrs[key])
        except ValueError:
            raise ArtifactError(f"{path} is damaged: its {key} are not JSON") from None
        if not isinstance(values[key], kind):
            raise ArtifactError(f"{path} is damaged: its {key} are not a {kind.__name__}")
    if values["views"] not in VIEWS:
        raise ArtifactError(f"{path} has views {values['views']!r}, which this package does not support")
    return TokenMeta(**values)


def _read_layout(file: h5py.File, path: Path, meta: TokenMeta) -> TokenLayout:
    """Check kind, shape, contiguity and extent of the datasets."""
    rows = len(file["labels"])
    if rows == 0:
        raise ArtifactError(f"{path} holds no images")
    steps = file["trace_codes"].shape[1] if "trace_codes" in file else 0
    blocks = token_blocks(meta, steps)
    for name, block in blocks.items():
        _check_dataset(file[name], path, block.dtype.name, (rows, *block.shape))
        blocks[name] = block._replace(offset=file[name].id.get_offset())
    _check_dataset(file["labels"], path, "int32", (rows,))
    _check_dataset(file["names"], path, "bytes", (rows,))
    _check_dataset(file["done"], path, "bool", (rows,))
    _check_dataset(file["skipped"], path, "bytes", (len(file["skipped"]), 2))
    return TokenLayout(rows, blocks, file["done"].id.get_offset())


def _check_dataset(dataset: h5py.Dataset, path: Path, kind: str, shape: tuple[int, ...]) -> None:
    name = dataset.name.removeprefix("/")
    found = "bytes" if dataset.dtype.kind == "S" else dataset.dtype.newbyteorder("=").name
    if dataset.shape != shape or found != kind or dataset.dtype.byteorder == ">":
        raise ArtifactError(
            f"{path} is damaged: its {name} are {dataset.dtype} {dataset.shape}, not {kind} {shape}"
        )
    offset = dataset.id.get_offset()
    if offset is None and dataset.size > 0:
        raise ArtifactError(f"{path}: its {name} are not contiguous; `maskgit tokenize` writes such a file")
    if dataset.size > 0 and offset + dataset.nbytes > path.stat().st_size:
        raise ArtifactError(f"{path} is truncated: its {name} end beyond the end of the file; write it again")


def _check_codes(tokens: TokenFile) -> None:
    size = tokens.meta.codebook_size
    for codes in (tokens.codes, *([tokens.trace.codes] if tokens.trace else [])):
        for rows in chunks(np.arange(len(tokens)), 2 * math.prod(codes.shape[1:])):
            highest = int(codes[rows[0] : rows[-1] + 1].max())
            if highest >= size:
                raise ArtifactError(
                    f"{tokens.path} is damaged: token {highest} is outside its codebook of {size}; "
                    "write it again"
                )


def chunks(rows: np.ndarray, row_bytes: int) -> Iterator[np.ndarray]:
    """Row numbers in parts of at most :data:`CHUNK_BYTES`."""
    step = max(1, CHUNK_BYTES // row_bytes)
    return (rows[i : i + step] for i in range(0, len(rows), step))
