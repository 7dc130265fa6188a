"""``pull``: download a published model and convert it into a model directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import constants

from maskgit_cli.config.base import offline as forbidden
from maskgit_cli.config.catalogue import CatalogueEntry, PublishedFile, published_model
from maskgit_cli.errors import OutputError, WeightsError
from maskgit_cli.formats.atomic import read_json, replacing_directory
from maskgit_cli.formats.claim import Outcome, claim
from maskgit_cli.formats.models import MODEL, MODEL_FORMAT, MODEL_OR_TOKENIZER, MODELS, WEIGHTS_FILE
from maskgit_cli.formats.records import Record
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.runtime.download import (
    AbsentError,
    RemoteFile,
    UnreachableError,
    ask_hub,
    ask_server,
    cached_from_hub,
    difference,
    download_file,
    download_from_hub,
)
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.weights.importing import plan_import
from maskgit_cli.weights.upload import check_repository

# What a model directory consists of, as `export --push` uploads it.
NATIVE_FILES = ("config.json", WEIGHTS_FILE, "tokenizer/config.json", f"tokenizer/{WEIGHTS_FILE}")


def pull(
    name: str,
    out: Path | None = None,
    *,
    weights: str = "ema",
    offline: bool = False,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Download a published model and convert it; cached files are not downloaded again.

    Files of the Hugging Face hub go through its own cache (``HF_HOME``, ``HF_ENDPOINT`` and
    ``HF_TOKEN`` have their usual meaning), files of web servers to ``HF_HOME/maskgit``.

    Args:
        name: of the catalogue, or ``user/name`` for a model directory on the hub.
        out: the model directory to make; None is ``models/NAME``.
        weights: ``ema`` or ``raw``, where a file has both.
        offline: use the caches only; no network access.
        overwrite: replace a directory that is there.
        reporter: receives progress updates.

    Returns:
        The model directory.

    Raises:
        ConfigError: there is no such model.
        WeightsError: a file is not available, or is not the published one.
        ArtifactError: a file does not hold the published network.
        OutputError: ``out`` exists and is not this model, or the file system refuses.
    """
    model = None
    if "/" in name:
        check_repository(name, "pull")
    else:
        model = published_model(name)
    out = out or MODELS / name.rsplit("/", 1)[-1]
    kind = MODEL_OR_TOKENIZER if model else MODEL

    def wanted() -> Record:
        return _wanted(name, model, out, weights, offline)

    with claim(out, kind, wanted, overwrite=overwrite, warn=reporter.warn) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(f"{out} is {name} already; use --overwrite to make it again")
        elif model is None:
            _pull_native(name, claimed.path, offline, reporter)
        else:
            paths = _download_all(name, model, offline, reporter)
            plan_import(paths[:1], paths[1:], model.heads, weights, reporter).write(claimed.path)
    return out


def _wanted(name: str, model: CatalogueEntry | None, out: Path, weights: str, offline: bool) -> Record:
    """The record of the model to compare with the one that is there, without downloading any weights.

    Raises:
        OutputError: another model than the published one is there.
    """
    if model is None:
        return read_json(download_published(PublishedFile(name, "config.json"), offline), "a model directory")
    if not holds_model(out, model, weights):
        raise OutputError(
            f"{out} exists and is not {name} (--weights {weights}); choose another place with --out, "
            "or pass --overwrite to replace it"
        )
    return read_json(out / "config.json", "a model directory")


def _download_all(name: str, model: CatalogueEntry, offline: bool, reporter: Reporter) -> list[Path]:
    """The files of a published model."""
    try:
        return [download_published(file, offline, reporter) for file in model.files]
    except AbsentError as error:
        if model.listed:
            raise
        raise WeightsError(
            f"{name} follows its authors' naming scheme, but they list no such file: {error}"
        ) from None


def holds_model(path: Path, model: CatalogueEntry, weights: str) -> bool:
    """Whether a directory is what :func:`pull` makes of a published model with these weights."""
    if not (path / "config.json").is_file():
        return False
    record = read_json(path / "config.json", "a model directory")
    names = {p["name"] for p in record.get("parents", [])}
    asked = record.get("settings", {}).get("weights")
    return record.get("format") == MODEL_FORMAT and model.weights.name in names and asked == weights


def _pull_native(repository: str, out: Path, offline: bool, reporter: Reporter) -> Path:
    """A model directory that ``export --push`` uploaded; it is opened and checked before it is renamed."""
    paths = [download_published(PublishedFile(repository, name), offline, reporter) for name in NATIVE_FILES]
    with replacing_directory(out) as temporary:
        for name, path in zip(NATIVE_FILES, paths, strict=True):
            (temporary / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, temporary / name)
        model, tokenizer = load_model(temporary), load_tokenizer(temporary)
        if model.tokenizer_sha256 != tokenizer.sha256:
            raise WeightsError(f"{repository} has a model and a tokenizer that do not belong together")
    return out


# --- one file ---------------------------------------------------------------------------------------


def download_published(file: PublishedFile, offline: bool = False, reporter: Reporter = SILENT) -> Path:
    """A published file in a cache, downloaded if necessary.

    Raises:
        WeightsError: it is not available, or is not the published one.
        OutputError: the file system refuses.
    """
    reason = "--offline" if offline else forbidden()
    if reason:
        path = cached(file)
        if path is None:
            raise WeightsError(f"{file.source}/{file.path} is not cached, and {reason} forbids downloads")
    else:
        path = _download(file, reporter)
    wrong = difference(path, file.size, f"sha256:{file.sha256}" if file.sha256 else None)
    if wrong:
        raise WeightsError(f"{path} is not the published {file.name} ({wrong}); remove it and pull again")
    return path


def _download(file: PublishedFile, reporter: Reporter) -> Path:
    """The file as its server has it now; a cached one if there is no answer."""
    url = f"{file.source}/{file.path}"
    try:
        remote = ask_hub(file.source, file.path) if file.on_hub else ask_server(url)
    except UnreachableError as error:
        path = cached(file)
        if path is None:
            raise
        reporter.warn(f"{error}; using {path} instead")
        return path
    _check_catalogue(file, remote)
    if file.on_hub:
        return download_from_hub(file.source, file.path, remote, reporter)
    return download_file(remote, _cache_path(file), reporter)


def _check_catalogue(file: PublishedFile, remote: RemoteFile) -> None:
    """Refuse a file that by its server's own account is not the published one, before it is downloaded."""
    kind, _, digest = (remote.digest or "").partition(":")
    other_size = None not in (file.size, remote.size) and file.size != remote.size
    other_bytes = kind == "sha256" and file.sha256 is not None and digest != file.sha256
    if other_size or other_bytes:
        raise WeightsError(
            f"{file.source}/{file.path} has {remote.size} bytes and {remote.digest}, so it is not the "
            "published file; download it yourself and use `maskgit import` if you trust it"
        )


def cached(file: PublishedFile) -> Path | None:
    """The file in a cache, without network access; None if it is not there.

    Raises:
        WeightsError: it is there, but damaged.
    """
    if file.on_hub:
        return cached_from_hub(file.source, file.path)
    path = _cache_path(file)
    return path if path.exists() else None


def _cache_path(file: PublishedFile) -> Path:
    """Where a file of a web server is cached."""
    return Path(constants.HF_HOME) / "maskgit" / file.name
