"""Feature extraction from sets of images, in one process or several, that survives a kill.

Images are processed in chunks, whose number and limits depend on the number of images alone. The chunks are
shared among the ranks. With a folder to keep them in, each finished chunk is a file, and the next call with
the same images computes only the others: it reads the images of a stored chunk and compares their pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.features import FeatureSpace
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.errors import InputError, MaskGITError
from maskgit_cli.formats.atomic import replacing_file, sha256_bytes
from maskgit_cli.formats.feature_statistics import Moments, merge_moments, moments_of
from maskgit_cli.formats.npz import NPZ_ERRORS, npz_names, read_array
from maskgit_cli.formats.samples import pixels_digest
from maskgit_cli.runtime.distributed import gather_objects, world
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.features import FeatureExtractor, Features
from maskgit_cli.scoring.preparation import prepare

# A kill loses at most this part of the work of each rank: 1/64 of the images, rounded up to whole units.
CHUNKS, UNIT = 64, 64
# Fewer images are computed again rather than kept.
STORED_FROM = 512


class ImageFeatures(NamedTuple):
    """Features of N images.

    Attributes:
        moments: sums of the features.
        spatial: sums of the spatial features; None if they were not kept or the extractor has none.
        features: float32 (N, D), in order; None if they were not kept.
        logits: float32 (N, C), in order; None if they were not kept or the extractor has none.
        sha256: of the pixels of all images in order, whatever container they are stored in.
        sizes: number of images of each (height, width).
        digests: sha256 of the pixels of each image, in order.
    """

    moments: Moments
    spatial: Moments | None
    features: np.ndarray | None
    logits: np.ndarray | None
    sha256: str
    sizes: Counter[tuple[int, int]]
    digests: list[bytes]


class Chunk(NamedTuple):
    """Features of the images start to stop - 1.

    Attributes:
        start: number of its first image.
        digests: sha256 of the pixels of each image, uint8 (n, 32).
        sizes: height and width of each image, int32 (n, 2).
        moments: sums of the features.
        features: float32 (n, D).
        logits: float32 (n, C) or None.
        spatial: sums of the spatial features, or None.
    """

    start: int
    digests: np.ndarray
    sizes: np.ndarray
    moments: Moments
    features: np.ndarray | None
    logits: np.ndarray | None
    spatial: Moments | None


def extract(
    images: ImageSource,
    extractor: FeatureExtractor,
    space: FeatureSpace,
    keep: Collection[str] = (),
    batch_size: int = 32,
    reporter: Reporter = SILENT,
    *,
    exact: bool = False,
    store: Path | None = None,
) -> ImageFeatures:
    """Features of all images, computed by all ranks; every rank returns the whole result.

    Args:
        images: the images.
        extractor: the network.
        space: of its features, with protocol and resolution.
        keep: ``features``, ``logits`` and ``spatial``, where these are needed.
        batch_size: images per forward pass.
        reporter: receives progress.
        exact: refuse images that do not have the space's resolution, instead of resizing and cropping them.
        store: folder of finished chunks, which all ranks can reach; None keeps them in memory only, as chunks
            of fewer than :data:`STORED_FROM` images are.

    Raises:
        InputError: an image cannot be read or has another size, or features are not finite.
        OutputError: the file system refuses.
    """
    rank, size = world()
    n = len(images)
    starts = range(0, n, chunk_rows(n))
    kept = store if n >= STORED_FROM else None
    work = _Work(images, extractor, space, frozenset(keep), batch_size, exact, kept)
    rows = [range(start, min(start + starts.step, n)) for start in starts[rank::size]]
    collected = _RankFeatures(work.keep)
    done = 0
    with reporter.task(f"features of {images.origin.path.name}", n) as task:
        for item in work.chunks(rows):
            if isinstance(item, Chunk):
                collected.add(item)
                continue
            # The ranks are about equally fast, so this rank's progress counts for all.
            step = min(n - done, item * size)
            done += step
            task.advance(step)
    return _whole(gather_objects(collected))


def chunk_rows(n: int) -> int:
    """Images per chunk, of n images."""
    return UNIT * max(1, math.ceil(n / (CHUNKS * UNIT)))


def pixels_sha256(images: ImageSource, batch_size: int) -> str:
    """The sha256 of :func:`extract`, without features."""
    batches = images.batches(range(len(images)), batch_size)
    return sha256_bytes(b"".join(_pixel_digest(image) for batch in batches for image in batch))


def _pixel_digest(image: Tensor) -> bytes:
    return pixels_digest(image.numpy())


# --- the work of a rank -----------------------------------------------------------------------------


class _Work(NamedTuple):
    """What the chunks are computed from; the attributes are arguments of :func:`extract`."""

    images: ImageSource
    extractor: FeatureExtractor
    space: FeatureSpace
    keep: frozenset[str]
    batch_size: int
    exact: bool
    store: Path | None

    def chunks(self, rows: Sequence[range]) -> Iterator[Chunk | int]:
        """The chunks of these images in order, and in between numbers of images done meanwhile."""
        stored = {}
        for part in rows:
            if self._is_stored(part):
                stored[part] = self._path(part.start)
                yield len(part)
        computed = self._computed([part for part in rows if part not in stored])
        for part in rows:
            if part in stored:
                chunk = _read_chunk(stored[part], self._meta(part.start, len(part)))
                assert chunk is not None  # it was read before
                yield chunk
                continue
            for item in computed:
                yield item
                if isinstance(item, Chunk):
                    break

    def _computed(self, rows: Sequence[range]) -> Iterator[Chunk | int]:
        """As :meth:`chunks`, of chunks that are not stored; they are when they are finished."""
        pending, ends = _Pending(), iter(rows)
        current = next(ends, None)
        for batch in self.images.batches([*chain.from_iterable(rows)], self.batch_size):
            pending.add(batch, self._features(batch))
            yield len(batch)
            while current is not None and len(pending) >= len(current):
                chunk = pending.take(current, self.keep)
                self._write(chunk)
                yield chunk
                current = next(ends, None)

    def _features(self, images: list[Tensor]) -> Features:
        """Features of images of any sizes, one batch per prepared size."""
        side, resolution = self.space.resolution, self.space.resolution
        if self.exact and side is not None:
            for image in images:
                if image.shape[1:] != (side, side):
                    raise InputError(
                        f"{self.images.origin.path} has images of several sizes, {side}×{side} and "
                        f"{image.shape[2]}×{image.shape[1]}; --res N resizes and crops all of them to N px"
                    )
        prepared = [prepare(x, self.extractor.side, self.space.protocol, resolution) for x in images]
        return _batched(self.extractor, prepared)

    # --- stored chunks

    def _path(self, start: int) -> Path:
        assert self.store is not None
        return self.store / f"{start:09d}.npz"

    def _meta(self, start: int, rows: int) -> dict[str, Any]:
        """What a stored chunk must agree in, besides the pixels."""
        return {"space": list(self.space), "keep": sorted(self.keep), "start": start, "rows": rows}

    def _is_stored(self, rows: range) -> bool:
        """Whether a finished chunk of an earlier call is there, and its images still have the same pixels."""
        if self.store is None or not self._path(rows.start).is_file():
            return False
        chunk = _read_chunk(self._path(rows.start), self._meta(rows.start, len(rows)))
        if chunk is None:
            return False
        now = [_pixel_digest(x) for batch in self.images.batches(rows, self.batch_size) for x in batch]
        return np.array_equal(chunk.digests, _rows_of(now))

    def _write(self, chunk: Chunk) -> None:
        """Keep a finished chunk. Rows are kept where they are needed or smaller than their sums."""
        if self.store is None:
            return
        n, dimension = len(chunk.digests), self.extractor.dimension
        arrays: dict[str, np.ndarray] = {"digests": chunk.digests, "sizes": chunk.sizes}
        if chunk.features is not None and ("features" in self.keep or n < 2 * dimension):
            arrays["features"] = chunk.features
        else:
            arrays |= {"mean": chunk.moments.mean, "scatter": chunk.moments.scatter}
        if chunk.logits is not None:
            arrays["logits"] = chunk.logits
        if chunk.spatial is not None:
            arrays |= {"spatial_mean": chunk.spatial.mean, "spatial_scatter": chunk.spatial.scatter}
        meta = np.array(json.dumps(self._meta(chunk.start, n)))
        with replacing_file(self._path(chunk.start)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays, meta=meta)  # type: ignore[arg-type]


def _read_chunk(path: Path, meta: dict[str, Any]) -> Chunk | None:
    """A stored chunk; None if it is of other settings, or damaged."""
    try:
        arrays = {name: read_array(path, name) for name in npz_names(path)}
        if json.loads(str(arrays.get("meta"))) != json.loads(json.dumps(meta)):
            return None
        n = meta["rows"]
        features = arrays.get("features")
        moments = Moments(n, arrays["mean"], arrays["scatter"]) if features is None else moments_of(features)
        spatial = None
        if "spatial_mean" in arrays:
            spatial = Moments(n, arrays["spatial_mean"], arrays["spatial_scatter"])
        chunk = Chunk(
            meta["start"],
            arrays["digests"],
            arrays["sizes"],
            moments,
            features,
            arrays.get("logits"),
            spatial,
        )
    except (*NPZ_ERRORS, MaskGITError, LookupError):
        return None
    return chunk


def remove_store(store: Path | None) -> None:
    """Remove the chunks of finished work, on rank 0."""
    if store is not None and world().main:
        with suppress(OSError):  # what is left is replaced by the next call
            shutil.rmtree(store)


class _Pending:
    """Images whose chunk is not complete, with their features."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.rows: dict[str, list[np.ndarray]] = {"features": [], "logits": [], "spatial": []}

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, images: list[Tensor], result: Features) -> None:
        """Add a batch of images as they were read, and their features."""
        self.digests += map(_pixel_digest, images)
        self.sizes += [(image.shape[1], image.shape[2]) for image in images]
        for name, rows in self.rows.items():
            found = getattr(result, name)
            if found is not None:
                rows.append(found)

    def take(self, rows: range, keep: Collection[str]) -> Chunk:
        """Remove the first images and make a chunk of them.

        Raises:
            InputError: features are not finite.
        """
        n = len(rows)
        taken: dict[str, np.ndarray | None] = {}
        for name, parts in self.rows.items():
            whole = np.concatenate(parts) if parts else None
            taken[name] = None if whole is None else whole[:n]
            self.rows[name] = [] if whole is None or len(whole) == n else [whole[n:]]
        digests, sizes = _rows_of(self.digests[:n]), np.array(self.sizes[:n], np.int32)
        del self.digests[:n], self.sizes[:n]
        features, spatial = taken["features"], taken["spatial"]
        assert features is not None
        sums = moments_of(spatial) if spatial is not None and "spatial" in keep else None
        logits = taken["logits"] if "logits" in keep else None
        return Chunk(rows.start, digests, sizes, moments_of(features), features, logits, sums)


