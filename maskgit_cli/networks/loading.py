"""Loading of tokenizer, model and run directories, with all checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.config.networks import (
    TOKENIZERS,
    TRANSFORMERS,
    MaskedTransformerConfig,
    NetworkEntry,
    Pyramid,
    TransformerEntry,
)
from maskgit_cli.config.samplers import SamplerConfig, recorded_sampler
from maskgit_cli.errors import ArtifactError, ConfigError
from maskgit_cli.formats.atomic import CREATED_BY
from maskgit_cli.formats.models import (
    TOKENIZER_FORMAT,
    TOKENIZER_VERSION,
    WEIGHTS_FILE,
    find_named,
    read_tokenizer_record,
    tokenizer_directory,
    weights_digest,
    weights_of,
    write_weights,
)
from maskgit_cli.formats.tensors import check_shapes, load_file, tensor_shapes
from maskgit_cli.networks.base import ImageTokenizer, MaskedTransformer
from maskgit_cli.networks.registry import build, network_of


class Tokenizer(NamedTuple):
    """A tokenizer ready for use.

    Attributes:
        network: in evaluation mode, float32, on the requested device.
        config: its sizes.
        sha256: digest of its ``model.safetensors``, which token files record.
        path: its directory.
    """

    network: ImageTokenizer
    config: Pyramid
    sha256: str
    path: Path

    def __fspath__(self) -> str:
        return str(self.path)


class Model(NamedTuple):
    """A transformer ready for use.

    Attributes:
        network: in evaluation mode, float32, on the requested device.
        config: its sizes.
        class_names: one per class, or empty where classes have numbers only.
        resolution: side in pixels of its images.
        sha256: digest of the weights file.
        tokenizer_sha256: digest of the tokenizer it was trained with.
        path: the run or model directory.
        step: optimizer steps of the weights, where known.
        sampler: its default sampling settings, where its record has them.
        entry: entry of its network in the registry.
    """

    network: MaskedTransformer
    config: MaskedTransformerConfig
    class_names: list[str]
    resolution: int
    sha256: str
    tokenizer_sha256: str
    path: Path
    step: int | None
    sampler: SamplerConfig | None
    entry: TransformerEntry

    def __fspath__(self) -> str:
        return str(self.path)


def save_tokenizer(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Pyramid,
    settings: Mapping[str, Any] | None = None,
    parents: Sequence[Mapping[str, str]] = (),
    network: str = "vqgan",
) -> None:
    """Write a tokenizer directory, or complete that of an unfinished training.

    ``network`` is a key of :data:`TOKENIZERS`.

    Raises:
        OutputError: the file system refuses.
    """
    record = {
        "format": TOKENIZER_FORMAT,
        "version": TOKENIZER_VERSION,
        "created_by": CREATED_BY,
        "network": network,
        TOKENIZERS[network].key: config.to_json(),
        "settings": dict(settings or {}),
        "parents": list(parents),
    }
    write_weights(path, tensors, record)


@checked
def load_tokenizer(path: PathArgument, device: torch.device | str = "cpu") -> Tokenizer:
    """Open a tokenizer directory, or the tokenizer of a run or model directory.

    Raises:
        InputError: ``path`` does not exist.
        ArtifactError: it is incomplete, damaged, of another version, or its tensors do not match its sizes.
    """
    directory = tokenizer_directory(Path(path))
    record = read_tokenizer_record(directory)
    entry = network_of(record, TOKENIZERS, "vqgan", directory)
    config = _config(entry, record, directory)
    network, sha256 = _load(entry, config, directory / WEIGHTS_FILE, weights_digest(record, directory))
    return Tokenizer(network.to(device), config, sha256, directory)


class _Uninitialized(TorchFunctionMode):
    """Networks built within are not initialized at random, which takes most of the time of loading one.

    On the ``meta`` device these functions would also import all of ``torch._dynamo``, for a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _load(entry: NetworkEntry, config: Any, file: Path, sha256: str | None) -> tuple[Any, str]:
    """A network for inference with the weights in a file, and the file's sha256."""
    with torch.device("meta"), _Uninitialized():
        network = build(entry, config)
    check_shapes(network, tensor_shapes(file), file)  # wrong sizes must not take memory
    found = load_file(network, file, sha256)
    return network.eval().requires_grad_(False), found


def _config(entry: NetworkEntry, record: Mapping[str, Any], path: Path) -> Any:
    """The network's config from an artifact's record."""
    try:
        return entry.config.from_json(record[entry.key])
    except KeyError:
        raise ArtifactError(f"{path / 'config.json'} has no {entry.key!r}") from None
    except (ConfigError, TypeError) as error:
        raise ArtifactError(f"{path / 'config.json'}: {error}") from None


def _check_record(record: Mapping[str, Any], config: MaskedTransformerConfig, file: Path) -> None:
    """Check the other keys of a run's or model's record against their types and the network's config."""
    for key, kind in (("class_names", list), ("resolution", int), ("tokenizer_sha256", str)):
        if key not in record:
            raise ArtifactError(f"{file} has no {key!r}")
        if not isinstance(record[key], kind):
            raise ArtifactError(f"{file} is damaged: its {key} is {record[key]!r}")
    if not all(isinstance(name, str) for name in record["class_names"]):
        raise ArtifactError(f"{file} is damaged: its class_names are not all text")
    count = len(record["class_names"])
    if count not in (0, config.classes):
        raise ArtifactError(f"{file} names {count} classes, but its transformer has {config.classes}")


def _own_sampler(record: Mapping[str, Any], file: Path) -> SamplerConfig | None:
    """The default sampling settings in a model's record, or None."""
    own = record.get("sampler")
    if own is None:
        return None
    if not isinstance(own, dict):
        raise ArtifactError(f"{file} is damaged: its sampler is {own!r}")
    try:
        return recorded_sampler(own)
    except ConfigError as error:
        raise ArtifactError(f"{file} has invalid sampler settings: {error}") from None


@checked
def load_model(path: PathArgument, device: torch.device | str = "cpu", weights: str = "ema") -> Model:
    """Open a model directory, the newest checkpoint of a run directory, or one checkpoint.

    Args:
        path: run or model directory, or ``checkpoints/step-N`` of a run.
        device: device of the network.
        weights: ``ema`` or ``raw``; a model directory has one set only.

    Raises:
        InputError: ``path`` does not exist.
        ArtifactError: it is incomplete, damaged, of another version, or its tensors do not match its sizes.
    """
    path = find_named(Path(path), "run or model")
    record, file, step, recorded = weights_of(path, weights)
    entry = network_of(record, TRANSFORMERS, "maskgit", path)
    config = _config(entry, record, path)
    _check_record(record, config, path / "config.json")
    network, sha256 = _load(entry, config, file, recorded)
    return Model(
        network.to(device),
        config,
        list(record["class_names"]),
        int(record["resolution"]),
        sha256,
        str(record["tokenizer_sha256"]),
        path,
        step,
        _own_sampler(record, path / "config.json"),
        entry,
    )
