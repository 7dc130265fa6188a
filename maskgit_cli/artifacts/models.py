"""Tokenizer directories and model directories, and which model a command means.

A tokenizer directory holds ``config.json`` and ``model.safetensors``; a model directory holds the same
two and its ``tokenizer/``. The sha256 of a tokenizer or model is that of its ``model.safetensors``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskgit_cli.artifacts.atomic import (
    CREATED_BY,
    check_format,
    read_json,
    replacing_directory,
    sha256_file,
    write_json,
)
from maskgit_cli.artifacts.runs import RUN_FORMAT, RUN_VERSION, newest_checkpoint
from maskgit_cli.artifacts.tensors import load_weights, read_tensors, write_tensors
from maskgit_cli.catalogue import PUBLISHED, similar_names
from maskgit_cli.config import TransformerConfig, VQGANConfig
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.models.halton import Halton
from maskgit_cli.models.llamagen import LlamaGen
from maskgit_cli.models.maskgit import MaskGIT
from maskgit_cli.models.official import Official
from maskgit_cli.models.official_vqgan import OfficialVQGAN
from maskgit_cli.models.vqgan import VQGAN
from maskgit_cli.published_config import HaltonConfig, OfficialConfig, OfficialVQGANConfig
from maskgit_cli.sampler_config import SamplerConfig, recorded_sampler

TOKENIZER_FORMAT, TOKENIZER_VERSION = "maskgit-tokenizer", 1
MODEL_FORMAT, MODEL_VERSION = "maskgit-model", 1
WEIGHTS_FILE = "model.safetensors"
# Where `pull` puts models, which any command then takes by name.
MODELS = Path("models")

TransformerNetwork = MaskGIT | Halton | Official
TransformerSizes = TransformerConfig | HaltonConfig  # Google's are of the report's class
TokenizerNetwork = VQGAN | OfficialVQGAN  # LlamaGen's is a VQGAN
TokenizerSizes = VQGANConfig | OfficialVQGANConfig


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
    "official": Network("official", OfficialConfig, Official),
}
TOKENIZERS = {
    "vqgan": Network("vqgan", VQGANConfig, VQGAN),
    "llamagen": Network("llamagen", VQGANConfig, LlamaGen),
    "official_vqgan": Network("official_vqgan", OfficialVQGANConfig, OfficialVQGAN),
}

_ASSETS = Path(__file__).parent.parent / "assets"


class Tokenizer(NamedTuple):
    """A tokenizer ready for use.

    Attributes:
        network: in evaluation mode, float32, on the device asked for.
        config: its sizes.
        sha256: of its ``model.safetensors``; token files are held to it.
        path: its directory.
    """

    network: TokenizerNetwork
    config: TokenizerSizes
    sha256: str
    path: Path


class Model(NamedTuple):
    """A transformer ready for use.

    Attributes:
        network: in evaluation mode, float32, on the device asked for.
        config: its sizes.
        class_names: one a class, or empty where classes have numbers only.
        resolution: side in pixels of the images it draws.
        sha256: of the weights file that was read.
        tokenizer_sha256: of the tokenizer its codes belong to.
        path: the run or model directory.
        step: optimiser steps behind the weights, where known.
        sampler: what it is best drawn with, where whoever exported it said so.
    """

    network: TransformerNetwork
    config: TransformerSizes
    class_names: list[str]
    resolution: int
    sha256: str
    tokenizer_sha256: str
    path: Path
    step: int | None
    sampler: SamplerConfig | None


def builtin_tokenizer() -> Path:
    """Directory of the tokenizer that comes with the package (see docs/builtin.md)."""
    return builtin_model() / "tokenizer"


def builtin_model() -> Path:
    """Directory of the model that comes with the package (see docs/builtin.md)."""
    return _ASSETS / "model"


def builtin_pictures() -> Path:
    """Zip file of the pictures that come with the package, a folder a class, with their credits."""
    return _ASSETS / "pictures.zip"


def named(path: Path) -> Path:
    """The directory a user's word means: what is there; else ``builtin``, or a model under ``models/``.

    A folder called ``builtin`` without a record, pictures say, is not what is meant.
    """
    if path == Path("builtin") and not (path / "config.json").exists():
        return builtin_model()
    if path.exists():
        return path
    pulled = MODELS / path
    return pulled if pulled.is_dir() else path


def find_named(path: Path, what: str) -> Path:
    """The directory a user's word means, as :func:`named` tells.

    Args:
        path: what the user said.
        what: what it should be, for the error.

    Raises:
        InputError: there is none; where a published model is called so, the message says how to get it.
    """
    place = named(path)
    if place.exists():
        return place
    if str(path) in PUBLISHED:
        raise InputError(f"no {what} at {path}, nor at {MODELS / path}; `maskgit pull {path}` fetches it")
    near = similar_names(str(path))
    hint = f"; did you mean the published {near[0]}?" if near else ""
    raise InputError(f"no {what} at {path}: it does not exist{hint}")


def format_of(path: Path) -> str | None:
    """The format that a directory's ``config.json`` names; None where there is none, or not one of ours.

    Raises:
        ArtifactError: the file is damaged.
    """
    config = path / "config.json"
    found = read_json(config, "an artifact of ours").get("format") if config.is_file() else None
    return found if found in (MODEL_FORMAT, TOKENIZER_FORMAT, RUN_FORMAT) else None


def run_of_checkpoint(path: Path) -> Path | None:
    """The run that ``RUN/checkpoints/step-N`` is a checkpoint of; None where ``path`` is something else."""
    whole = path.resolve()
    inside = whole.parent.name == "checkpoints" and (whole / "state.json").exists()
    return whole.parent.parent if inside else None


def newest_run(root: Path = Path("runs")) -> Path | None:
    """The run under ``root`` whose newest checkpoint is the latest, or None."""
    found = []
    for config in root.glob("*/config.json"):
        checkpoint = newest_checkpoint(config.parent)
        if checkpoint is not None:
            found.append((checkpoint.stat().st_mtime_ns, config.parent))
    return max(found)[1] if found else None


def save_tokenizer(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: TokenizerSizes,
    settings: Mapping[str, Any] | None = None,
    parents: Sequence[Mapping[str, str]] = (),
    network: str = "vqgan",
) -> None:
    """Write a tokenizer directory; an unfinished training directory becomes a finished one.

    ``config.json`` is written first and ``model.safetensors`` last, so the directory is complete
    exactly when the latter is there. ``network`` is a name of :data:`TOKENIZERS`.

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
    write_json(path / "config.json", record)
    write_tensors(path / WEIGHTS_FILE, tensors)


