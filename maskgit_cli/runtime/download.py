"""Downloads: files of the Hugging Face hub, and files of plain web servers, held to size and digest.

``huggingface_hub`` does the work, so HF_HOME, HF_ENDPOINT and HF_TOKEN have their usual meaning. It checks
no digest, and since version 1.18 ``hf_hub_download`` starts over after an interruption. So its ``http_get``
fills the blob of its cache here, which continues and is checked before it gets its name; then
``hf_hub_download`` finds the blob and links it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.file_download import get_hf_file_metadata, http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers, tqdm

from maskgit_cli.errors import WeightsError
from maskgit_cli.formats.atomic import disk_errors
from maskgit_cli.runtime.progress import SILENT, Reporter

_HUB_LOGGER = logging.getLogger("huggingface_hub")
# Seconds without an answer after which a server counts as unreachable.
TIMEOUT = 20
# What the hub's library raises where there is no answer. The first base of its error is that of the HTTP
# library it uses, which has changed between versions.
TRANSPORT_ERRORS: tuple[type[BaseException], ...] = (HfHubHTTPError.__bases__[0], OSError)


class UnreachableError(WeightsError):
    """A server does not answer at all, so that a cached file may be used instead."""


class AbsentError(WeightsError):
    """A server answers that it has no such file."""


class RemoteFile(NamedTuple):
    """A file on a server, and what the server says about it.

    Attributes:
        url: its address; may be signed.
        size: in bytes, where known.
        digest: ``sha256:…``, ``md5:…`` or ``git:…`` (git's blob id), in hexadecimal; None where unknown.
        tag: the name of its blob in the hub's cache; None on other servers.
        headers: of the request.
        address: what messages call it; None is the url without its signature.
    """

    url: str
    size: int | None
    digest: str | None
    tag: str | None = None
    headers: dict[str, str] | None = None
    address: str | None = None

    @property
    def shown(self) -> str:
        """Its address in messages."""
        return self.address or self.url.split("?")[0]


# --- digests ----------------------------------------------------------------------------------------


def digest_file(path: Path, kind: str) -> str:
    """The digest of a file's bytes, in hexadecimal; ``kind`` is ``sha256``, ``md5`` or ``git``."""
    with open(path, "rb") as file:
        if kind != "git":
            return hashlib.file_digest(file, kind).hexdigest()
        # Git hashes a header with the bytes; the hub names its small files by that.
        hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        while piece := file.read(1 << 20):
            hashed.update(piece)
        return hashed.hexdigest()


def difference(path: Path, size: int | None, digest: str | None) -> str | None:
    """How a file differs from the one with this size and digest, in words; None if it does not."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes, not {size}"
    kind, _, wanted = (digest or "").partition(":")
    if kind and (got := digest_file(path, kind)) != wanted:
        return f"{kind} {got[:12]}…, not {wanted[:12]}…"
    return None


def _digest_of(tag: str | None) -> str | None:
    """The digest in the hub's tag of a file: sha256 for large files, git's for small ones."""
    kind = {64: "sha256", 40: "git"}.get(len(tag or "")) if re.fullmatch("[0-9a-f]+", tag or "") else None
    return f"{kind}:{tag}" if kind else None


# --- errors and progress ----------------------------------------------------------------------------


def refused(what: str, status: int, retry_after: str | None = None) -> WeightsError:
    """The error for a server's answer that is not the file: what it means, and what to do."""
    if status == 401:
        reason = "not found, or authentication is required (set HF_TOKEN)"
    elif status == 403:
        reason = "access is forbidden; its page may ask to accept terms (then set HF_TOKEN)"
    elif status in (404, 410):
        reason = "not found"
    elif status == 429:
        when = f"in {retry_after} s" if retry_after and retry_after.isdigit() else "later"
        reason = f"too many requests; try again {when}"
    elif status >= 500:
        reason = "the server failed; try again later"
    else:
        reason = "the server rejects the request"
    kind = AbsentError if status in (404, 410) else WeightsError
    return kind(f"cannot download {what}: {reason} (HTTP status {status})")


def brief(error: BaseException) -> str:
    """An error's text in one line of reasonable length."""
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


@contextmanager
def _errors(url: str, transfer: bool = False) -> Iterator[None]:
    """Turn what the hub's library raises into one line that names the address, without its signature.

    Args:
        url: the address.
        transfer: whether a file is being transferred, so that the server did answer.
    """
    level = _HUB_LOGGER.level
    _HUB_LOGGER.setLevel(logging.ERROR)  # it logs every retry, with the signed address
    try:
        yield
    except LocalEntryNotFoundError as error:  # what the library makes of most failures
        raise UnreachableError(f"{url} cannot be reached: {brief(error.__cause__ or error)}") from error
    except HfHubHTTPError as error:
        raise refused(url, error.response.status_code, error.response.headers.get("Retry-After")) from error
    except TRANSPORT_ERRORS as error:
        if transfer:
            raise WeightsError(
                f"the download of {url} broke off ({brief(error)}); run the same command again to resume"
            ) from error
        raise UnreachableError(f"{url} cannot be reached: {brief(error)}") from error
    finally:
        _HUB_LOGGER.setLevel(level)


@contextmanager
def _progress(name: str, size: int | None, done: int, reporter: Reporter) -> Iterator[type[tqdm]]:
    """A tqdm class whose updates go to the reporter, as the hub's library takes one."""
    with reporter.task(f"downloading {name}", size or 0, done, unit="bytes") as task:

        class Bar(tqdm):
            """Passes the bytes on, and shows nothing itself."""

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                task.advance(int(n or 0))

        yield Bar


# --- the hub ----------------------------------------------------------------------------------------


def hub_endpoint() -> str:
    """Address of the hub or of a mirror."""
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def ask_hub(repository: str, path: str) -> RemoteFile:
    """What the hub says about a file.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: it refuses.
    """
    url = hf_hub_url(repository, path, endpoint=hub_endpoint())
    with _errors(url):
        found = get_hf_file_metadata(url, timeout=TIMEOUT, endpoint=hub_endpoint())
    if found.etag is None:
        raise WeightsError(f"cannot download {url}: its server does not say which version it has")
    # Large files are on other hosts, which must not see the user's token.
    same_host = urlsplit(found.location).netloc == urlsplit(hub_endpoint()).netloc
    headers = build_hf_headers() if same_host else None
    return RemoteFile(found.location, found.size, _digest_of(found.etag), found.etag, headers, url)


def cached_from_hub(repository: str, path: str) -> Path | None:
    """A file in the hub's cache, without asking the hub; None if it isn't there.

    Raises:
        WeightsError: it is there, but damaged.
    """
    found = try_to_load_from_cache(repository, path, cache_dir=constants.HF_HUB_CACHE)
    if not isinstance(found, str):
        return None
    # The cache names a blob by the hub's tag; what it gives out is a link to the blob.
    wrong = difference(Path(found), None, _digest_of(Path(found).resolve().name))
    if wrong:
        raise WeightsError(f"{found} is damaged ({wrong}); remove it and pull again")
    return Path(found)


def download_from_hub(repository: str, path: str, remote: RemoteFile, reporter: Reporter = SILENT) -> Path:
    """A file of the hub, from its cache if the right bytes are there, else downloaded.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: the hub refuses, or sends other bytes than it announces; those are removed.
        OutputError: the file system refuses.
    """
    assert remote.tag is not None
    cache = constants.HF_HUB_CACHE
    folder = Path(cache) / repo_folder_name(repo_id=repository, repo_type="model")
    download_file(remote, folder / "blobs" / remote.tag, reporter)
    with _errors(remote.shown, transfer=True), disk_errors(folder):
        return Path(hf_hub_download(repository, path, endpoint=hub_endpoint(), cache_dir=cache))


# --- plain web servers ------------------------------------------------------------------------------


def ask_server(url: str) -> RemoteFile:
    """What a web server says about a file: its size, and its md5 if it is one of Google's buckets.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: it refuses.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            sent = ",".join(answer.headers.get_all("x-goog-hash", []))  # crc32c=…,md5=… in base64
    except urllib.error.HTTPError as error:
        raise refused(url, error.code, error.headers.get("Retry-After")) from error
    except OSError as error:
        raise UnreachableError(f"{url} cannot be reached: {brief(error)}") from error
    md5 = re.search(r"md5=([A-Za-z0-9+/]{22}==)", sent)
    digest = "md5:" + base64.b64decode(md5[1]).hex() if md5 else None
    return RemoteFile(url, int(length) if length else None, digest)


def download_file(remote: RemoteFile, path: Path, reporter: Reporter = SILENT) -> Path:
    """A file of a server at ``path``, downloaded unless the right bytes are there.

    What arrives is kept in ``PATH.incomplete`` until it is whole, so a later call continues a download that
    broke off. Other bytes than ``remote`` says are removed.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: the server refuses or sends other bytes, or another process downloads the same file.
        OutputError: the file system refuses.
    """
    if path.exists():
        wrong = difference(path, remote.size, remote.digest)
        if not wrong:
            return path
        reporter.warn(f"{path} is damaged ({wrong}); downloading it again")
    partial = path.with_name(path.name + ".incomplete")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(partial.with_name(f".{partial.name}.lock"), timeout=0):
                _fill(remote, partial, path, reporter)
                wrong = difference(partial, remote.size, remote.digest)
                if wrong:
                    partial.unlink()
                    raise WeightsError(f"{remote.shown} sent other bytes than expected ({wrong}); try again")
                os.replace(partial, path)
        except Timeout:
            raise WeightsError(f"another process is downloading {remote.shown}") from None
    return path


def _fill(remote: RemoteFile, partial: Path, path: Path, reporter: Reporter) -> None:
    """Append to the partial file of ``path`` until it has all of the remote one."""
    with open(partial, "ab") as file:
        # Without a size, a whole file looks like a part of it, and asking for more would fail.
        if remote.size is None or file.tell() > remote.size:
            file.truncate(0)
            file.seek(0)
        done = file.tell()
        with (
            _progress(remote.shown.rsplit("/", 1)[-1], remote.size, done, reporter) as bar,
            _errors(remote.shown, transfer=True),
            disk_errors(path),
        ):
            http_get(
                remote.url,
                file,
                resume_size=done,
                headers=remote.headers,
                expected_size=remote.size,
                tqdm_class=bar,
            )
        file.flush()
        os.fsync(file.fileno())
