"""Registry of the feature extractors of ``fid``. An entry names the function that loads the extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from maskgit_cli.errors import ConfigError

# Image preparation before feature extraction; legacy-v1 is the paper's own evaluator.
PROTOCOLS = ("standard", "legacy-v1")
# Perceptual distances of images; auto is the first of lpips and st-lpips whose weights are available.
PERCEPTUAL = ("auto", "lpips", "st-lpips", "none")
# TensorFlow's Inception of 2015-12-05, whose features define the published FID, converted for torch-fidelity.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


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
        logits: whether it also gives a classifier's logits.
        fid_sha256: sha256 of the weights whose Fréchet distance may be called FID; None if there are none.
        tokenizer: whether its weights are a tokenizer's.
        protocols: those of :data:`PROTOCOLS` that it supports.
    """

    name: str
    help: str
    space: str
    load: str
    dimension: int | None = None
    logits: bool = False
    fid_sha256: str | None = None
    tokenizer: bool = False
    protocols: tuple[str, ...] = ("standard",)


EXTRACTORS: dict[str, ExtractorEntry] = {
    entry.name: entry
    for entry in (
        ExtractorEntry(
            name="inception",
            help="Inception-v3, for FID",
            space="inception-v3-compat",
            load="inception:load",
            dimension=2048,
            logits=True,
            fid_sha256=INCEPTION_SHA256,
            protocols=PROTOCOLS,
        ),
        ExtractorEntry(
            name="vqgan",
            help="the tokenizer's encoder; no download, not FID",
            space="vqgan",
            load="tokenizer:load",
            tokenizer=True,
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
    """

    name: str
    sha256: str
    dimension: int
    protocol: str = "standard"

    @property
    def entry(self) -> ExtractorEntry:
        """The entry of the extractor; see :func:`extractor_of`."""
        return extractor_of(self.name)

    @property
    def published(self) -> bool:
        """Whether weights and dimension are those of the published FID, whatever the protocol."""
        entry = self.entry
        return (self.sha256, self.dimension) == (entry.fid_sha256, entry.dimension)
