"""``import``: published weights as a model directory, or a tokenizer's as a tokenizer directory."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor
from torch.overrides import TorchFunctionMode

from maskgit_cli.config.arguments import PathArgument, checked, path_list
from maskgit_cli.config.base import require
from maskgit_cli.config.networks import TOKENIZERS, TRANSFORMERS, VQGANConfig
from maskgit_cli.data.imagenet import imagenet_names
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import LARGEST_RECORD, parent, regular, replacing_directory, sha256_file
from maskgit_cli.formats.claim import Outcome, claim
from maskgit_cli.formats.models import (
    MODEL_OR_TOKENIZER,
    find_named,
    format_of,
    read_tokenizer_record,
    save_model,
)
from maskgit_cli.formats.records import Record
from maskgit_cli.formats.torch_files import read_checkpoint
from maskgit_cli.networks.loading import load_tokenizer, save_tokenizer
from maskgit_cli.networks.registry import build
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.weights.names import PUBLISHED_NETWORKS, PublishedWeights, recognize, to_native
from maskgit_cli.weights.read_flax import read_flax
from maskgit_cli.weights.shapes import (
    RESOLUTION,
    check_model_yaml,
    grid_of,
    tokenizer_sizes,
    transformer_sizes,
)

_Tensors = dict[str, Tensor]
# Keys under which a checkpoint keeps its weights, in the order of preference, and those of EMA weights.
_RAW_KEYS = ("model_state_dict", "state_dict", "model", "params")
_EMA_KEYS = ("ema_state_dict", "model_ema_state_dict", "ema", "model_ema", "ema_params")
# Keys of its optimizer steps and epochs.
_STEP_KEYS, _EPOCH_KEYS = ("iter", "global_step"), ("global_epoch", "epoch")
# How names of published files end; the last is Google's scheme.
_ENDINGS = (".pth", ".pt", ".ckpt", ".yaml", "_checkpoint")
# First bytes of files that are mistaken for published ones, and what they are.
_OTHERS = (
    (rb"$", "is empty"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself; `git lfs pull` fetches that"),
    (rb"\s*<", "is a web page, not the file itself; download the file from the link on it"),
    (rb".{8}\{\"", "is a safetensors file, the format of none of these networks"),
    (rb"\x89HDF|\x89PNG|\x93NUMPY", "is not a weights file"),
)
# Which tokenizer each transformer was published with.
_PAIRS = {"maskgit": "vqgan", "halton": "llamagen", "google": "google_vqgan"}
# Prefixes that trainers put before every name of a wrapped network.
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")


class _Unfilled(TorchFunctionMode):
    """Networks are built without initialization, which on the meta device costs 150 MB of imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


class _Converted(NamedTuple):
    """A published network under native names."""

    published: PublishedWeights
    sizes: Any
    tensors: Mapping[str, Tensor]
    parameters: int

    @property
    def parent(self) -> dict[str, str]:
        path = self.published.path
        return parent("published", path, sha256_file(path))


class _Tokenizer(NamedTuple):
    """A tokenizer for a model directory: its network, and its directory or a function that writes one."""

    network: str
    sizes: Any
    source: Path | Callable[[Path], None]
    parents: list[dict[str, str]]


class Import(NamedTuple):
    """A conversion that can be written: its record, and a function that writes it at a path."""

    record: Record
    write: Callable[[Path], None]


class _Sources(NamedTuple):
    """The files that were given, by kind."""

    transformer: PublishedWeights | None
    tokenizer: PublishedWeights | None
    directory: Path | None  # a tokenizer directory of this package
    yaml: tuple[Path, dict[str, Any]] | None


