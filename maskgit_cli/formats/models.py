"""Tokenizer directories and model directories, and which model a command means.

A tokenizer directory holds ``config.json`` and ``model.safetensors``; a model directory holds the same
two and its ``tokenizer/``. The sha256 of a tokenizer or model is that of its ``model.safetensors``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from maskgit_cli.config.catalogue import CATALOGUE, similar_names
from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    read_json,
    replacing_directory,
    sha256_file,
    write_json,
)
from maskgit_cli.formats.runs import RUN_FORMAT, RUN_VERSION, newest_checkpoint
from maskgit_cli.formats.tensors import write_tensors

TOKENIZER_FORMAT, TOKENIZER_VERSION = "maskgit-tokenizer", 1
MODEL_FORMAT, MODEL_VERSION = "maskgit-model", 1
WEIGHTS_FILE = "model.safetensors"
# Where `pull` puts models, which any command then takes by name.
MODELS = Path("models")
_ASSETS = Path(__file__).parent.parent / "assets"


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
    if str(path) in CATALOGUE:
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