def tokenizer_directory(path: Path) -> Path:
    """The tokenizer that a path means: itself, or the ``tokenizer/`` of a run or model directory.

    Raises:
        InputError: there is nothing at ``path``.
        ArtifactError: what is there holds no tokenizer.
    """
    path = find_named(path, "tokenizer")
    path = run_of_checkpoint(path) or path
    record = read_json(path / "config.json", "a tokenizer, run or model directory")
    if record.get("format") in (MODEL_FORMAT, RUN_FORMAT):
        return path / "tokenizer"
    return path


def read_tokenizer_record(path: Path) -> dict[str, Any]:
    """The checked ``config.json`` of a tokenizer directory.

    Raises:
        ArtifactError: it is missing, damaged, of another format or version, or not finished.
    """
    record = read_json(path / "config.json", "a tokenizer directory")
    check_format(record, path, TOKENIZER_FORMAT, TOKENIZER_VERSION)
    if not (path / WEIGHTS_FILE).exists():
        raise ArtifactError(
            f"{path} has no {WEIGHTS_FILE}: if its training was interrupted, "
            "run the same `maskgit train-vqgan` command again to finish it"
        )
    return record


def load_tokenizer(path: Path, device: torch.device | str = "cpu") -> Tokenizer:
    """Open a tokenizer directory, or the tokenizer of a run or model directory.

    Raises:
        InputError: there is nothing at ``path``.
        ArtifactError: it is incomplete, damaged, of another version, or its tensors do not fit.
    """
    directory = tokenizer_directory(path)
    record = read_tokenizer_record(directory)
    kind = network_of(record, TOKENIZERS, "vqgan", directory)
    config = _sizes(kind, record, directory)
    network = kind.build(config)
    weights = directory / WEIGHTS_FILE
    load_weights(network, read_tensors(weights), weights)
    network.eval().requires_grad_(False).to(device)
    return Tokenizer(network, config, sha256_file(weights), directory)


