"""``export``: a run's weights as a model directory, or a tokenizer's as a smaller one, to share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgit_cli.artifacts.atomic import check_output, parent, read_json, replacing_directory, sha256_file
from maskgit_cli.artifacts.models import (
    MODEL_FORMAT,
    TOKENIZER_FORMAT,
    WEIGHTS_FILE,
    load_model,
    load_tokenizer,
    named,
    read_tokenizer_record,
    save_model,
    save_tokenizer,
    weights_of,
)
from maskgit_cli.artifacts.runs import RUN_FORMAT
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError

_WHATS = {MODEL_FORMAT: "a model directory", TOKENIZER_FORMAT: "a tokenizer directory"}


def _stored(tensors: Mapping[str, Tensor], half: bool) -> dict[str, Tensor]:
    """Tensors at the precision they are stored with."""
    return {name: t.half() if half and t.dtype == torch.float32 else t for name, t in tensors.items()}


def export(
    source: Path, out: Path, *, weights: str = "ema", half: bool = False, overwrite: bool = False
) -> Path:
    """Write the weights of a run, model or tokenizer directory as a directory to share.

    Args:
        source: a run (its newest checkpoint), model or tokenizer directory, or ``builtin``.
        out: the model or tokenizer directory to make.
        weights: ``ema`` or ``raw``, of a run.
        half: store float16, which halves the size and changes weights by 5e-4 of their value at most.
        overwrite: replace a directory that is there.

    Returns:
        ``out``.

    Raises:
        InputError: there is nothing at ``source``.
        ArtifactError: it is incomplete or damaged.
        OutputError: ``out`` exists and ``overwrite`` is false, or is not a directory of the same kind.
    """
    source = named(source)
    if not source.exists():
        raise InputError(f"nothing to export at {source}: it does not exist")
    if source.resolve() == out.resolve():
        raise ConfigError(f"{out} is what is to be exported; choose another place to write to")
    check_output(out, overwrite)
    record = read_json(source / "config.json", "a run, model or tokenizer directory")
    is_tokenizer = record.get("format") == TOKENIZER_FORMAT
    _check_replaceable(out, TOKENIZER_FORMAT if is_tokenizer else MODEL_FORMAT)
    if is_tokenizer:
        _export_tokenizer(source, out, half)
    else:
        _export_model(source, out, weights, half)
    return out


def _check_replaceable(out: Path, kind: str) -> None:
    """Refuse to replace anything but a directory of the kind that is to be written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    config = out / "config.json"
    if not config.is_file() or read_json(config, _WHATS[kind]).get("format") != kind:
        raise OutputError(
            f"{out} is not {_WHATS[kind]}, so --overwrite does not replace it; choose another place"
        )


def _check_keys(source: Path, record: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in record:
            raise ArtifactError(f"{source / 'config.json'} has no {key!r}")


def _export_tokenizer(source: Path, out: Path, half: bool) -> None:
    record = read_tokenizer_record(source)
    _check_keys(source, record, ("settings", "parents"))
    codec = load_tokenizer(source)
    parents = [parent("tokenizer", source.resolve(), codec.sha256), *record["parents"]]
    settings = {**record["settings"], "half": half}
    with replacing_directory(out) as temporary:
        save_tokenizer(temporary, _stored(codec.network.state_dict(), half), codec.config, settings, parents)


def _export_model(source: Path, out: Path, weights: str, half: bool) -> None:
    record, file, step = weights_of(source, weights)
    model = load_model(source, weights=weights)
    kept = ("network", "transformer", "resolution", "class_names", "tokenizer_sha256", "settings")
    _check_keys(source, record, (*kept, "parents"))
    own = "run" if record["format"] == RUN_FORMAT else "model"
    new = {
        **{key: record[key] for key in kept},
        "weights": weights if own == "run" else record.get("weights", "raw"),
        "half": half,
        "step": step,
        "parents": [parent(own, source.resolve(), sha256_file(file)), *record["parents"]],
    }
    assert file.name == ("ema.safetensors" if own == "run" and weights == "ema" else WEIGHTS_FILE)
    save_model(out, _stored(model.network.state_dict(), half), new, source / "tokenizer")
