"""Measures of reconstructions against their originals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.features import EXTRACTORS, FeatureSpace
from maskgit_cli.config.metrics import METRICS, score_name
from maskgit_cli.data.images import fit_square
from maskgit_cli.formats.feature_statistics import Moments, merge_moments, moments_of
from maskgit_cli.networks.pixels import SSIM_WINDOW, psnr, ssim, to_model
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.features import FeatureExtractor, Resources, load_extractor
from maskgit_cli.scoring.metrics.frechet import frechet_distance
from maskgit_cli.scoring.perceptual import Perceptual


class ReconstructionFeatures(NamedTuple):
    """Features whose Fréchet distance between originals and reconstructions is measured.

    Attributes:
        key: name of the distance: ``rfid`` of the published FID's features, else ``frechet_NAME``.
        extractor: the network.
    """

    key: str
    extractor: FeatureExtractor


def load_features(name: str, device: torch.device, reporter: Reporter = SILENT) -> ReconstructionFeatures:
    """Load a feature extractor, a key of :data:`~maskgit_cli.config.features.EXTRACTORS`.

    ``vqgan`` is the encoder of the built-in tokenizer, so that tokenizers are comparable.

    Raises:
        WeightsError: its weights are not available or not valid.
    """
    extractor = load_extractor(name, Resources(device=device, reporter=reporter))
    space = FeatureSpace(EXTRACTORS[name].space, extractor.sha256, extractor.dimension)
    key = "rfid" if space.published else score_name(METRICS["fid"].scores[0], space)
    return ReconstructionFeatures(key, extractor)


class ReconstructionSums(NamedTuple):
    """What a meter has added, to be joined with that of other processes.

    Attributes:
        values: one value per image, float64 (N,), by name of the measure.
        moments: moments of the features of originals and of reconstructions; [] without.
    """

    values: dict[str, Tensor]
    moments: list[Moments]


class ReconstructionMeter:
    """Means of measures of pairs of images, added batch by batch.

    Args:
        device: where the perceptual distance is computed.
        perceptual: a perceptual distance, or None.
        features: features for a Fréchet distance, or None.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        perceptual: Perceptual | None = None,
        features: ReconstructionFeatures | None = None,
    ) -> None:
        self.device, self.perceptual, self.features = torch.device(device), perceptual, features
        self.count = 0
        self.values: dict[str, list[Tensor]] = {}
        self.moments: list[Moments] = []  # of the originals, and of the reconstructions

    @torch.no_grad()
    def add(self, images: Tensor, reconstructions: Tensor) -> None:
        """Measure uint8 images (B, 3, H, W) and their reconstructions."""
        images, reconstructions = images.cpu(), reconstructions.cpu()
        self.count += len(images)
        self._append("psnr", psnr(reconstructions, images))
        if min(images.shape[2:]) >= SSIM_WINDOW:
            self._append("ssim", ssim(reconstructions, images))
        if self.perceptual is not None:
            pair = (to_model(x.to(self.device)) for x in (images, reconstructions))
            self._append(self.perceptual.key, self.perceptual.distance(*pair).cpu().double())
        if self.features is not None:
            new = [moments_of(_vectors(self.features.extractor, x)) for x in (images, reconstructions)]
            old = self.moments
            self.moments = [merge_moments(a, b) for a, b in zip(old, new, strict=True)] if old else new

    def sums(self) -> ReconstructionSums:
        """What was added, for the ``result`` of another process."""
        return ReconstructionSums(
            {name: torch.cat(values) for name, values in self.values.items()}, self.moments
        )

    def result(self, parts: Sequence[ReconstructionSums] | None = None) -> dict[str, float]:
        """The measures by name of what was added, or of ``parts`` instead; {} of no images.

        ``psnr`` in dB; ``ssim``, of images of 11 px and more; ``lpips`` or ``st_lpips``; ``rfid``, or with
        other features than those of the published FID ``frechet_NAME``, of two images and more.
        """
        parts = [self.sums()] if parts is None else [part for part in parts if part.values]
        names = parts[0].values if parts else ()
        found = {name: float(torch.cat([part.values[name] for part in parts]).mean()) for name in names}
        sides = [reduce(merge_moments, side) for side in zip(*(part.moments for part in parts), strict=True)]
        if self.features is not None and sides and sides[0].n > 1:
            a, b = ((moments.mean, moments.covariance()) for moments in sides)
            found[self.features.key] = max(frechet_distance(*a, *b), 0.0)  # rounding may leave -1e-12
        return found

    def _append(self, name: str, values: Tensor) -> None:
        self.values.setdefault(name, []).append(values)


def _vectors(extractor: FeatureExtractor, images: Tensor) -> np.ndarray:
    """Features (B, D) of uint8 images (B, 3, H, W), fitted to the extractor's own size."""
    side = extractor.side
    if side is not None and images.shape[2:] != (side, side):
        images = torch.stack([fit_square(image, side) for image in images])
    return extractor(images).features