def find_tokenizer(
    sha256: str, given: Path | None = None, near: Sequence[Path] = (), doomed: Path | None = None
) -> Path:
    """The directory of the tokenizer with this digest.

    Args:
        sha256: of the weights wanted, as a token file or model records it.
        given: the one the user named; nothing else is looked at then.
        near: directories to look at before the usual places, which are the package's own tokenizer
            and those under ``tokenizers/``, ``runs/`` and ``models/`` of the working directory.
        doomed: a directory that is about to be removed: nothing in it is taken, lest it be lost.

    Raises:
        InputError: ``given`` does not exist.
        ArtifactError: ``given`` is another tokenizer, none of the places has the one wanted, or only one
            that is about to be removed.
    """
    if given is not None:
        directory = tokenizer_directory(given)
        read_tokenizer_record(directory)
        found = sha256_file(directory / WEIGHTS_FILE)
        if found != sha256:
            raise ArtifactError(
                f"{given} is tokenizer {found[:12]}…, but the codes came from {sha256[:12]}…; "
                "name the one they were made with"
            )
        return _spared(directory, doomed)
    here = Path()
    usual = [
        p
        for pattern in ("tokenizers/*", "runs/*/tokenizer", "models/*/tokenizer")
        for p in here.glob(pattern)
    ]
    places = [*near, builtin_tokenizer(), *sorted(usual)]
    for directory in sorted(places, key=lambda place: _inside(place, doomed)):  # those last
        weights = directory / WEIGHTS_FILE
        if weights.is_file() and sha256_file(weights) == sha256:
            return _spared(directory, doomed)
    raise ArtifactError(
        f"the codes came from tokenizer {sha256[:12]}…, which is not here; name it with --tokenizer"
    )


