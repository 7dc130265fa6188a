"""Token files (``maskgit-tokens``, version 2): tokens of images, as ``tokenize`` and ``sample`` write them.

A token file is HDF5 with an index in front (:mod:`maskgit_cli.formats.token_index`). Its tokens (the dataset
``codes``) are one contiguous block at a known offset. So training maps them into memory, several processes
fill one file, and a killed run resumes: HDF5 writes a file only once, before the first token is stored.

A file of samples may also hold their trace (the tokens, confidences and mask after each sampling step) and
a digest of each image's pixels.

This module reads; :mod:`maskgit_cli.formats.token_writer` writes.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.config.base import LARGEST_SIDE
from maskgit_cli.config.stages import view_count
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import CREATED_BY, check_parents, is_sha256, sha256_file
from maskgit_cli.formats.token_index import (
    CHUNK_BYTES,
    Extent,
    TokenIndex,
    pieces,
    read_index,
)


@dataclass(frozen=True)
class TokenMeta:
    """Metadata of a token file.

    Attributes:
        codebook_size: K; tokens are 0..K-1.
        grid: tokens per side of an image.
        resolution: pixels per side of an image.
        views: which views of each image were tokenized, as ``TokenizeConfig.views`` names them.
        class_names: name of each class, or empty where images have no classes or classes no names.
        tokenizer: name of the tokenizer's directory.
        tokenizer_sha256: of the tokenizer's weights.
        settings: of the stage that wrote the file.
        parents: what it was made from, each a dict of ``kind``, ``name`` and ``sha256``.
        created_by: the package and its version.
        source: path of the images as it was typed; empty where the tokens are not of images.
        psnr: of the tokenizer's reconstructions of the first images, in dB; None where it was not measured.
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
    source: str = ""
    psnr: float | None = None

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(V, h, w): the tokens of one image."""
        views = view_count(self.views)
        assert views is not None, self.views
        return views, self.grid, self.grid


def with_range(meta: TokenMeta, part: tuple[int, int], listed: int) -> TokenMeta:
    """The metadata of a part: of the images part[0] to part[1]-1 of those that are listed."""
    return replace(meta, settings=meta.settings | {"range": list(part), "listed": listed})


def split_range(meta: TokenMeta) -> tuple[TokenMeta, tuple[int, int], int] | None:
    """What :func:`with_range` was given; None if the file is not a part.

    A sample directory's tokens have a range of their own, without ``listed``.
    """
    settings = dict(meta.settings)
    part, listed = settings.pop("range", None), settings.pop("listed", None)
    numbers = [*part, listed] if isinstance(part, list) and len(part) == 2 else []
    if not numbers or any(type(number) is not int for number in numbers):
        return None
    first, stop, total = numbers
    return (replace(meta, settings=settings), (first, stop), total) if 0 <= first < stop <= total else None


# Metadata by their types. HDF5 attributes hold lists and objects as JSON text.
_ATTRIBUTES: dict[str, type | tuple[type, ...]] = {
    "codebook_size": int,
    "grid": int,
    "resolution": int,
    "views": str,
    "class_names": list,
    "tokenizer": str,
    "tokenizer_sha256": str,
    "settings": dict,
    "parents": list,
    "created_by": str,
    "source": str,
    "psnr": (float, NoneType),
}
# Tokens are stored in 16 bits, and the mask token is one of their values.
LARGEST_CODEBOOK = 65535
# Datasets (N, S, h, w) of a sampler's trace: names without "trace_", and types.
TRACE_TYPES = {"codes": "<u2", "confidences": "<f4", "masks": "|b1"}
# Datasets whose rows are filled from outside HDF5; a row's checksum covers those before the last two.
ROW_DATA = ("codes", *(f"trace_{name}" for name in TRACE_TYPES), "pixels_sha256")
FILLED = (*ROW_DATA, "row_crc32", "done")


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


def row_data(meta: TokenMeta, rows: int, steps: int, pixels: bool) -> dict[str, Extent]:
    """The datasets that hold the rows, before there is a file.

    Args:
        meta: of the file.
        rows: number of images N.
        steps: S of the trace; 0 is no trace.
        pixels: whether there are digests of the images' pixels.
    """
    found = {"codes": Extent(0, np.dtype("<u2"), (rows, *meta.row_shape))}
    if steps:
        shape = (rows, steps, meta.grid, meta.grid)
        found |= {f"trace_{name}": Extent(0, np.dtype(kind), shape) for name, kind in TRACE_TYPES.items()}
    if pixels:
        found["pixels_sha256"] = Extent(0, np.dtype("|u1"), (rows, 32))
    return found


# --- reading ----------------------------------------------------------------------------------------


class TokenFile:
    """A finished token file, mapped read-only. It can be pickled; the copy opens its own maps.

    Attributes:
        path: the file.
        meta: its metadata.
        labels: class numbers int32 (N,), -1 for none.
    """

    def __init__(self, path: Path, meta: TokenMeta, labels: np.ndarray, datasets: dict[str, Extent]) -> None:
        self.path = path
        self.meta = meta
        self.labels = labels
        self._datasets = datasets

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map would copy all of it; cached values are read again.
        return {key: self.__dict__[key] for key in ("path", "meta", "labels", "_datasets")}

    @property
    def files(self) -> tuple[TokenFile]:
        """The file itself: a set of one."""
        return (self,)

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    def view_counts(self, rows: np.ndarray) -> np.ndarray:
        """Number of views of each row (B,): int64 (B,)."""
        return np.full(len(rows), self.codes.shape[1])

    def take(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Tokens uint16 (B, h, w) of one view (B,) of each row (B,)."""
        return np.asarray(self.codes)[rows, views]

    @functools.cached_property
    def codes(self) -> np.memmap:
        """Tokens uint16 (N, V, h, w), a read-only memory map."""
        return self._datasets["codes"].map(self.path)

    @functools.cached_property
    def trace(self) -> Trace | None:
        """The sampler's trace, read-only memory maps; None if it was not stored."""
        if "trace_codes" not in self._datasets:
            return None
        return Trace(*(self._datasets[f"trace_{name}"].map(self.path) for name in TRACE_TYPES))

    @functools.cached_property
    def pixels_sha256(self) -> np.memmap | None:
        """Digest of the pixels of each row's image, uint8 (N, 32); None if it was not stored."""
        digests = self._datasets.get("pixels_sha256")
        return digests and digests.map(self.path)

    @functools.cached_property
    def row_crc32(self) -> np.ndarray:
        """Checksum of each row, uint32 (N,)."""
        return self._datasets["row_crc32"].read(self.path)

    @functools.cached_property
    def sha256(self) -> str:
        """Hexadecimal sha256 of the whole file."""
        return sha256_file(self.path)

    @functools.cached_property
    def names(self) -> list[str]:
        """Name of each image (N,)."""
        return decode_texts(self._datasets["names"].read(self.path))

    @functools.cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of each image that could not be read."""
        rows = self._datasets["skipped"].read(self.path)
        return [(name, reason) for name, reason in map(decode_texts, rows)]


def decode_texts(values: np.ndarray) -> list[str]:
    """The strings in an array of UTF-8 bytes."""
    # File names need not be valid UTF-8; surrogates preserve the invalid bytes.
    return [bytes(value).decode("utf-8", "surrogateescape") for value in values]


def partial_path(path: Path) -> Path:
    """Path of a token file while it is being filled."""
    return path.with_name(path.name + ".partial")


@checked
def open_tokens(path: PathArgument) -> TokenFile:
    """Open a finished token file and check all of it: every byte against its digest, every token's range.

    Raises:
        ArtifactError: it is missing, unfinished, damaged, inconsistent, or of another format or version.
    """
    path = Path(path)
    unfinished = f"{path} is not finished; run the command that wrote it again to finish it"
    if not path.exists() and partial_path(path).exists():
        raise ArtifactError(unfinished)
    meta, labels, index = read_header(path)
    if not index.complete:
        raise ArtifactError(unfinished)
    tokens = TokenFile(path, meta, labels, index.datasets)
    for name, extent in index.those(FILLED).items():
        _check_content(tokens, index, name, extent)
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


def read_header(path: Path) -> tuple[TokenMeta, np.ndarray, TokenIndex]:
    """Metadata, labels (N,) and index of a token file, finished or not, all checked.

    Raises:
        ArtifactError: it is damaged, inconsistent, or of another format or version.
    """
    index = read_index(path, FILLED)
    meta = _checked_meta(path, index.attributes)
    _check_datasets(path, meta, index)
    labels = index.datasets["labels"].read(path)
    classes = len(meta.class_names)
    if labels.min() < -1 or labels.max() >= (classes or np.iinfo(np.int32).max):
        raise ArtifactError(f"{path} is damaged: it has a label outside its {classes} classes")
    return meta, labels, index


def _checked_meta(path: Path, values: dict[str, Any]) -> TokenMeta:
    """The metadata, if they are a token file's."""
    for key, kind in _ATTRIBUTES.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if key not in values or type(values[key]) not in kinds:
            raise ArtifactError(f"{path} is damaged: its {key} is not {kinds[0].__name__}; write it again")
    meta = TokenMeta(**{key: values[key] for key in _ATTRIBUTES})
    if view_count(meta.views) is None:
        raise ArtifactError(f"{path} has views {meta.views!r}, which this package does not support")
    wrong = None
    if not 2 <= meta.codebook_size <= LARGEST_CODEBOOK:
        wrong = f"codebook_size {meta.codebook_size}"
    elif not 1 <= meta.grid <= meta.resolution <= LARGEST_SIDE or meta.resolution % meta.grid:
        wrong = f"grid {meta.grid} of resolution {meta.resolution}"
    elif not is_sha256(meta.tokenizer_sha256):
        wrong = f"tokenizer_sha256 {meta.tokenizer_sha256[:20]!r}"
    elif not all(isinstance(name, str) for name in meta.class_names):
        wrong = "class_names that are not text"
    if wrong:
        raise ArtifactError(f"{path} is damaged: {wrong}; write it again")
    check_parents(meta.parents, path)
    return meta


