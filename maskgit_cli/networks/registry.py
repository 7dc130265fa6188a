"""The networks of this package by the names that records give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_cli.config.networks import (
    GoogleConfig,
    GoogleVQGANConfig,
    HaltonConfig,
    TransformerConfig,
    VQGANConfig,
)
from maskgit_cli.errors import ArtifactError
from maskgit_cli.networks.google import Google
from maskgit_cli.networks.google_vqgan import GoogleVQGAN
from maskgit_cli.networks.halton import Halton
from maskgit_cli.networks.llamagen import LlamaGen
from maskgit_cli.networks.maskgit import MaskGIT
from maskgit_cli.networks.vqgan import VQGAN

TransformerNetwork = MaskGIT | Halton | Google
TransformerSizes = TransformerConfig | HaltonConfig  # Google's are of the paper's class
TokenizerNetwork = VQGAN | GoogleVQGAN  # LlamaGen's is a VQGAN
TokenizerSizes = VQGANConfig | GoogleVQGANConfig


class Network(NamedTuple):
    """How a record's ``network`` becomes one.

    Attributes:
        key: of the record, under which the sizes stand.
        sizes: their class.
        build: makes the network of such sizes.
    """

    key: str
    sizes: type[Any]
    build: Callable[[Any], Any]


TRANSFORMERS = {
    "maskgit": Network("transformer", TransformerConfig, MaskGIT),
    "halton": Network("halton", HaltonConfig, Halton),
    "google": Network("google", GoogleConfig, Google),
}


TOKENIZERS = {
    "vqgan": Network("vqgan", VQGANConfig, VQGAN),
    "llamagen": Network("llamagen", VQGANConfig, LlamaGen),
    "google_vqgan": Network("google_vqgan", GoogleVQGANConfig, GoogleVQGAN),
}


def network_of(record: Mapping[str, Any], known: Mapping[str, Network], default: str, path: Path) -> Network:
    """The network that an artifact's record names; one that names none is of the ``default``.

    Raises:
        ArtifactError: this package has no such network.
    """
    name = record.get("network", default)
    if name not in known:
        raise ArtifactError(
            f"{path / 'config.json'} names network {name!r}; this package has {', '.join(known)}"
        )
    return known[name]