def _inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _spared(directory: Path, doomed: Path | None) -> Path:
    """A tokenizer's directory, unless it would go with another."""
    if _inside(directory, doomed):
        raise ArtifactError(
            f"the tokenizer {directory} would go with {doomed}, which is to be replaced; "
            "copy it elsewhere first, and name that with --tokenizer"
        )
    return directory


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the two files of a tokenizer directory, whole or not at all.

    Raises:
        ArtifactError: the source is not a finished tokenizer directory.
        OutputError: the file system refuses.
    """
    read_tokenizer_record(source)
    with replacing_directory(destination) as temporary:
        for name in ("config.json", WEIGHTS_FILE):
            shutil.copyfile(source / name, temporary / name)


def save_model(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    tokenizer: Path | Callable[[Path], None],
) -> None:
    """Write a model directory whole: ``record`` (see docs/artifacts.md), weights and tokenizer.

    Args:
        path: of the model directory.
        tensors: of the transformer.
        record: ``tokenizer_sha256`` may be left out of it.
        tokenizer: a tokenizer directory to copy, or a function that writes one where it is told.

    Raises:
        ArtifactError: ``tokenizer`` is not a finished tokenizer directory.
        OutputError: the file system refuses.
    """
    full = {"format": MODEL_FORMAT, "version": MODEL_VERSION, "created_by": CREATED_BY, **record}
    with replacing_directory(path) as temporary:
        if isinstance(tokenizer, Path):
            copy_tokenizer(tokenizer, temporary / "tokenizer")
        else:
            tokenizer(temporary / "tokenizer")
        full.setdefault("tokenizer_sha256", sha256_file(temporary / "tokenizer" / WEIGHTS_FILE))
        write_json(temporary / "config.json", full)
        write_tensors(temporary / WEIGHTS_FILE, tensors)


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


def _sizes(kind: Network, record: Mapping[str, Any], path: Path) -> Any:
    """The network's sizes from an artifact's record."""
    try:
        return kind.sizes.from_json(record[kind.key])
    except KeyError:
        raise ArtifactError(f"{path / 'config.json'} has no {kind.key!r}") from None
    except (ConfigError, TypeError) as error:
        raise ArtifactError(f"{path / 'config.json'}: {error}") from None


def weights_of(path: Path, weights: str = "ema") -> tuple[dict[str, Any], Path, int | None]:
    """The record, weights file and step that a run, checkpoint or model directory stands for.

    Raises:
        InputError: there is nothing at ``path``.
        ArtifactError: it is neither, or a run without a checkpoint.
    """
    path = find_named(path, "run or model")
    run = run_of_checkpoint(path)
    record = read_json((run or path) / "config.json", "a run or model directory")
    if record.get("format") == RUN_FORMAT:
        check_format(record, path, RUN_FORMAT, RUN_VERSION)
        checkpoint = path if run else newest_checkpoint(path)
        if checkpoint is None:
            raise ArtifactError(f"{path} has no checkpoint yet; run its `maskgit train` command to make one")
        name = "ema.safetensors" if weights == "ema" else WEIGHTS_FILE
        return record, checkpoint / name, int(checkpoint.name.removeprefix("step-"))
    check_format(record, path, MODEL_FORMAT, MODEL_VERSION)
    return record, path / WEIGHTS_FILE, record.get("step")


def _check_record(record: Mapping[str, Any], config: TransformerSizes, file: Path) -> None:
    """Hold what a run's or model's record says beside the sizes to its types, and to the sizes."""
    for key, kind in (("class_names", list), ("resolution", int), ("tokenizer_sha256", str)):
        if key not in record:
            raise ArtifactError(f"{file} has no {key!r}")
        if not isinstance(record[key], kind):
            raise ArtifactError(f"{file} is damaged: its {key} is {record[key]!r}")
    count = len(record["class_names"])
    if count not in (0, config.classes):
        raise ArtifactError(f"{file} names {count} classes, but its transformer knows {config.classes}")


def _own_sampler(record: Mapping[str, Any], file: Path) -> SamplerConfig | None:
    """The sampler's settings in a model's record, or None: it need not have them."""
    own = record.get("sampler")
    if own is None:
        return None
    if not isinstance(own, dict):
        raise ArtifactError(f"{file} is damaged: its sampler is {own!r}")
    try:
        return recorded_sampler(own)
    except ConfigError as error:
        raise ArtifactError(f"{file} has settings of a sampler that cannot be used: {error}") from None


def load_model(path: Path, device: torch.device | str = "cpu", weights: str = "ema") -> Model:
    """Open a model directory, the newest checkpoint of a run directory, or the one named.

    Args:
        path: run or model directory, or ``checkpoints/step-N`` of a run.
        device: where the network goes.
        weights: ``ema`` or ``raw``; a model directory has one set only.

    Raises:
        InputError: there is nothing at ``path``.
        ArtifactError: it is incomplete, damaged, of another version, or its tensors do not fit.
    """
    path = find_named(path, "run or model")
    record, file, step = weights_of(path, weights)
    kind = network_of(record, TRANSFORMERS, "maskgit", path)
    config = _sizes(kind, record, path)
    _check_record(record, config, path / "config.json")
    network = kind.build(config)
    load_weights(network, read_tensors(file), file)
    network.eval().requires_grad_(False).to(device)
    return Model(
        network,
        config,
        list(record["class_names"]),
        int(record["resolution"]),
        sha256_file(file),
        str(record["tokenizer_sha256"]),
        path,
        step,
        _own_sampler(record, path / "config.json"),
    )