def _check_datasets(path: Path, meta: TokenMeta, index: TokenIndex) -> None:
    """Check that the datasets have the types and shapes that follow from the metadata."""
    found = index.datasets
    shape = found["labels"].shape if "labels" in found else ()
    rows = shape[0] if shape else 0
    if not rows:
        raise ArtifactError(f"{path} is damaged: it holds no images; write it again")
    trace = found.get("trace_codes")
    steps = trace.shape[1] if trace and len(trace.shape) > 1 else 0
    skipped = found["skipped"].shape if "skipped" in found else ()
    wanted = row_data(meta, rows, steps, "pixels_sha256" in found)
    wanted |= {
        "labels": Extent(0, np.dtype("<i4"), (rows,)),
        "names": Extent(0, np.dtype("S"), (rows,)),
        "skipped": Extent(0, np.dtype("S"), (*skipped[:1], 2)),
        "row_crc32": Extent(0, np.dtype("<u4"), (rows,)),
        "done": Extent(0, np.dtype("|b1"), (rows,)),
    }
    if wanted.keys() != found.keys():
        names = ", ".join(sorted(wanted.keys() ^ found.keys()))
        raise ArtifactError(f"{path} is damaged: it lacks or should not have {names}; write it again")
    for name, extent in found.items():
        kind = wanted[name].dtype
        same_kind = extent.dtype.kind == "S" if kind.kind == "S" else extent.dtype == kind
        if not same_kind or extent.shape != wanted[name].shape:
            raise ArtifactError(
                f"{path} is damaged: its {name} are {extent.dtype} {extent.shape}, not {kind} "
                f"{wanted[name].shape}; write it again"
            )
        if index.complete and (name in FILLED) != (extent.sha256 is not None):
            raise ArtifactError(f"{path} is damaged: its {name} have no digest; write it again")