def _rows_of(digests: Sequence[bytes]) -> np.ndarray:
    """Digests as uint8 (n, 32)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, hashlib.sha256().digest_size)


def _batched(extractor: FeatureExtractor, images: list[Tensor]) -> Features:
    """Features of prepared images, one batch per size, in the order of the images."""
    found: dict[str, np.ndarray] = {}
    for shape in sorted({tuple(image.shape) for image in images}):
        which = [i for i, image in enumerate(images) if image.shape == shape]
        result = extractor(torch.stack([images[i] for i in which]))
        for name, rows in result._asdict().items():
            if rows is not None:
                found.setdefault(name, np.empty((len(images), rows.shape[1]), np.float32))[which] = rows
    return Features(**found)


# --- ranks ------------------------------------------------------------------------------------------


class _RankFeatures:
    """Features of the chunks of one rank.

    Args:
        keep: as of :func:`extract`; the others are summed up and dropped.
    """

    def __init__(self, keep: Collection[str]) -> None:
        self.keep = keep
        self.moments: Moments | None = None
        self.spatial: Moments | None = None
        self.chunks: list[Chunk] = []  # without their sums

    def add(self, chunk: Chunk) -> None:
        """Add a finished chunk."""
        self.moments = _sum(self.moments, chunk.moments)
        self.spatial = _sum(self.spatial, chunk.spatial)
        features = chunk.features if "features" in self.keep else None
        nothing = Moments(0, np.empty(0), np.empty(0))
        self.chunks.append(chunk._replace(features=features, moments=nothing, spatial=None))


def _sum(a: Moments | None, b: Moments | None) -> Moments | None:
    return merge_moments(a, b) if a is not None and b is not None else a or b


def _whole(ranks: Sequence[_RankFeatures]) -> ImageFeatures:
    """The features of all images from those of all ranks."""
    chunks = sorted((chunk for rank in ranks for chunk in rank.chunks), key=lambda chunk: chunk.start)
    moments = reduce(_sum, [rank.moments for rank in ranks])
    assert moments is not None
    digests = np.concatenate([chunk.digests for chunk in chunks])
    sizes = np.concatenate([chunk.sizes for chunk in chunks])
    return ImageFeatures(
        moments,
        reduce(_sum, [rank.spatial for rank in ranks]),
        _concatenated([chunk.features for chunk in chunks]),
        _concatenated([chunk.logits for chunk in chunks]),
        sha256_bytes(digests.tobytes()),
        Counter((int(height), int(width)) for height, width in sizes),
        [bytes(digest) for digest in digests],
    )


def _concatenated(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One array (N, ...) of the chunks' rows; None if there are none."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
