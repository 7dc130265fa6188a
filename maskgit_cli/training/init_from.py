"""Initial weights of a training: random ones, or those of a model, also at another resolution.

Positional embeddings, and in the paper's network a bias per position and token, are tables with one row
per position of the grid. At another resolution the grid has another number of cells, and the rows are
interpolated between the cells' centers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.networks import TRANSFORMERS, TransformerEntry
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.data.imagenet import same_classes
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.models import find_named, weights_of
from maskgit_cli.formats.token_set import Tokens
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.loading import Model, load_model
from maskgit_cli.networks.registry import build


class InitialWeights(NamedTuple):
    """The network of a training with its initial weights.

    Attributes:
        entry: entry of the network in the registry.
        config: its sizes.
        tensors: its weights by name; None initializes them from the seed.
        init: law of the random ones, one of the entry's ``inits``; None for those of a model.
        class_names: class names of the model they come from.
        sha256: digest of that model's weights.
        parents: the record of that model, and that model's own parents.
        directory: the directory of that model.
    """

    entry: TransformerEntry
    config: Any
    tensors: dict[str, Tensor] | None = None
    class_names: tuple[str, ...] = ()
    sha256: str | None = None
    parents: tuple[dict[str, str], ...] = ()
    directory: Path | None = None
    init: str | None = None

    def build(self) -> MaskedTransformer:
        """A network with these weights."""
        network: MaskedTransformer = build(self.entry, self.config)
        if self.init == "published":
            network.initialize_as_published()
        if self.tensors is not None:
            network.load_state_dict(self.tensors)
        return network

    def tokenizer_paths(self, tokens: Path) -> list[Path]:
        """Where the tokenizer of a token file may be: next to the file, or in the model."""
        return [path / "tokenizer" for path in (tokens.parent, self.directory) if path]


def from_scratch(tokens: Tokens, config: TrainConfig) -> InitialWeights:
    """Random weights of the network and size of a config, for a token file.

    Raises:
        ConfigError: the network has no such size or initial weights, or cannot be trained on these labels.
    """
    entry = TRANSFORMERS[config.network or "maskgit"]
    size = config.size or default_size(entry)
    rule = f"one of {', '.join(entry.sizes)} for --network {entry.name}"
    require(size in entry.sizes, "size", size, rule)
    meta = tokens.meta
    classes = len(meta.class_names) or int(tokens.labels.max(initial=-1)) + 1
    network = entry.config(
        **dataclasses.asdict(entry.sizes[size]),
        codebook_size=meta.codebook_size,
        classes=classes,
        grid=meta.grid,
        dropout=config.dropout,
    )
    option = f"--network {entry.name}"
    init = config.init or entry.inits[0]
    require(init in entry.inits, "init", init, f"one of {', '.join(entry.inits)} for {option}")
    _check_labels(option, network.has_null_class, tokens)
    _check_label_dropout(option, network.has_null_class, config)
    return InitialWeights(entry, network, init=init)


def default_size(entry: TransformerEntry) -> str:
    """The size that is trained unless one is chosen: base, or the first of a network without it."""
    return "base" if "base" in entry.sizes else next(iter(entry.sizes))


def from_model(path: Path, tokens: Tokens, config: TrainConfig) -> InitialWeights:
    """The weights of a model, for a token file.

    Args:
        path: run or model directory, or the name of a model; the EMA weights of a run.
        tokens: the token file to train on.
        config: ``network``, ``size``, ``init``, ``dropout`` and ``drop_label`` are read.

    Raises:
        InputError: there is no such model.
        ArtifactError: it is incomplete or damaged.
        ConfigError: its tokenizer, classes, network or size differ from the requested ones, or random
            weights are asked for.
    """
    directory = find_named(path, "run or model")
    model = load_model(directory)
    _check_tokenizer(path, model, tokens)
    _check_classes(path, model, tokens)
    _check_network(path, model, config)
    _check_label_dropout(f"--init-from {path}", model.config.has_null_class, config)
    record = weights_of(directory).record
    network: Any = dataclasses.replace(  # type: ignore[type-var]
        model.config, grid=tokens.meta.grid, dropout=config.dropout
    )
    return InitialWeights(
        model.entry,
        network,
        resize_positions(model.entry, model.network.state_dict(), model.config.grid, network.grid),
        tuple(model.class_names),
        model.sha256,
        (parent("model", directory.resolve(), model.sha256), *record.get("parents", [])),
        directory,
    )


def check_elsewhere(path: Path | None, directory: Path | None, out: Path) -> None:
    """Check that initial weights do not lie in the output: resuming would no longer find them.

    Args:
        path: the argument of ``--init-from``.
        directory: what it names; None for random weights.
        out: directory that the training will write.

    Raises:
        ConfigError: they do.
    """
    if directory is not None and directory.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--init-from {path}: lies in {out}, which is to be written; choose another place with --out, "
            "or continue that training with more --steps"
        )


def _check_tokenizer(path: Path, model: Model, tokens: Tokens) -> None:
    meta = tokens.meta
    if model.tokenizer_sha256 != meta.tokenizer_sha256:
        raise ConfigError(
            f"--init-from {path}: it was trained with tokenizer {model.tokenizer_sha256[:12]}…, but "
            f"{tokens.path} is from {meta.tokenizer_sha256[:12]}…; tokenize with --tokenizer {path}"
        )


def _check_classes(path: Path, model: Model, tokens: Tokens) -> None:
    """Check that model and token file have the same classes, in the same order."""
    classes, names, wanted = model.config.classes, list(model.class_names), tokens.meta.class_names
    highest = int(tokens.labels.max(initial=-1)) + 1
    if len(wanted) not in (0, classes) or highest > classes:
        found = len(wanted) or highest
        raise ConfigError(f"--init-from {path}: it has {classes} classes, but {tokens.path} has {found}")
    _check_labels(f"--init-from {path}", model.config.has_null_class, tokens)
    if wanted and names and not same_classes(names, wanted):
        number = next(i for i in range(classes) if not same_classes(names[i : i + 1], wanted[i : i + 1]))
        raise ConfigError(
            f"--init-from {path}: its class {number} is {names[number]}, that of {tokens.path} is "
            f"{wanted[number]}; the classes have to be the same, in the same order"
        )


def _check_labels(option: str, has_null_class: bool, tokens: Tokens) -> None:
    if not has_null_class and tokens.labels.min(initial=0) < 0:
        raise ConfigError(
            f"{option}: this network has no null class, and {tokens.path} has images without a label"
        )


def _check_label_dropout(option: str, has_null_class: bool, config: TrainConfig) -> None:
    if not has_null_class and config.drop_label:
        raise ConfigError(
            f"--drop-label {config.drop_label}: the network of {option} has no null class; "
            "leave --drop-label out"
        )


def _check_network(path: Path, model: Model, config: TrainConfig) -> None:
    if config.init is not None:
        raise ConfigError(f"--init {config.init}: the weights are those of --init-from {path}; leave one out")
    if config.network is not None and config.network != model.entry.name:
        raise ConfigError(
            f"--network {config.network}: the model at {path} is {model.entry.name}; leave --network out"
        )
    if config.size is not None and model.entry.size_name(model.config) != config.size:
        raise ConfigError(f"--size {config.size}: the model at {path} has another size; leave --size out")


# --- another grid -----------------------------------------------------------------------------------


def resize_positions(
    entry: TransformerEntry, tensors: Mapping[str, Tensor], old: int, new: int
) -> dict[str, Tensor]:
    """A network's weights for another grid: tables of positions are resized, all else is copied.

    Args:
        entry: entry of the network.
        tensors: its weights by name.
        old: cells on a side of the grid it was trained on.
        new: cells on a side of the new grid.
    """
    return {
        name: resize_table(tensor, old, new, *entry.positions[name])
        if name in entry.positions
        else tensor.clone()
        for name, tensor in tensors.items()
    }


def resize_table(table: Tensor, old: int, new: int, before: int = 0, after: int = 0) -> Tensor:
    """Interpolate a table of positions from one grid to another, bilinearly between the cells' centers.

    The center of cell j of ``new`` lies at x = (j + 1/2)·old/new - 1/2 in cells of ``old``, clamped to
    [0, old - 1]; its row is (1 - t)·row(i) + t·row(i + 1) with i = floor(x) and t = x - i, in both
    directions. So no value leaves the range of the trained ones, and at the same grid nothing changes.

    Args:
        table: (..., before + old² + after, D), the grid's positions row by row.
        old: cells on a side.
        new: cells on a side of the result.
        before: table rows before the grid's, which stay as they are.
        after: table rows after the grid's, which stay as they are.

    Returns:
        (..., before + new² + after, D).
    """
    rows, width = table.shape[-2:]
    assert rows == before + old**2 + after, (rows, old)
    if old == new:
        return table.clone()
    first, grid, last = table.reshape(rows, width).split([before, old**2, after])
    image = grid.T.reshape(1, width, old, old).float()  # (1, D, old, old)
    image = F.interpolate(image, size=(new, new), mode="bilinear", align_corners=False)
    grid = image.reshape(width, new**2).T.to(table.dtype)  # (new², D)
    return torch.cat([first, grid, last]).reshape(*table.shape[:-2], -1, width)