@checked
def import_weights(
    files: PathArgument | Sequence[PathArgument],
    out: PathArgument,
    *,
    tokenizer: PathArgument | Sequence[PathArgument] = (),
    heads: int | None = None,
    weights: str = "ema",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Turn published weights into a directory that every stage takes.

    Args:
        files: the published files, in any order: a transformer's, a tokenizer's with its
            ``model.yaml`` where it has one, or both.
        out: the model directory to make, or the tokenizer directory if there is no transformer.
        tokenizer: the tokenizer's files, or a tokenizer directory, or a run or model directory.
        heads: attention heads, where they cannot be inferred from the shapes; None is the published number.
        weights: ``ema`` or ``raw``, where a file has both.
        overwrite: replace a directory that is there.
        reporter: receives what was found and what was assumed.

    Returns:
        ``out``.

    Raises:
        ConfigError: a setting is impossible, or transformer and tokenizer do not belong together.
        InputError: a file is missing, damaged, or not a supported checkpoint.
        WeightsError: there are missing or unexpected keys, other shapes, or values that are not finite.
        ArtifactError: the tokenizer directory is incomplete or damaged.
        OutputError: ``out`` exists and ``overwrite`` is false, or cannot be written.
    """
    files, out, tokenizer = path_list(files), Path(out), path_list(tokenizer)
    require(heads is None or heads >= 1, "heads", heads, "1 or more")
    plan = functools.cache(lambda: plan_import(files, tokenizer, heads, weights, reporter))
    with claim(
        out, MODEL_OR_TOKENIZER, lambda: plan().record, overwrite=overwrite, warn=reporter.warn
    ) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
        else:
            plan().write(claimed.path)
    return out


def plan_import(
    files: Sequence[Path], tokenizer: Sequence[Path], heads: int | None, weights: str, reporter: Reporter
) -> Import:
    """Read and check published files; see :func:`import_weights`."""
    sources = _sort(files, tokenizer, weights)
    if sources.transformer is None:
        return _plan_tokenizer(sources, reporter)
    found_tokenizer = _tokenizer_for(sources, grid_of(sources.transformer), reporter)
    sizes = transformer_sizes(sources.transformer, found_tokenizer.sizes.codebook_size, heads)
    model = _convert(sources.transformer, sizes, TRANSFORMERS)
    _report(model, reporter)
    if found_tokenizer.network != _PAIRS[model.published.spec.network]:
        usual = next(n.title for n in PUBLISHED_NETWORKS if n.network == _PAIRS[model.published.spec.network])
        reporter.warn(f"{model.published.spec.title} was published with {usual}; this is another tokenizer")
    if heads is None and sources.transformer.spec.network != "google":
        reporter.info(
            f"attention heads cannot be inferred from the shapes: using {sizes.heads}, as published (--heads)"
        )
    record = _record(model, found_tokenizer, {"heads": sizes.heads, "weights": weights})
    named = " with ImageNet's names" if record["class_names"] else " without names"
    reporter.info(f"{sizes.classes} classes{named}, resolution {record['resolution']} px")
    return Import(record, lambda path: save_model(path, model.tensors, record, found_tokenizer.source))


def _record(model: _Converted, found_tokenizer: _Tokenizer, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of the model directory; the tokenizer's digest is added when it is written."""
    network = model.published.spec.network
    return {
        "network": network,
        TRANSFORMERS[network].key: model.sizes.to_json(),
        "resolution": model.sizes.grid * found_tokenizer.sizes.factor,
        # All published models are of ImageNet and number its classes in the same order.
        "class_names": imagenet_names() if model.sizes.classes == 1000 else [],
        "weights": model.published.weights,
        "half": False,
        "step": model.published.step,
        "epoch": model.published.epoch,
        "settings": settings,
        "parents": [model.parent, *found_tokenizer.parents],
    }


def _report(converted: _Converted, reporter: Reporter) -> None:
    """Report what a file was found to be."""
    millions = f"{converted.parameters / 1e6:.3f} M parameters"
    sizes = ", ".join(f"{key} {value}" for key, value in converted.sizes.to_json().items())
    reporter.info(f"{converted.published.path.name} is {converted.published.spec.title}, {millions}: {sizes}")


# --- files ------------------------------------------------------------------------------------------


def _sort(files: Sequence[Path], tokenizer: Sequence[Path], weights: str) -> _Sources:
    """Read the files that were given and sort them by kind."""
    found: dict[str, Any] = {}

    def add(kind: str, path: Path, value: Any) -> None:
        if kind in found:
            raise ConfigError(f"{path} is a second {kind}; give one")
        found[kind] = value

    all_paths = [(path, False) for given in files for path in _expanded(given)]
    all_paths += [(path, True) for given in tokenizer for path in _expanded(find_named(given, "tokenizer"))]
    for path, is_tokenizer in all_paths:
        if path.is_dir():
            add("tokenizer", path, path)
        elif path.suffix.lower() in (".yaml", ".yml"):
            add("yaml file", path, (path, _read_yaml(path)))
        else:
            published = _read(path, weights)
            if is_tokenizer and published.spec.kind != "tokenizer":
                raise ConfigError(f"--tokenizer {path}: this is {published.spec.title}")
            add(published.spec.kind, path, published)
    found_tokenizer = found.get("tokenizer")
    if found_tokenizer is None:
        raise ConfigError(
            "a transformer needs the tokenizer that it was trained with: give its file with --tokenizer"
            if "transformer" in found
            else "no weights were given: give a published file"
        )
    native = found_tokenizer if isinstance(found_tokenizer, Path) else None
    if native and "yaml file" in found:
        raise ConfigError(
            f"{found['yaml file'][0]} is not needed with {native}, which has its sizes; leave one out"
        )
    return _Sources(
        found.get("transformer"), None if native else found_tokenizer, native, found.get("yaml file")
    )


def _expanded(path: Path) -> list[Path]:
    """A file or artifact as it is; of another folder, the published files in it."""
    if not path.exists():
        raise InputError(f"no weights at {path}: it does not exist")
    if not path.is_dir() or format_of(path):
        return [path]
    inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(_ENDINGS) and p.is_file())
    if not inside:
        raise InputError(f"{path} has no weights: no file in it ends with {', '.join(_ENDINGS)}")
    return inside