def _check_content(tokens: TokenFile, index: TokenIndex, name: str, extent: Extent) -> None:
    """Check the digest of a dataset, and in the same pass that all tokens are in the codebook."""
    path, size = tokens.path, tokens.meta.codebook_size
    digest, highest, lowest = hashlib.sha256(), 0, 1
    for piece in pieces(path, extent.offset, extent.offset + extent.nbytes):
        digest.update(piece)
        if name in ("codes", "trace_codes"):
            highest = max(highest, int(np.frombuffer(piece, extent.dtype).max()))
        elif name == "done":
            lowest = min(lowest, int(np.frombuffer(piece, np.uint8).min()))
    if digest.hexdigest() != extent.sha256:
        rows = damaged_rows(path, index)
        where = f"rows {ranges(rows)} of {len(tokens):,} differ from their checksums" if len(rows) else ""
        raise ArtifactError(f"{path} is damaged: {where or f'its {name} differ'}; write it again")
    if highest >= size:
        raise ArtifactError(
            f"{path} is damaged: token {highest} is outside its codebook of {size}; write it again"
        )
    if not lowest:
        raise ArtifactError(f"{path} is damaged: it is marked complete but has rows without tokens")


# --- checksums of rows ------------------------------------------------------------------------------


def row_checksums(datasets: Sequence[np.ndarray]) -> np.ndarray:
    """CRC-32 of each row: of its bytes in all datasets (N, ...), one after the other. uint32 (N,)."""
    found = np.zeros(len(datasets[0]), "<u4")
    for i, row in enumerate(zip(*datasets, strict=True)):
        crc = 0
        for values in row:
            crc = zlib.crc32(values.tobytes(), crc)
        found[i] = crc
    return found


def damaged_rows(path: Path, index: TokenIndex) -> np.ndarray:
    """Numbers of the rows that are marked as done and differ from their checksums."""
    done = index.datasets["done"].read(path)
    kept = index.datasets["row_crc32"].read(path)
    data = [extent.map(path) for extent in index.those(ROW_DATA).values()]
    rows = np.flatnonzero(done)
    wrong = [
        part[row_checksums([values[part] for values in data]) != kept[part]]
        for part in chunks(rows, sum(values[0].nbytes for values in data))
    ]
    return np.concatenate(wrong) if wrong else rows


def ranges(rows: np.ndarray) -> str:
    """Ascending row numbers as text: ``3, 7-9``; at most four ranges."""
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) > 1)
    parts = [
        f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in np.split(rows, starts)[1:]
    ]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more ranges" if len(parts) > 4 else "")


def chunks(rows: np.ndarray, row_bytes: int) -> Iterator[np.ndarray]:
    """Row numbers in parts of at most :data:`CHUNK_BYTES`."""
    step = max(1, CHUNK_BYTES // row_bytes)
    return (rows[i : i + step] for i in range(0, len(rows), step))
