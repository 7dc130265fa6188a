"""What a training starts from: a network of random weights, or a model's, at another resolution if need be.

A model knows places by tables with a row a place: learned positions, and in the paper's network a bias
for each place and code. At another resolution its images are divided into another number of cells, and
the rows are interpolated between the cells' centers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskgit_cli.config.networks import SIZES, Size, TransformerConfig
from maskgit_cli.config.stages import TrainConfig
from maskgit_cli.data.imagenet import same_classes
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.models import find_named, weights_of
from maskgit_cli.formats.tokens import TokenFile
from maskgit_cli.networks.loading import Model, load_model
from maskgit_cli.networks.registry import TRANSFORMERS

# The tables with a row a place, by network: their names, and the rows before and after the grid's, which
# belong to the class token.
_TABLES: dict[str, dict[str, tuple[int, int]]] = {
    "maskgit": {"positions": (0, 1), "bias": (0, 1)},
    "halton": {"positions.weight": (0, 0)},
    "google": {"positions.weight": (1, 0)},
}


class Start(NamedTuple):
    """A network to train.

    Attributes:
        network: its name, a key of :data:`~maskgit_cli.networks.registry.TRANSFORMERS`.
        sizes: its sizes.
        tensors: its weights; None draws them from the seed.
        class_names: of the model it starts from.
        sha256: of that model.
        parents: the record by which a run names that model, and that model's own parents.
        place: the directory of that model.
    """

    network: str
    sizes: Any
    tensors: dict[str, Tensor] | None = None
    class_names: tuple[str, ...] = ()
    sha256: str | None = None
    parents: tuple[dict[str, str], ...] = ()
    place: Path | None = None

    @property
    def key(self) -> str:
        """Under which a record holds the sizes."""
        return TRANSFORMERS[self.network].key

    @property
    def build(self) -> Callable[[Any], Any]:
        """Makes the network of such sizes."""
        return TRANSFORMERS[self.network].build

    def near(self, tokens: Path) -> list[Path]:
        """Where the tokenizer of a token file may be: beside the file, and in the model."""
        return [place / "tokenizer" for place in (tokens.parent, self.place) if place]


def network_sizes(tokens: TokenFile, config: TrainConfig) -> TransformerConfig:
    """Sizes of the network that a size's name and a token file make together."""
    assert config.size is not None
    meta = tokens.meta
    classes = len(meta.class_names) or int(tokens.labels.max(initial=-1)) + 1
    return TransformerConfig(
        **dataclasses.asdict(SIZES[config.size]),
        codebook_size=meta.codebook_size,
        classes=classes,
        grid=meta.grid,
        dropout=config.dropout,
    )


def start_from(path: Path, tokens: TokenFile, config: TrainConfig) -> Start:
    """The weights of a model, made to fit a token file.

    Args:
        path: run or model directory, or the name of a model; of a run the averaged weights are taken.
        tokens: what is to be trained on.
        config: ``size``, ``dropout`` and ``drop_label`` are read.

    Raises:
        InputError: there is no such model.
        ArtifactError: it is incomplete or damaged.
        ConfigError: its codes, classes or sizes are others than asked for.
    """
    place = find_named(path, "run or model")
    model = load_model(place)
    _check_codes(path, model, tokens)
    _check_classes(path, model, tokens)
    _check_sizes(path, model, config)
    record, _, _ = weights_of(place)
    network = record.get("network", "maskgit")
    sizes = dataclasses.replace(model.config, grid=tokens.meta.grid, dropout=config.dropout)
    return Start(
        network,
        sizes,
        resized(network, model.network.state_dict(), model.config.grid, sizes.grid),
        tuple(model.class_names),
        model.sha256,
        (parent("model", place.resolve(), model.sha256), *record.get("parents", [])),
        place,
    )


def size_name(sizes: Any) -> str | None:
    """The name of the size that a network's sizes have, or None."""
    if not isinstance(sizes, TransformerConfig):
        return None
    own = Size(sizes.width, sizes.depth, sizes.heads, sizes.mlp_width)
    return next((name for name, size in SIZES.items() if size == own), None)


