"""Sets of images into features, shared among the processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.data.images import fit_square
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.formats.atomic import sha256_bytes
from maskgit_cli.formats.feature_statistics import Sums, add_sums, sums_of
from maskgit_cli.runtime.distributed import gather_objects, world
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.features import Features, FeatureSpace

# Images whose features are added to the sums together: large products are quicker than many small ones.
ROWS_A_SUM = 2048


class Extracted(NamedTuple):
    """What scoring needs to know of N images.

    Attributes:
        sums: exact sums of their features.
        features: float32 (N, D), in order; None if not asked for.
        logits: float32 (N, C), in order; None if not asked for or the space has none.
        sha256: of the pixels of all images in order, whatever container they came in.
        sizes: how many images there are of each (height, width).
    """

    sums: Sums
    features: np.ndarray | None
    logits: np.ndarray | None
    sha256: str
    sizes: Counter[tuple[int, int]]


def stretch(image: Tensor) -> Tensor:
    """Spread uint8 (3, H, W) over 0..255 by its own minimum and maximum, and cut off fractions.

    What the paper's own evaluator does to every image, real or sampled; it starts from the network's
    floats, we from the pixels a PNG would hold. An image of one value becomes 0.
    """
    low, high = image.min(), image.max()
    if low == high:
        return torch.zeros_like(image)
    stretched = (image.float() - low) / (high.float() - low) * 255
    return stretched.clamp(0, 255).to(torch.uint8)


def _prepare(image: Tensor, side: int | None, protocol: str) -> Tensor:
    """What is shown to the feature network: squares for those that need them, else the image as it is."""
    if protocol == "legacy-v1":
        image = stretch(image)
    if side is not None and image.shape[1:] != (side, side):
        image = fit_square(image, side)
    return image


def _pixel_digest(image: Tensor) -> bytes:
    _, height, width = image.shape
    pixels = image.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{height}x{width}:".encode() + pixels).digest()


def _features(space: FeatureSpace, images: list[Tensor]) -> Features:
    """Features of images of any sizes: each size goes through the network as a batch of its own."""
    features = np.empty((len(images), space.dimension), np.float32)
    logits: list[np.ndarray] = [np.empty(0)] * len(images)
    for shape in sorted({tuple(image.shape) for image in images}):
        which = [i for i, image in enumerate(images) if image.shape == shape]
        result = space(torch.stack([images[i] for i in which]))
        features[which] = result.features
        if result.logits is not None:
            for i, row in zip(which, result.logits, strict=True):
                logits[i] = row
    return Features(features, np.stack(logits) if logits[0].size else None)


class _Share:
    """Features of this process's images as they come, and the sums of those so far."""

    def __init__(self, dimension: int, keep_features: bool, keep_logits: bool) -> None:
        self.sums = sums_of(np.empty((0, dimension), np.float32))
        self.keep_features, self.keep_logits = keep_features, keep_logits
        self.features: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []
        self.digests: list[bytes] = []
        self.sizes: Counter[tuple[int, int]] = Counter()
        self._waiting: list[np.ndarray] = []

    def add(self, images: list[Tensor], result: Features) -> None:
        """Take in images as they were read, and their features."""
        self.digests += map(_pixel_digest, images)
        self.sizes.update((image.shape[1], image.shape[2]) for image in images)
        self._waiting.append(result.features)
        if self.keep_features:
            self.features.append(result.features)
        if self.keep_logits and result.logits is not None:
            self.logits.append(result.logits)
        if sum(map(len, self._waiting)) >= ROWS_A_SUM:
            self.flush()

    def flush(self) -> None:
        """Add the features that wait to the sums."""
        if self._waiting:
            self.sums = add_sums(self.sums, sums_of(np.concatenate(self._waiting)))
            self._waiting = []


def extract(
    images: ImageSource,
    space: FeatureSpace,
    protocol: str = "standard",
    keep_features: bool = False,
    keep_logits: bool = False,
    batch_size: int = 32,
    reporter: Reporter = SILENT,
) -> Extracted:
    """Features of all images, shared among the processes; every process gets the whole result.

    Raises:
        InputError: an image can't be read, or features aren't finite.
    """
    here = world()
    mine = range(here.rank, len(images), here.size)
    share = _Share(space.dimension, keep_features, keep_logits)
    remaining = len(images)
    with reporter.task(f"features of {images.origin.path.name}", len(images)) as task:
        for batch in images.batches(mine, batch_size):
            share.add(batch, _features(space, [_prepare(image, space.side, protocol) for image in batch]))
            # The others are about as fast, so what this process does stands for all of them.
            step = min(remaining, len(batch) * here.size)
            remaining -= step
            task.advance(step)
    share.flush()
    shares: list[_Share] = gather_objects(share)
    sums, sizes = shares[0].sums, shares[0].sizes
    for other in shares[1:]:
        sums, sizes = add_sums(sums, other.sums), sizes + other.sizes
    digests = _interleaved([other.digests for other in shares], len(images))
    return Extracted(
        sums,
        _rows([other.features for other in shares], len(images)),
        _rows([other.logits for other in shares], len(images)),
        sha256_bytes(b"".join(digests)),
        sizes,
    )


def _interleaved(shares: list[list[Any]], n: int) -> list[Any]:
    """Undo the sharing: process r of R had items r, r + R, r + 2R ..."""
    whole: list[Any] = [None] * n
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


def _rows(shares: list[list[np.ndarray]], n: int) -> np.ndarray | None:
    """One array (n, ...) from each process's list of batches; None if nothing was kept."""
    if not shares[0]:
        return None
    width = shares[0][0].shape[1]
    whole = np.empty((n, width), np.float32)
    for rank, batches in enumerate(shares):
        if batches:
            whole[rank :: len(shares)] = np.concatenate(batches)
    return whole
