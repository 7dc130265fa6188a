"""The Hugging Face hub: what it has, and the cache it keeps here.

Its library would fetch files too, but it checks no digest, and its newer versions begin anew after every
interruption. So what is fetched is put where its cache keeps files of that digest, and it does the rest.
``HF_ENDPOINT``, ``HF_HOME`` and ``HF_TOKEN`` mean what they mean to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import HfHubHTTPError, LocalEntryNotFoundError, build_hf_headers

from maskgit_cli.errors import WeightsError
from maskgit_cli.runtime.download import RemoteFile, UnreachableError, difference, refused

# What its library raises where there is no answer. The first base of its error is that of the HTTP
# library it uses, which has changed over time.
TRANSPORT_ERRORS: tuple[type[BaseException], ...] = (HfHubHTTPError.__bases__[0], OSError)


def hub_endpoint() -> str:
    """Address of the hub or of a mirror."""
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def brief(error: BaseException) -> str:
    """An error's text in one line of reasonable length."""
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Say in one line what the hub's library raises while a file is asked for."""
    try:
        yield
    except LocalEntryNotFoundError as error:  # what the library makes of most failures
        raise UnreachableError(f"{url} cannot be reached: {brief(error.__cause__ or error)}") from error
    except HfHubHTTPError as error:
        retry_after = error.response.headers.get("Retry-After")
        raise refused(url, error.response.status_code, retry_after) from error
    except TRANSPORT_ERRORS as error:
        raise UnreachableError(f"{url} cannot be reached: {brief(error)}") from error


def _digest_of(tag: str) -> str | None:
    """The digest that the hub's tag of a file is: large ones are tagged by sha256, small ones by git."""
    kind = {64: "sha256", 40: "git"}.get(len(tag)) if re.fullmatch("[0-9a-f]+", tag) else None
    return f"{kind}:{tag}" if kind else None


def find_on_hub(repository: str, path: str) -> tuple[RemoteFile, Path]:
    """What the hub says of a file, and where its cache keeps that.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: it refuses.
    """
    url = hf_hub_url(repository, path, endpoint=hub_endpoint())
    with _errors(url):
        found = get_hf_file_metadata(url)
    if found.etag is None:
        raise WeightsError(f"{url} cannot be fetched: its server doesn't say which version it has")
    same_host = urlsplit(found.location).netloc == urlsplit(hub_endpoint()).netloc
    headers = build_hf_headers() if same_host else {}  # which may hold the user's token
    remote = RemoteFile(found.location, found.size, _digest_of(found.etag), headers)
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    return remote, folder / "blobs" / found.etag


def enter_in_cache(repository: str, path: str) -> Path:
    """Have the library give the bytes that :func:`find_on_hub` places their name and revision.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: it refuses.
    """
    with _errors(hf_hub_url(repository, path, endpoint=hub_endpoint())):
        return Path(hf_hub_download(repository, path, endpoint=hub_endpoint()))


def cached_from_hub(repository: str, path: str) -> Path | None:
    """A file in the hub's cache, without asking the hub; None if it isn't there.

    Raises:
        WeightsError: it is there, but damaged.
    """
    found = try_to_load_from_cache(repository, path)
    if not isinstance(found, str):
        return None
    # The cache names bytes by the hub's tag; what it gives is a link to them.
    wrong = difference(Path(found), None, _digest_of(Path(found).resolve().name))
    if wrong:
        raise WeightsError(f"{found} is damaged ({wrong}); remove it and pull again")
    return Path(found)
