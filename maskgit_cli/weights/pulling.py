"""``pull``: a published model from where its authors put it, as a model directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import constants

from maskgit_cli.config.base import offline as forbidden
from maskgit_cli.config.catalogue import Published, PublishedFile, published_model
from maskgit_cli.errors import WeightsError
from maskgit_cli.formats.atomic import check_output, read_json, replacing_directory
from maskgit_cli.formats.models import MODEL_FORMAT, MODELS, WEIGHTS_FILE
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.runtime.download import (
    AbsentError,
    RemoteFile,
    UnreachableError,
    ask_server,
    difference,
    fetch_file,
)
from maskgit_cli.runtime.hub import cached_from_hub, enter_in_cache, find_on_hub
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.weights.importing import import_weights
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
    """Fetch a published model and convert it; what was fetched before is taken from the caches.

    Files of the Hugging Face hub go through its own cache (``HF_HOME``, ``HF_ENDPOINT`` and
    ``HF_TOKEN`` mean what they mean there), files of web servers to ``HF_HOME/maskgit``.

    Args:
        name: of the catalogue, or ``user/name`` for a model directory that somebody uploaded.
        out: the model directory to make; None is ``models/NAME``.
        weights: ``ema`` or ``raw``, where a file has both.
        offline: use the caches only.
        overwrite: replace a directory that is there.
        reporter: told of progress.

    Returns:
        The model directory.

    Raises:
        ConfigError: there is no such model.
        WeightsError: a file cannot be had, or isn't the published one.
        ArtifactError: a file isn't what its family's files are.
        OutputError: ``out`` is there already and isn't this model, or the file system refuses.
    """
    model = None
    if "/" in name:
        check_repository(name, "pull")
    else:
        model = published_model(name)
    out = out or MODELS / name.rsplit("/", 1)[-1]
    if model and not overwrite and holds_model(out, model, weights):
        reporter.info(f"{out} is {name} already; --overwrite makes it anew")
        return out
    check_output(out, overwrite)
    if model is None:
        return _pull_native(name, out, offline, reporter)
    try:
        paths = [fetch_published(file, offline, reporter) for file in model.files]
    except AbsentError as error:
        if model.listed:
            raise
        raise WeightsError(
            f"{name} is a name of its authors' scheme, but they list no such file: {error}"
        ) from None
    return import_weights(
        paths[:1],
        out,
        tokenizer=paths[1:],
        heads=model.heads,
        weights=weights,
        overwrite=overwrite,
        reporter=reporter,
    )


def holds_model(path: Path, model: Published, weights: str) -> bool:
    """Whether a directory is what :func:`pull` makes of a published model, with these weights asked for."""
    if not (path / "config.json").is_file():
        return False
    record = read_json(path / "config.json", "a model directory")
    names = {p["name"] for p in record.get("parents", [])}
    asked = record.get("settings", {}).get("weights")
    return record.get("format") == MODEL_FORMAT and model.weights.name in names and asked == weights


def _pull_native(repository: str, out: Path, offline: bool, reporter: Reporter) -> Path:
    """A model directory that ``export --push`` uploaded; it is opened before it gets its name."""
    paths = [fetch_published(PublishedFile(repository, name), offline, reporter) for name in NATIVE_FILES]
    with replacing_directory(out) as temporary:
        for name, path in zip(NATIVE_FILES, paths, strict=True):
            (temporary / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, temporary / name)
        model, tokenizer = load_model(temporary), load_tokenizer(temporary)
        if model.tokenizer_sha256 != tokenizer.sha256:
            raise WeightsError(f"{repository} holds a model and a tokenizer that don't belong together")
    return out


# --- one file ---------------------------------------------------------------------------------------


def fetch_published(file: PublishedFile, offline: bool = False, reporter: Reporter = SILENT) -> Path:
    """A published file in a cache, fetched if need be.

    Raises:
        WeightsError: it cannot be had, or isn't the published one.
        OutputError: the file system refuses.
    """
    reason = "--offline" if offline else forbidden()
    if reason:
        path = _cached(file)
        if path is None:
            raise WeightsError(f"{file.source}/{file.path} is in no cache, and {reason} forbids to fetch it")
    else:
        path = _fetch(file, reporter)
    wrong = difference(path, file.size, f"sha256:{file.sha256}" if file.sha256 else None)
    if wrong:
        raise WeightsError(f"{path} is not the published {file.name} ({wrong}); remove it and pull again")
    return path


def _fetch(file: PublishedFile, reporter: Reporter) -> Path:
    """The file as its server has it now; from a cache if it has that one, or if there is no answer."""
    try:
        remote, place = _find(file)
    except UnreachableError as error:
        path = _cached(file)
        if path is None:
            raise
        reporter.warn(f"{error}; taking {path} instead")
        return path
    _hold_to_catalogue(file, remote)
    if place.exists() and (wrong := difference(place, remote.size, remote.digest)):
        reporter.warn(f"{place} is damaged ({wrong}) and fetched anew")
        place.unlink()
    if not place.exists():
        fetch_file(remote, place, reporter)
    return enter_in_cache(file.source, file.path) if file.on_hub else place


def _hold_to_catalogue(file: PublishedFile, remote: RemoteFile) -> None:
    """Refuse a file whose server says that it isn't the published one, before it is fetched."""
    kind, _, digest = (remote.digest or "").partition(":")
    other_size = None not in (file.size, remote.size) and file.size != remote.size
    other_bytes = kind == "sha256" and file.sha256 is not None and digest != file.sha256
    if other_size or other_bytes:
        raise WeightsError(
            f"{remote.shown} has {remote.size} bytes and {remote.digest}, so it is not the file that was "
            "published; get it by hand and use `maskgit import` if you trust it"
        )


def _cached(file: PublishedFile) -> Path | None:
    """The file in a cache, without asking anybody; None if it isn't there.

    Raises:
        WeightsError: it is there, but damaged.
    """
    if file.on_hub:
        return cached_from_hub(file.source, file.path)
    path = _place_of(file)
    return path if path.exists() else None


def _find(file: PublishedFile) -> tuple[RemoteFile, Path]:
    """What a file's server says of it, and where it is kept."""
    if file.on_hub:
        return find_on_hub(file.source, file.path)
    return ask_server(f"{file.source}/{file.path}"), _place_of(file)


def _place_of(file: PublishedFile) -> Path:
    """Where a file of a web server is kept."""
    return Path(constants.HF_HOME) / "maskgit" / file.name
