"""Tokenizer directories and model directories, and which model a command means.

A tokenizer directory holds ``config.json`` and ``model.safetensors``; a model directory holds the same
two and its ``tokenizer/``. The sha256 of a tokenizer or model is that of its ``model.safetensors``, which
``config.json`` records as ``weights_sha256``: the record that has it is written last and completes them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maskgit_cli.config.catalogue import CATALOGUE, similar_names
from maskgit_cli.errors import ArtifactError, InputError, MaskGITError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    is_sha256,
    read_json,
    replacing_directory,
    sha256_file,
    write_json,
)
from maskgit_cli.formats.claim import Found, OutputKind
from maskgit_cli.formats.records import Record
from maskgit_cli.formats.runs import (
    RUN_FORMAT,
    RUN_VERSION,
    WEIGHTS_DIGEST,
    WEIGHTS_FILE,
    has_weights,
    newest_checkpoint,
    read_state,
)
from maskgit_cli.formats.tensors import write_tensors

if TYPE_CHECKING:  # `maskgit info` reads records without torch
    from torch import Tensor

TOKENIZER_FORMAT, TOKENIZER_VERSION = "maskgit-tokenizer", 2
MODEL_FORMAT, MODEL_VERSION = "maskgit-model", 2
# `pull` writes models here; every command finds them by name.
MODELS = Path("models")
# `tokenize` looks here for the tokenizer that it uses by default, the published model's of this name.
TOKENIZERS_FOLDER, DEFAULT_TOKENIZER = Path("tokenizers"), "maskgit-256"
_ASSETS = Path(__file__).parent.parent / "assets"


def builtin_tokenizer() -> Path:
    """Directory of the tokenizer in the package (see docs/builtin.md)."""
    return builtin_model() / "tokenizer"


def local_tokenizer() -> Path | None:
    """Directory of the default tokenizer in the working directory, if one is there."""
    for path in (MODELS / DEFAULT_TOKENIZER / "tokenizer", TOKENIZERS_FOLDER / DEFAULT_TOKENIZER):
        if (path / WEIGHTS_FILE).is_file():
            return path
    return None


def builtin_model() -> Path:
    """Directory of the model in the package (see docs/builtin.md)."""
    return _ASSETS / "model"


def builtin_images() -> Path:
    """Zip file of the images in the package, one folder per class, with their credits."""
    return _ASSETS / "images.zip"


def named(path: Path) -> Path:
    """The directory that an argument names: an existing path, ``builtin``, or a model under ``models/``.

    A folder called ``builtin`` without a record (of images, say) does not count.
    """
    if path == Path("builtin") and not (path / "config.json").exists():
        return builtin_model()
    if path.exists():
        return path
    pulled = MODELS / path
    return pulled if pulled.is_dir() else path


def find_named(path: Path, what: str) -> Path:
    """The existing directory that an argument names; see :func:`named`.

    Args:
        path: the argument.
        what: kind of directory, for the message.

    Raises:
        InputError: there is none; if a published model has that name, the message says how to get it.
    """
    found = named(path)
    if found.exists():
        return found
    if str(path) in CATALOGUE:
        raise InputError(f"no {what} at {path}, nor at {MODELS / path}; `maskgit pull {path}` downloads it")
    near = similar_names(str(path))
    hint = f"; did you mean the published {near[0]}?" if near else ""
    raise InputError(f"no {what} at {path}: it does not exist{hint}")


def format_of(path: Path) -> str | None:
    """The format of a model, tokenizer or run directory by its ``config.json``; None for anything else.

    Raises:
        ArtifactError: the file is damaged.
    """
    config = path / "config.json"
    found = read_json(config, "a maskgit artifact").get("format") if config.is_file() else None
    return found if found in (MODEL_FORMAT, TOKENIZER_FORMAT, RUN_FORMAT) else None


def run_of_checkpoint(path: Path) -> Path | None:
    """The run of ``RUN/checkpoints/step-N``; None if ``path`` is not a checkpoint."""
    whole = path.resolve()
    inside = whole.parent.name == "checkpoints" and (whole / "state.json").exists()
    return whole.parent.parent if inside else None


def newest_run(root: Path = Path("runs")) -> Path | None:
    """The run under ``root`` whose newest checkpoint is the latest, or None."""
    found = []
    for config in root.glob("[!.]*/config.json"):  # a hidden one is being replaced
        checkpoint = newest_checkpoint(config.parent)
        if checkpoint is not None:
            found.append((checkpoint.stat().st_mtime_ns, config.parent))
    return max(found)[1] if found else None


def tokenizer_directory(path: Path) -> Path:
    """The tokenizer directory at a path: itself, or the ``tokenizer/`` of a run or model directory.

    Raises:
        InputError: there is nothing at ``path``.
        ArtifactError: it is not a tokenizer, run or model directory.
    """
    inside = TOKENIZERS_FOLDER / path
    path = inside if not named(path).exists() and inside.is_dir() else find_named(path, "tokenizer")
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
    if not has_weights(path, record):
        raise ArtifactError(
            f"{path} has no {WEIGHTS_FILE}, or no digest of it: if its training was interrupted, "
            "run the same `maskgit train-vqgan` command again to finish it"
        )
    return record


def weights_digest(record: Record, path: Path) -> str | None:
    """The recorded sha256 of a model's or tokenizer's weights; None in version 1, which has none.

    Raises:
        ArtifactError: the record's is not a sha256.
    """
    digest = record.get(WEIGHTS_DIGEST)
    if not is_sha256(digest) and (digest is not None or record.get("version") != 1):
        raise ArtifactError(f"{path / 'config.json'} is damaged: its {WEIGHTS_DIGEST} is {digest!r}")
    return digest


def find_tokenizer(
    sha256: str, given: Path | None = None, near: Sequence[Path] = (), replaced: Path | None = None
) -> Path:
    """The directory of the tokenizer with this digest.

    Args:
        sha256: of its weights, as a token file or model records it.
        given: the one that the user named; no other is searched then.
        near: directories to search before the usual ones, which are the package's own tokenizer and those
            under ``tokenizers/``, ``runs/`` and ``models/`` of the working directory.
        replaced: a directory that is about to be replaced: a tokenizer inside it is refused.

    Raises:
        InputError: ``given`` does not exist.
        ArtifactError: ``given`` is another tokenizer, none of the directories holds the tokenizer, or only
            one that is about to be replaced.
    """
    if given is not None:
        directory = tokenizer_directory(given)
        found = _recorded_sha256(directory)
        if found != sha256:
            raise ArtifactError(
                f"{given} is tokenizer {found[:12]}…, but the tokens came from {sha256[:12]}…; "
                "name the one that they came from"
            )
        return _outside(directory, replaced)
    patterns = ("tokenizers/*", "runs/*/tokenizer", "models/*/tokenizer")
    usual = sorted(path for pattern in patterns for path in Path().glob(pattern))
    searched = [*near, builtin_tokenizer(), *usual]
    for directory in sorted(searched, key=lambda path: _is_inside(path, replaced)):  # those last
        recorded = None
        with contextlib.suppress(MaskGITError):  # one that is damaged or unfinished is not searched for
            recorded = _recorded_sha256(directory)
        if recorded == sha256:
            return _outside(directory, replaced)
    raise ArtifactError(
        f"the tokens came from tokenizer {sha256[:12]}…, which is not here; name it with --tokenizer"
    )


def _recorded_sha256(directory: Path) -> str:
    """The digest of a tokenizer's weights by its record, which loading compares with them."""
    record = read_tokenizer_record(directory)
    return weights_digest(record, directory) or sha256_file(directory / WEIGHTS_FILE)