def _read_yaml(path: Path) -> dict[str, Any]:
    """The ``model.params`` of a VQGAN's ``model.yaml``."""
    regular(path, LARGEST_RECORD)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path} cannot be read as YAML: it is nested too deeply") from None
    # Values that are not what their form or tag promises, such as a date in month 99, raise Python's own.
    except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    for key in ("model", "params"):
        value = value.get(key) if isinstance(value, dict) else None
    inner = value.get("ddconfig") if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("resolution"), int):
        raise InputError(f"{path} is not a VQGAN's model.yaml: it has no model.params.ddconfig.resolution")
    assert isinstance(value, dict)
    return value


def _read(path: Path, weights: str) -> PublishedWeights:
    """The weights in a published file."""
    container = _open(path)
    try:
        tensors, chosen = _weights_in(container, weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    spec = recognize(tensors)
    if spec is None:
        supported = ", ".join(network.title for network in PUBLISHED_NETWORKS)
        raise InputError(f"{path} is not a supported checkpoint; supported are {supported}")
    if chosen != weights and weights == "raw":
        raise InputError(f"{path} has EMA weights only; leave --weights raw out")
    step, epoch = (_count(container, keys) for keys in (_STEP_KEYS, _EPOCH_KEYS))
    return PublishedWeights(path, spec, tensors, chosen, step, epoch)


def _open(path: Path) -> Any:
    """The content of a published file of any kind, which its first bytes determine."""
    regular(path)
    try:
        with open(path, "rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    for pattern, what in _OTHERS:
        if re.match(pattern, begin, re.DOTALL):
            raise InputError(f"{path} {what}")
    if begin[:2] == b"PK" or begin[:1] == b"\x80":
        return read_checkpoint(path)
    # Maps of msgpack: short, of 16 and of 32 bits. A pickle's 0x80 would be an empty one.
    if begin[:1] in (b"\xde", b"\xdf") or b"\x81" <= begin[:1] <= b"\x8f":
        return read_flax(path)
    raise InputError(f"{path} is not a weights file: neither a PyTorch checkpoint nor flax's msgpack")


def _count(container: Any, keys: Sequence[str]) -> int | None:
    """The whole number that a checkpoint has under the first of some keys; None where it has none."""
    values = (container.get(key) for key in keys) if isinstance(container, dict) else ()
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)


def _weights_in(container: Any, weights: str) -> tuple[_Tensors, str]:
    """The tensors in a checkpoint by name, and whether they are ``ema`` or ``raw`` weights."""
    groups = container if isinstance(container, dict) else {}
    found: dict[str, _Tensors | None] = {
        kind: next((group for key in keys if (group := _flat(groups.get(key)))), None)
        for kind, keys in (("raw", _RAW_KEYS), ("ema", _EMA_KEYS))
    }
    for kind in (weights, "raw", "ema"):
        if tensors := found[kind]:
            return tensors, kind
    return _flat(container), "raw"


def _flat(value: Any) -> _Tensors:
    """The tensors in nested dicts, with names like ``a/b``; wrappers' prefixes are removed."""
    flat: _Tensors = {}
    waiting = [("", value)]
    seen: set[int] = set()  # a dict may hold itself, or be in many places
    while waiting:
        prefix, group = waiting.pop()
        if not isinstance(group, dict) or id(group) in seen:
            continue
        seen.add(id(group))
        for key, inner in group.items():
            if isinstance(inner, Tensor) and isinstance(key, str):
                name = _WRAPPERS.sub("", prefix + key)
                if name in flat:
                    raise InputError(f"it has two tensors {name!r}, with and without a wrapper's prefix")
                flat[name] = inner
            elif isinstance(key, str):
                waiting.append((f"{prefix}{key}/", inner))
    return flat


# --- networks ---------------------------------------------------------------------------------------


def _convert(published: PublishedWeights, sizes: Any, known: Mapping[str, Any]) -> _Converted:
    """A published network of these sizes under native names, checked."""
    with torch.device("meta"), _Unfilled():
        network = build(known[published.spec.network], sizes)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return _Converted(published, sizes, to_native(published, sizes, network), parameters)


def _convert_tokenizer(sources: _Sources, grid: int | None, reporter: Reporter) -> _Converted:
    """The published tokenizer, for the transformer's grid, or with the resolution of its yaml file."""
    published = sources.tokenizer
    assert published is not None
    sizes = tokenizer_sizes(published, RESOLUTION)
    if sources.yaml is not None:
        path, values = sources.yaml
        if published.spec.network != "vqgan":
            raise ConfigError(f"{path} is for a VQGAN, but {published.path} is {published.spec.title}")
        sizes = tokenizer_sizes(published, values["ddconfig"]["resolution"])
        assert isinstance(sizes, VQGANConfig)
        check_model_yaml(sizes, values, path)
    elif grid is not None:
        sizes = tokenizer_sizes(published, grid * sizes.factor)
    else:
        reporter.info(
            f"the resolution cannot be inferred from the shapes: using {RESOLUTION} px, as published"
        )
    converted = _convert(published, sizes, TOKENIZERS)
    _report(converted, reporter)
    return converted


def _tokenizer_for(sources: _Sources, grid: int, reporter: Reporter) -> _Tokenizer:
    """The tokenizer for a model directory."""
    if sources.directory is not None:
        found_tokenizer = load_tokenizer(sources.directory)
        parents = [parent("tokenizer", found_tokenizer.path.resolve(), found_tokenizer.sha256)]
        network = read_tokenizer_record(found_tokenizer.path).get("network", "vqgan")
        return _Tokenizer(network, found_tokenizer.config, found_tokenizer.path, parents)
    converted = _convert_tokenizer(sources, grid, reporter)
    parents = [converted.parent]
    network = converted.published.spec.network

    def write(path: Path) -> None:
        _write_tokenizer(path, converted, parents)

    return _Tokenizer(network, converted.sizes, write, parents)


def _write_tokenizer(path: Path, converted: _Converted, parents: list[dict[str, str]]) -> None:
    settings = {"weights": converted.published.weights}
    network = converted.published.spec.network
    save_tokenizer(path, converted.tensors, converted.sizes, settings, parents, network)


def _plan_tokenizer(sources: _Sources, reporter: Reporter) -> Import:
    if sources.directory is not None:
        raise ConfigError(
            f"{sources.directory} is a directory of this package already; there is nothing to import"
        )
    converted = _convert_tokenizer(sources, None, reporter)
    network, parents = converted.published.spec.network, [converted.parent]
    record = {
        "network": network,
        TOKENIZERS[network].key: converted.sizes.to_json(),
        "settings": {"weights": converted.published.weights},
        "parents": parents,
    }

    def write(path: Path) -> None:
        with replacing_directory(path) as temporary:
            _write_tokenizer(temporary, converted, parents)

    return Import(record, write)
