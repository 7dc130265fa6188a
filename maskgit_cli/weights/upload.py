"""Model directories on the Hugging Face hub: their model card, and uploading them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.utils import HfHubHTTPError

from maskgit_cli.errors import ConfigError, OutputError
from maskgit_cli.formats.atomic import CREATED_BY, read_json, sha256_file, write_bytes
from maskgit_cli.runtime.download import TRANSPORT_ERRORS, brief, hub_endpoint
from maskgit_cli.runtime.progress import SILENT, Reporter

CARD = "README.md"
TAGS = ["maskgit", "masked-image-modeling", "class-conditional"]


def check_repository(name: str, what: str = "--push") -> None:
    """Check that a repository's name is valid.

    Args:
        name: ``user/name``.
        what: the option or command it was given to, for the error.

    Raises:
        ConfigError: it is not ``user/name``.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"{what} {name}: must be user/name, a repository of the Hugging Face hub")


def upload(folder: Path, repository: str, license: str | None = None, reporter: Reporter = SILENT) -> str:
    """Upload a directory that ``export`` made, with a model card.

    Args:
        folder: the directory; its model card is written there as README.md.
        repository: ``user/name``; it is created if necessary.
        license: of the weights, as the hub names it; None states none.
        reporter: receives the result.

    Returns:
        The address of the repository.

    Raises:
        OutputError: the hub cannot be reached or rejects the upload.
    """
    write_bytes(folder / CARD, str(model_card(folder, repository, license)).encode())
    reporter.info(f"uploading {folder} to {repository}")
    api = HfApi(endpoint=hub_endpoint(), library_name="maskgit-cli")
    with _rejections(folder, repository):
        api.create_repo(repository, exist_ok=True)
        # One commit, so that no download gets a part of it.
        message = f"Upload with {CREATED_BY}"
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    if license is None:
        reporter.warn("the model card states no license; add one with --license, for example --license mit")
    url = f"{hub_endpoint()}/{repository}"
    reporter.info(f"uploaded to {url}")
    return url


@contextmanager
def _rejections(folder: Path, repository: str) -> Iterator[None]:
    """Turn the hub's reasons for not taking an upload into one line."""
    kept = f"{folder} is written; fix this and rerun with --overwrite"
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = {
            401: "no token was sent, or it is wrong: set HF_TOKEN to one with write access",
            403: "the token has no write access there",
            429: "too many requests; try again later",
        }.get(status, "the request was rejected")
        raise OutputError(
            f"cannot upload to {repository}: {reason} (HTTP status {status}); {kept}"
        ) from error
    except TRANSPORT_ERRORS as error:
        raise OutputError(f"the hub cannot be reached for {repository}: {brief(error)}; {kept}") from error


# --- the model card ---------------------------------------------------------------------------------


def model_card(folder: Path, repository: str, license: str | None) -> ModelCard:
    """The model card of a directory that ``export`` made."""
    name = repository.rsplit("/", 1)[-1]
    config = folder / "config.json"
    record = read_json(config, "a model or tokenizer directory") if config.exists() else {}
    data = ModelCardData(
        library_name="maskgit-cli",
        pipeline_tag="unconditional-image-generation",
        tags=TAGS,
        license=license,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name}\n",
        _description(record),
        _usage(record, repository, name),
        _files(folder),
        _settings("Sampling settings", record.get("sampler", {})),
        _settings("Training settings", record.get("settings", {})),
        _parents(record),
    ]
    return ModelCard("\n".join(part for part in parts if part))


def _description(record: Mapping[str, Any]) -> str:
    if "resolution" not in record:
        what = "A tokenizer" if record else "Weights in the files of MaskGIT in PyTorch v1.0"
        return f"{what} for masked generative image models, written by {CREATED_BY}.\n"
    classes = len(record["class_names"])
    text = f"A masked generative transformer ({record['network']}) for images of {record['resolution']} px"
    text += f" in {classes} classes" if classes else ""
    steps = f" after {record['step']:,} training steps" if record.get("step") else ""
    kind = "EMA weights" if record.get("weights") == "ema" else "weights"
    return f"{text}, with its tokenizer. It has the {kind}{steps}, written by {CREATED_BY}.\n"


def _usage(record: Mapping[str, Any], repository: str, name: str) -> str:
    if "resolution" not in record:
        return ""
    lines = ["```", f"maskgit pull {repository}", f"maskgit sample models/{name} --n 16", "```"]
    return "\n".join(["## Usage\n", *lines, ""])


def _table(title: str, names: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {a} | {b} |" for a, b in (names, ("---", "---"), *rows)]
    return "\n".join([f"## {title}\n", *lines, ""]) if rows else ""


def _files(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CARD)
    rows = [(f"`{p.relative_to(folder).as_posix()}`", f"`{sha256_file(p)}`") for p in files]
    return _table("Files", ("file", "sha256"), rows)


def _settings(title: str, settings: Mapping[str, Any]) -> str:
    rows = [(f"`{key}`", f"`{value}`") for key, value in settings.items()]
    return _table(title, ("setting", "value"), rows)


def _parents(record: Mapping[str, Any]) -> str:
    rows = [(f"{p['kind']} {p['name']}", f"`{p['sha256']}`") for p in record.get("parents", [])]
    return _table("Made from", ("artifact", "sha256"), rows)