def _is_inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _outside(directory: Path, replaced: Path | None) -> Path:
    """A tokenizer's directory, unless it is inside one that is about to be replaced."""
    if _is_inside(directory, replaced):
        raise ArtifactError(
            f"the tokenizer {directory} is inside {replaced}, which --overwrite would delete; "
            "copy it elsewhere first, and name that with --tokenizer"
        )
    return directory


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the two files of a tokenizer directory atomically.

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
    """Write a model directory atomically: ``record`` (see docs/artifacts.md), weights and tokenizer.

    Args:
        path: of the model directory.
        tensors: of the transformer.
        record: may omit ``tokenizer_sha256``.
        tokenizer: a tokenizer directory to copy, or a function that writes one at the path it is given.

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
        write_weights(temporary, tensors, full)


def write_weights(path: Path, tensors: Mapping[str, Tensor], record: Record) -> None:
    """Write the weights of a tokenizer or model directory, and last the record that has their digest.

    Raises:
        OutputError: the file system refuses.
    """
    write_tensors(path / WEIGHTS_FILE, tensors)
    write_json(path / "config.json", {**record, WEIGHTS_DIGEST: sha256_file(path / WEIGHTS_FILE)})


class Weights(NamedTuple):
    """Where a transformer's weights are.

    Attributes:
        record: of the run or model directory.
        file: the safetensors file.
        step: optimizer steps of the weights, where known.
        sha256: that the file must have; None where a model of version 1 does not record it.
    """

    record: dict[str, Any]
    file: Path
    step: int | None
    sha256: str | None


def weights_of(path: Path, weights: str = "ema") -> Weights:
    """The weights of a run (its newest checkpoint), checkpoint or model directory.

    Raises:
        InputError: there is nothing at ``path``.
        ArtifactError: it is none of these, or a run without a checkpoint.
    """
    path = find_named(path, "run or model")
    run = run_of_checkpoint(path)
    record = read_json((run or path) / "config.json", "a run or model directory")
    if record.get("format") == RUN_FORMAT:
        check_format(record, path, RUN_FORMAT, RUN_VERSION)
        checkpoint = path if run else newest_checkpoint(path)
        if checkpoint is None:
            raise ArtifactError(f"{path} has no checkpoint yet; run its `maskgit train` command to write one")
        name = "ema.safetensors" if weights == "ema" else WEIGHTS_FILE
        state = read_state(checkpoint)
        return Weights(record, checkpoint / name, state.step, state.sha256.get(name))
    check_format(record, path, MODEL_FORMAT, MODEL_VERSION)
    return Weights(record, path / WEIGHTS_FILE, record.get("step"), weights_digest(record, path))


# --- claiming a model or tokenizer directory --------------------------------------------------------


def _find(path: Path, name: str, version: int) -> Found | None:
    if not path.exists() or format_of(path) != name:
        return None
    record = read_json(path / "config.json", "a model or tokenizer directory")
    check_format(record, path, name, version)
    return Found(record, has_weights(path, record))


def _find_model(path: Path) -> Found | None:
    return _find(path, MODEL_FORMAT, MODEL_VERSION)


def _find_tokenizer(path: Path) -> Found | None:
    return _find(path, TOKENIZER_FORMAT, TOKENIZER_VERSION)


def _find_either(path: Path) -> Found | None:
    return _find_model(path) or _find_tokenizer(path)


def _compared(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "tokenizer_sha256"}


MODEL = OutputKind("a model directory", _find_model, compared=_compared)
TOKENIZER = OutputKind("a tokenizer directory", _find_tokenizer, compared=_compared)
MODEL_OR_TOKENIZER = OutputKind("a model or tokenizer directory", _find_either, compared=_compared)
