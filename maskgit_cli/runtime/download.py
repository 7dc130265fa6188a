"""Files from the network: resumed where they broke off, and held to the size and digest they should have."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import BinaryIO, NamedTuple

from maskgit_cli import __version__
from maskgit_cli.errors import WeightsError
from maskgit_cli.formats.atomic import disk_errors
from maskgit_cli.runtime.progress import SILENT, Reporter, Task

# Seconds without a byte after which a connection counts as broken.
TIMEOUT = 20
# How often a download that brings nothing new is tried again, and the pause before the n-th time over n.
RETRIES = 5
PAUSE = 1.0
_PIECE = 1 << 20
_USER_AGENT = f"maskgit-cli/{__version__}"
_BROKEN = (ConnectionError, TimeoutError, http.client.HTTPException, urllib.error.URLError)


class UnreachableError(WeightsError):
    """A server doesn't answer at all, so that a copy from before may do."""


class AbsentError(WeightsError):
    """A server answers that it has no such file."""


class RemoteFile(NamedTuple):
    """A file on a server, and what the server says of it.

    Attributes:
        url: where it is read.
        size: in bytes, where known.
        digest: ``sha256:…``, ``md5:…`` or ``git:…`` (git's name of the bytes), in hexadecimal; or None.
        headers: of the request. They don't go along when the server sends us elsewhere.
    """

    url: str
    size: int | None
    digest: str | None
    headers: Mapping[str, str] = {}

    @property
    def shown(self) -> str:
        """Its address without what signs it."""
        return self.url.split("?")[0]


def digest_file(path: Path, kind: str) -> str:
    """The digest of a file's bytes, in hexadecimal; ``kind`` is ``sha256``, ``md5`` or ``git``."""
    with open(path, "rb") as file:
        if kind != "git":
            return hashlib.file_digest(file, kind).hexdigest()
        # Git hashes a header with the bytes; that is the tag which the hub gives its small files.
        hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        while piece := file.read(_PIECE):
            hashed.update(piece)
        return hashed.hexdigest()


def difference(path: Path, size: int | None, digest: str | None) -> str | None:
    """What tells a file from the one with this size and digest, in words; None if it is that file."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes, not {size}"
    kind, _, wanted = (digest or "").partition(":")
    if kind and (got := digest_file(path, kind)) != wanted:
        return f"{kind} {got[:12]}…, not {wanted[:12]}…"
    return None


def ask_server(url: str) -> RemoteFile:
    """What a web server says of a file: its size, and its digest if it is one of Google's buckets.

    Raises:
        UnreachableError: there is no answer.
        WeightsError: it refuses.
    """
    request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            return RemoteFile(url, int(length) if length else None, _md5(answer.headers))
    except urllib.error.HTTPError as error:
        raise refused(url, error.code, error.headers.get("Retry-After")) from error
    except _BROKEN as error:
        raise UnreachableError(f"{url} cannot be reached: {_reason(error)}") from error


def _md5(headers: Message) -> str | None:
    """The md5 that Google's storage sends along, as ``x-goog-hash: crc32c=…,md5=…`` in base64."""
    sent = ",".join(headers.get_all("x-goog-hash", []))
    found = re.search(r"md5=([A-Za-z0-9+/]{22}==)", sent)
    return "md5:" + base64.b64decode(found[1]).hex() if found else None


def refused(what: str, status: int, retry_after: str | None = None) -> WeightsError:
    """The error that a server's answer stands for which isn't the file: what it means, and what to do."""
    if status == 401:
        told = "it isn't there, or asks for a login (set HF_TOKEN)"
    elif status == 403:
        told = "access is forbidden; its page may ask to accept terms (then set HF_TOKEN)"
    elif status in (404, 410):
        told = "it isn't there"
    elif status == 429:
        when = f"in {retry_after} s" if retry_after and retry_after.isdigit() else "later"
        told = f"too many requests came from here; try again {when}"
    elif status >= 500:
        told = "the server failed; try again later"
    else:
        told = "the server refuses"
    kind = AbsentError if status in (404, 410) else WeightsError
    return kind(f"{what} cannot be fetched: {told} (HTTP status {status})")


def _reason(error: Exception) -> str:
    """An error of the network in a few words."""
    reason = getattr(error, "reason", error)
    return " ".join(str(reason).split()) or type(error).__name__


def fetch_file(remote: RemoteFile, path: Path, reporter: Reporter = SILENT) -> None:
    """Download a file; what an earlier call began under ``PATH.incomplete`` is continued.

    A connection that breaks is taken up again where it broke. If it brings nothing more, what came so
    far stays for the next call. Other bytes than the right ones are thrown away.

    Raises:
        WeightsError: the server can't be reached or refuses, or gives other bytes; or another process
            is fetching the same file.
        OutputError: the file system refuses.
    """
    partial = path.with_name(path.name + ".incomplete")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WeightsError(f"another process is fetching {remote.shown}") from None
            _fill(remote, file, reporter)
            file.flush()
            os.fsync(file.fileno())
        wrong = difference(partial, remote.size, remote.digest)
        if wrong:
            partial.unlink()
            raise WeightsError(f"{remote.shown} gave other bytes than it should ({wrong}); try again")
        os.replace(partial, path)


def _fill(remote: RemoteFile, file: BinaryIO, reporter: Reporter) -> None:
    """Append to an open file until it has all of the remote one."""
    if remote.size is not None and file.tell() > remote.size:
        _empty(file)
    name = remote.shown.rsplit("/", 1)[-1]
    failures = 0
    with reporter.task(f"fetching {name}", remote.size or 0, file.tell(), unit="bytes") as task:
        while remote.size is None or file.tell() < remote.size:
            before = file.tell()
            try:
                if _append(remote, file, task):
                    return
                reason = "the connection broke off"
            except _BROKEN as error:
                reason = _reason(error)
            failures = 1 if file.tell() > before else failures + 1
            if failures > RETRIES:
                raise WeightsError(
                    f"{remote.shown} cannot be fetched: {reason}; what came so far is kept, "
                    "so run the same command again to go on"
                )
            time.sleep(PAUSE * failures)


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _append(remote: RemoteFile, file: BinaryIO, task: Task) -> bool:
    """Ask for what is missing and append what comes; whether all that the server promised came.

    Raises:
        WeightsError: the server refuses.
        ConnectionError, TimeoutError, http.client.HTTPException, URLError: the connection broke.
    """
    have = file.tell()
    request = urllib.request.Request(remote.url, headers={"User-Agent": _USER_AGENT})
    for key, value in remote.headers.items():
        request.add_unredirected_header(key, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            _empty(file)
            return False
        raise refused(remote.shown, error.code, error.headers.get("Retry-After")) from error
    with answer:
        if have and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            _empty(file)  # the server begins anew, whatever we have
            task.advance(-have)
        promised, came = answer.headers.get("Content-Length"), 0
        while piece := answer.read(_PIECE):
            file.write(piece)
            came += len(piece)
            task.advance(len(piece))
    return promised is None or came >= int(promised)
