"""Initial weights of a tokenizer's training: random ones, or those of a tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.networks import TOKENIZER_SIZES, TOKENIZERS, NetworkEntry, VQGANConfig
from maskgit_cli.config.training import VQGANTrainConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.models import read_tokenizer_record, tokenizer_directory
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.registry import build, network_of
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.training.init_from import check_elsewhere


class InitialTokenizer(NamedTuple):
    """The network of a tokenizer's training with its initial weights.

    Attributes:
        entry: entry of the network in the registry.
        config: its sizes.
        tensors: its weights by name; None initializes them from the seed.
        sha256: digest of the tokenizer that they come from.
        parents: the record of that tokenizer, and that tokenizer's own parents.
    """

    entry: NetworkEntry
    config: VQGANConfig
    tensors: dict[str, Tensor] | None = None
    sha256: str | None = None
    parents: tuple[dict[str, str], ...] = ()

    def build(self) -> VQGAN:
        """A network with these weights."""
        network: VQGAN = build(self.entry, self.config)
        if self.tensors is not None:
            network.load_state_dict(self.tensors)
        return network


def initial_tokenizer(config: VQGANTrainConfig, path: Path | None, out: Path) -> InitialTokenizer:
    """The weights of a tokenizer, or random ones of the size of a config.

    Args:
        config: ``size``, ``res``, ``codebook_size`` and ``attention`` are read.
        path: tokenizer, run or model directory, ``builtin``, or the name of a model; None is from scratch.
        out: directory that the training will write.

    Raises:
        InputError: there is no such tokenizer.
        ArtifactError: it is incomplete or damaged.
        ConfigError: it cannot be trained here, a setting contradicts its sizes, or it lies in ``out``.
    """
    return _from_scratch(config) if path is None else _from_tokenizer(path, config, out)


def size_name(config: VQGANConfig) -> str | None:
    """Name of the size that a tokenizer has, apart from what options change; None without one.

    These are its resolution, its codebook's size and where it has attention.
    """
    for name, size in TOKENIZER_SIZES.items():
        if _resized(size, config.resolution, config.codebook_size).with_attention(config.attention) == config:
            return name
    return None


def other_attention(config: VQGANConfig) -> str | None:
    """Where a tokenizer has attention, if its named size has it elsewhere, else None."""
    name = size_name(config)
    if name is None:
        return None
    own = _resized(TOKENIZER_SIZES[name], config.resolution, config.codebook_size)
    return None if own.attention == config.attention else config.attention


def _resized(size: VQGANConfig, resolution: int | None, codebook_size: int | None) -> VQGANConfig:
    """A size with another resolution and codebook; None keeps its own."""
    return dataclasses.replace(
        size,
        resolution=resolution or size.resolution,
        codebook_size=codebook_size or size.codebook_size,
    )


def _from_scratch(config: VQGANTrainConfig) -> InitialTokenizer:
    name = config.size or "small"
    sizes = TOKENIZER_SIZES[name]
    if config.res is not None:
        rule = f"a multiple of {sizes.factor}, the pixels per token on a side at size {name}"
        require(config.res % sizes.factor == 0, "res", config.res, rule)
    sizes = _resized(sizes, config.res, config.codebook_size).with_attention(config.attention)
    return InitialTokenizer(TOKENIZERS["vqgan"], sizes)


def _from_tokenizer(path: Path, config: VQGANTrainConfig, out: Path) -> InitialTokenizer:
    directory = tokenizer_directory(path)
    check_elsewhere(path, directory, out)
    record = read_tokenizer_record(directory)
    entry = network_of(record, TOKENIZERS, "vqgan", directory)
    if entry.config is not VQGANConfig:
        known = ", ".join(name for name, other in TOKENIZERS.items() if other.config is VQGANConfig)
        raise ConfigError(f"--init-from {path}: its network {entry.name} cannot be trained, only {known}")
    tokenizer = load_tokenizer(directory)
    sizes = tokenizer.config
    assert isinstance(sizes, VQGANConfig)
    own = {
        "size": size_name(sizes) if entry.name == "vqgan" else None,
        "res": sizes.resolution,
        "codebook_size": sizes.codebook_size,
        "attention": sizes.attention,
    }
    for name, value in own.items():
        asked = getattr(config, name)
        shown = value or ("a size without a name" if name == "size" else "an unnamed one")
        rule = f"that of the tokenizer at {path}, {shown}; leave it out"
        require(asked in (None, value), name, asked, rule)
    return InitialTokenizer(
        entry,
        sizes,
        tokenizer.network.state_dict(),
        tokenizer.sha256,
        (parent("tokenizer", directory.resolve(), tokenizer.sha256), *record.get("parents", [])),
    )
