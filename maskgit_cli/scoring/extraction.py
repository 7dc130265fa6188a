"""Feature extraction from sets of images, in one process or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.data.images import fit_square
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.formats.atomic import sha256_bytes
from maskgit_cli.formats.feature_statistics import Moments, merge_moments, moments_of
from maskgit_cli.formats.samples import pixels_digest
from maskgit_cli.runtime.distributed import gather_objects, world
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.features import FeatureExtractor, Features

# Feature vectors per block of the sums. The blocks, and with them the last bits, do not depend on the
# batch size.
BLOCK_ROWS = 2048


class ImageFeatures(NamedTuple):
    """Features of N images.

    Attributes:
        moments: sums of the features.
        features: float32 (N, D), in order; None if they were not kept.
        logits: float32 (N, C), in order; None if they were not kept or the extractor has none.
        sha256: of the pixels of all images in order, whatever container they are stored in.
        sizes: number of images of each (height, width).
        digests: sha256 of the pixels of each image, in order.
    """

    moments: Moments
    features: np.ndarray | None
    logits: np.ndarray | None
    sha256: str
    sizes: Counter[tuple[int, int]]
    digests: list[bytes]


def extract(
    images: ImageSource,
    extractor: FeatureExtractor,
    protocol: str = "standard",
    keep: Collection[str] = (),
    batch_size: int = 32,
    reporter: Reporter = SILENT,
) -> ImageFeatures:
    """Features of all images, computed by all ranks; every rank returns the whole result.

    Args:
        images: the images.
        extractor: the network.
        protocol: preparation of the images.
        keep: ``features`` and ``logits``, where the vectors of every image are needed.
        batch_size: images per forward pass.
        reporter: receives progress.

    Raises:
        InputError: an image cannot be read, or features are not finite.
    """
    rank, size = world()
    n = len(images)
    collected = _RankFeatures(extractor.dimension, keep)
    done = 0
    with reporter.task(f"features of {images.origin.path.name}", n) as task:
        for batch in images.batches(range(rank, n, size), batch_size):
            collected.add(batch, _features(extractor, [_prepare(x, extractor.side, protocol) for x in batch]))
            # The ranks are about equally fast, so this rank's progress counts for all.
            step = min(n - done, len(batch) * size)
            done += step
            task.advance(step)
    collected.add_block(collected.pending)
    ranks: list[_RankFeatures] = gather_objects(collected)
    digests = _interleaved([other.digests for other in ranks], n)
    return ImageFeatures(
        reduce(merge_moments, [other.moments for other in ranks]),
        _rows([other.features for other in ranks], n),
        _rows([other.logits for other in ranks], n),
        sha256_bytes(b"".join(digests)),
        sum((other.sizes for other in ranks), Counter()),
        digests,
    )


# --- images -----------------------------------------------------------------------------------------


def stretch(image: Tensor) -> Tensor:
    """Uint8 (3, H, W) scaled from its own minimum and maximum to 0..255, fractions truncated.

    The paper's own evaluator does this to every image, real or sampled; it starts from the network's
    floats, this from the pixels that a PNG would hold. An image of one value becomes 0.
    """
    low, high = image.min(), image.max()
    if low == high:
        return torch.zeros_like(image)
    stretched = (image.float() - low) / (high.float() - low) * 255
    return stretched.clamp(0, 255).to(torch.uint8)


def _prepare(image: Tensor, side: int | None, protocol: str) -> Tensor:
    """The image as the extractor takes it: a square of ``side`` pixels, or of its own size."""
    if protocol == "legacy-v1":
        image = stretch(image)
    if side is not None and image.shape[1:] != (side, side):
        image = fit_square(image, side)
    return image


def _pixel_digest(image: Tensor) -> bytes:
    return pixels_digest(image.numpy())


def pixels_sha256(images: ImageSource, batch_size: int) -> str:
    """The sha256 of :func:`extract`, without features."""
    batches = images.batches(range(len(images)), batch_size)
    return sha256_bytes(b"".join(_pixel_digest(image) for batch in batches for image in batch))


def _features(extractor: FeatureExtractor, images: list[Tensor]) -> Features:
    """Features of images of any sizes, one batch per size."""
    features = np.empty((len(images), extractor.dimension), np.float32)
    logits: list[np.ndarray] = [np.empty(0)] * len(images)
    for shape in sorted({tuple(image.shape) for image in images}):
        which = [i for i, image in enumerate(images) if image.shape == shape]
        result = extractor(torch.stack([images[i] for i in which]))
        features[which] = result.features
        if result.logits is not None:
            for i, row in zip(which, result.logits, strict=True):
                logits[i] = row
    return Features(features, np.stack(logits) if logits[0].size else None)


# --- ranks ------------------------------------------------------------------------------------------


class _RankFeatures:
    """Features of this rank's images.

    Args:
        dimension: D, features per image.
        keep: as of :func:`extract`.
    """

    def __init__(self, dimension: int, keep: Collection[str]) -> None:
        self.keep = keep
        self.moments = moments_of(np.empty((0, dimension), np.float32))
        self.pending = np.empty((0, dimension), np.float32)  # not in the moments yet
        self.features: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []
        self.digests: list[bytes] = []
        self.sizes: Counter[tuple[int, int]] = Counter()

    def add(self, images: list[Tensor], result: Features) -> None:
        """Add a batch of images as they were read, and their features."""
        self.digests += map(_pixel_digest, images)
        self.sizes.update((image.shape[1], image.shape[2]) for image in images)
        if "features" in self.keep:
            self.features.append(result.features)
        if "logits" in self.keep and result.logits is not None:
            self.logits.append(result.logits)
        self.pending = np.concatenate([self.pending, result.features])
        while len(self.pending) >= BLOCK_ROWS:
            self.add_block(self.pending[:BLOCK_ROWS])
            self.pending = self.pending[BLOCK_ROWS:]

    def add_block(self, features: np.ndarray) -> None:
        """Add features to the moments."""
        self.moments = merge_moments(self.moments, moments_of(features))


def _interleaved(ranks: list[list[Any]], n: int) -> list[Any]:
    """Items in their order: rank r of R has items r, r + R, r + 2R ..."""
    whole: list[Any] = [None] * n
    for rank, items in enumerate(ranks):
        whole[rank :: len(ranks)] = items
    return whole


def _rows(ranks: list[list[np.ndarray]], n: int) -> np.ndarray | None:
    """One array (n, ...) from each rank's list of batches; None if nothing was kept."""
    if not ranks[0]:
        return None
    width = ranks[0][0].shape[1]
    whole = np.empty((n, width), np.float32)
    for rank, batches in enumerate(ranks):
        if batches:
            whole[rank :: len(ranks)] = np.concatenate(batches)
    return whole
