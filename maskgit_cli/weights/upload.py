"""Model directories on the Hugging Face hub: their page, and uploading them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import HfHubHTTPError

from maskgit_cli.errors import ConfigError, OutputError
from maskgit_cli.formats.atomic import CREATED_BY, read_json, sha256_file, write_bytes
from maskgit_cli.runtime.hub import TRANSPORT_ERRORS, brief, hub_endpoint
from maskgit_cli.runtime.progress import SILENT, Reporter

CARD = "README.md"


def check_repository(name: str, what: str = "--push") -> None:
    """Make sure that a repository's name can be one.

    Args:
        name: ``user/name``.
        what: what it was given as, for the error.

    Raises:
        ConfigError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"{what} {name}: must be user/name, a repository of the Hugging Face hub")


def upload(folder: Path, repository: str, license: str | None = None, reporter: Reporter = SILENT) -> str:
    """Upload a directory that ``export`` made, with a page that says what it is.

    Args:
        folder: the directory; its page is written there as README.md.
        repository: ``user/name``; it is made if it isn't there.
        license: of the weights, as the hub calls it; None states none.
        reporter: told of the result.

    Returns:
        The address of the page.

    Raises:
        OutputError: the hub can't be reached or refuses.
    """
    write_bytes(folder / CARD, model_card(folder, repository, license).encode())
    reporter.info(f"uploading {folder} to {repository}")
    api = HfApi(endpoint=hub_endpoint(), library_name="maskgit-cli")
    with _refusals(folder, repository):
        api.create_repo(repository, exist_ok=True)
        # One commit, so that nobody ever gets a part of it.
        files = [CommitOperationAdd(p.relative_to(folder).as_posix(), p) for p in _files_in(folder)]
        api.create_commit(repository, files, commit_message=f"Upload with {CREATED_BY}")
    if license is None:
        reporter.warn("the page states no license; --license mit, say, states one")
    url = f"{hub_endpoint()}/{repository}"
    reporter.info(f"uploaded to {url}")
    return url


@contextmanager
def _refusals(folder: Path, repository: str) -> Iterator[None]:
    """Say in one line why the hub does not take an upload."""
    kept = f"{folder} is written; mend that, then run the same command with --overwrite"
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        told = {
            401: "no token was sent, or it is wrong: set HF_TOKEN to one that may write",
            403: "the token may not write there",
            429: "too many requests came from here; try again later",
        }.get(status, "it refuses")
        raise OutputError(
            f"the hub does not take {repository}: {told} (HTTP status {status}); {kept}"
        ) from error
    except TRANSPORT_ERRORS as error:
        raise OutputError(f"the hub cannot be reached for {repository}: {brief(error)}; {kept}") from error


# --- the page ---------------------------------------------------------------------------------------


def model_card(folder: Path, repository: str, license: str | None) -> str:
    """The page of a directory that ``export`` made, in Markdown with the hub's YAML header."""
    name = repository.rsplit("/", 1)[-1]
    config = folder / "config.json"
    record = read_json(config, "a model or tokenizer directory") if config.exists() else {}
    parts = [
        _header(license),
        f"# {name}\n",
        _what(record),
        _use(record, repository, name),
        _files(folder),
        _values("Drawn with", record.get("sampler", {})),
        _values("Trained with", record.get("settings", {})),
        _parents(record),
    ]
    return "\n".join(part for part in parts if part)


def _header(license: str | None) -> str:
    lines = ["library_name: maskgit-cli", "pipeline_tag: unconditional-image-generation"]
    lines += ["tags:", "- maskgit", "- masked-image-modeling", "- class-conditional"]
    if license:
        lines.append(f"license: {license}")
    return "\n".join(["---", *lines, "---", ""])


def _what(record: Mapping[str, Any]) -> str:
    if "resolution" not in record:
        what = "A tokenizer" if record else "Weights in the files of MaskGIT in PyTorch v1.0"
        return f"{what} of masked generative image models, written by {CREATED_BY}.\n"
    classes = len(record["class_names"])
    text = f"A masked generative transformer ({record['network']}) that draws images of "
    text += f"{record['resolution']} px" + (f" in {classes} classes" if classes else "")
    steps = f" after {record['step']:,} training steps" if record.get("step") else ""
    averaged = "averaged " if record.get("weights") == "ema" else ""
    return f"{text}, with its tokenizer. It holds the {averaged}weights{steps}, written by {CREATED_BY}.\n"


def _use(record: Mapping[str, Any], repository: str, name: str) -> str:
    if "resolution" not in record:
        return ""
    lines = ["```", f"maskgit pull {repository}", f"maskgit sample models/{name} --n 16", "```"]
    return "\n".join(["## Use\n", *lines, ""])


def _table(title: str, names: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {a} | {b} |" for a, b in (names, ("---", "---"), *rows)]
    return "\n".join([f"## {title}\n", *lines, ""]) if rows else ""


def _files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _files(folder: Path) -> str:
    named = {p.relative_to(folder).as_posix(): p for p in _files_in(folder) if p.name != CARD}
    rows = [(f"`{name}`", f"`{sha256_file(path)}`") for name, path in named.items()]
    return _table("Files", ("file", "sha256"), rows)


def _values(title: str, settings: Mapping[str, Any]) -> str:
    rows = [(f"`{key}`", f"`{value}`") for key, value in settings.items()]
    return _table(title, ("setting", "value"), rows)


def _parents(record: Mapping[str, Any]) -> str:
    rows = [(f"{p['kind']} {p['name']}", f"`{p['sha256']}`") for p in record.get("parents", [])]
    return _table("Made from", ("what", "sha256"), rows)
