"""Feature extractors: one file per extractor, found by its entry in :mod:`maskgit_cli.config.features`."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.features import EXTRACTORS
from maskgit_cli.runtime.progress import SILENT, Reporter

# Images per call on a GPU. Small, because each image size fills up calls of its own.
GPU_ROWS = 16


class Features(NamedTuple):
    """Output of a feature extractor for B images.

    Attributes:
        features: float32 (B, D).
        logits: float32 (B, C) of a classifier; None if the extractor has none.
        spatial: float32 (B, S), features that keep places, for sFID; None if the extractor has none.
    """

    features: np.ndarray
    logits: np.ndarray | None = None
    spatial: np.ndarray | None = None


class FeatureExtractor(Protocol):
    """A network that turns images into feature vectors.

    Attributes:
        sha256: of its weights.
        dimension: D, features per image.
        side: side in pixels of the squares that it takes; None if it takes images of any size.
    """

    sha256: str
    dimension: int
    side: int | None

    def __call__(self, images: Tensor, /) -> Features:
        """Features of uint8 images (B, 3, H, W) on the CPU; they are batch-invariant."""


class Resources(NamedTuple):
    """Files and device of feature extractors.

    Attributes:
        weights: of the extractor: a file, or a directory where its loader takes one; None is the published.
        tokenizer: tokenizer, run or model directory; None finds one.
        tokenizer_sha256: digest of the tokenizer to find; None is the built-in one's.
        device: where networks run.
        reporter: receives progress and messages.
    """

    weights: Path | None = None
    tokenizer: Path | None = None
    tokenizer_sha256: str | None = None
    device: torch.device = torch.device("cpu")
    reporter: Reporter = SILENT


# Loads a feature extractor; raises WeightsError or InputError where its weights are not available.
Loader = Callable[[Resources], FeatureExtractor]


def load_extractor(name: str, resources: Resources) -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: key of :data:`~maskgit_cli.config.features.EXTRACTORS`.
        resources: files and device.

    Raises:
        WeightsError: the extractor's weights, or the package that they need, are not available or not valid.
        InputError: the tokenizer does not exist.
        ArtifactError: the tokenizer is damaged.
    """
    entry = EXTRACTORS[name]
    loader: Loader = pkgutil.resolve_name(f"{__name__}.{entry.load}")
    extractor = loader(resources)
    assert entry.dimension in (None, extractor.dimension), (name, extractor.dimension)
    return extractor