def _check_codes(path: Path, model: Model, tokens: TokenFile) -> None:
    meta = tokens.meta
    if model.tokenizer_sha256 != meta.tokenizer_sha256:
        raise ConfigError(
            f"--init-from {path}: it knows the codes of tokenizer {model.tokenizer_sha256[:12]}…, those in "
            f"{tokens.path} are of {meta.tokenizer_sha256[:12]}…; tokenize with --tokenizer {path}"
        )


def _check_classes(path: Path, model: Model, tokens: TokenFile) -> None:
    """Make sure that a number means one class to the model and to the token file."""
    known, names, wanted = model.config.classes, list(model.class_names), tokens.meta.class_names
    highest = int(tokens.labels.max(initial=-1)) + 1
    if len(wanted) not in (0, known) or highest > known:
        found = len(wanted) or highest
        raise ConfigError(f"--init-from {path}: it knows {known} classes, but {tokens.path} has {found}")
    if not model.config.drops_labels and tokens.labels.min(initial=0) < 0:
        raise ConfigError(
            f"--init-from {path}: this network needs a class for every image, and {tokens.path} has images "
            "without one"
        )
    if wanted and names and not same_classes(names, wanted):
        number = next(i for i in range(known) if not same_classes(names[i : i + 1], wanted[i : i + 1]))
        raise ConfigError(
            f"--init-from {path}: its class {number} is {names[number]}, that of {tokens.path} is "
            f"{wanted[number]}; the classes have to be the same, in the same order"
        )


def _check_sizes(path: Path, model: Model, config: TrainConfig) -> None:
    if config.size is not None and size_name(model.config) != config.size:
        raise ConfigError(f"--size {config.size}: the model at {path} is of another size; leave --size out")
    if not model.config.drops_labels and config.drop_label:
        raise ConfigError(
            f"--drop-label {config.drop_label}: the network of --init-from {path} knows no dropped class; "
            "leave --drop-label out"
        )


# --- another grid -----------------------------------------------------------------------------------


def resized(network: str, tensors: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """A network's weights for another grid: the tables of places resized, all else as it is.

    Args:
        network: a key of :data:`~maskgit_cli.networks.registry.TRANSFORMERS`.
        tensors: its weights by name.
        old: cells on a side of the images it was trained on.
        new: cells on a side of those it is to see.
    """
    tables = _TABLES[network]
    return {
        name: resize_table(tensor, old, new, *tables[name]) if name in tables else tensor.clone()
        for name, tensor in tensors.items()
    }


def resize_table(table: Tensor, old: int, new: int, before: int = 0, after: int = 0) -> Tensor:
    """Interpolate a table of places from a grid to another, bilinearly between the cells' centers.

    The center of cell j of ``new`` lies at x = (j + 1/2)·old/new - 1/2 in cells of ``old``, held to
    [0, old - 1]; its row is (1 - t)·row(i) + t·row(i + 1) with i = floor(x) and t = x - i, in both
    directions. So no value leaves the range of the trained ones, and at the same grid nothing changes.

    Args:
        table: (..., before + old² + after, D), the grid's places line by line.
        old: cells on a side.
        new: cells on a side of the result.
        before: rows before the grid's, which stay as they are.
        after: rows after the grid's, which stay as they are.

    Returns:
        (..., before + new² + after, D).
    """
    rows, width = table.shape[-2:]
    assert rows == before + old**2 + after, (rows, old)
    if old == new:
        return table.clone()
    first, places, last = table.reshape(rows, width).split([before, old**2, after])
    image = places.T.reshape(1, width, old, old).float()  # (1, D, old, old)
    image = F.interpolate(image, size=(new, new), mode="bilinear", align_corners=False)
    places = image.reshape(width, new**2).T.to(table.dtype)  # (new², D)
    return torch.cat([first, places, last]).reshape(*table.shape[:-2], -1, width)
