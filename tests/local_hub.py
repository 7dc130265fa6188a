"""A Hugging Face hub and a bucket of Google's in one server on loopback that can be made to misbehave."""

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

COMMIT = "c0ffee" + "0" * 34
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
# Larger files are kept apart, as on the hub: asking for them leads to another host.
LARGE = 1000


class Request(NamedTuple):
    """One request the server got: ``GET``, the file's name, its Range and Authorization, or ""."""

    method: str
    name: str
    range: str
    token: str


class Hub(ThreadingHTTPServer):
    """Files, by ``user/name/path`` for the hub and by ``bucket/name`` for the bucket.

    Attributes:
        files: the bytes of each.
        status: an answer instead of the file, by (method, name).
        drops: by name, after how many bytes each further answer breaks off.
        flips: names whose bytes go wrong on the way.
        ranges: False answers every request with the whole file.
        deaf: True answers nothing.
        requests: all there were.
        commits: files uploaded, by repository.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.status: dict[tuple[str, str], int] = {}
        self.drops: dict[str, list[int]] = defaultdict(list)
        self.flips: set[str] = set()
        self.ranges = True
        self.deaf = False
        self.requests: list[Request] = []
        self.commits: dict[str, dict[str, bytes]] = defaultdict(dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, name: str) -> list[str]:
        """The ranges of the downloads of a file."""
        return [r.range for r in self.requests if r.method == "GET" and r.name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def answer(self, status: int, headers: dict | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _name(self) -> str:
        path = self.path.split("?")[0]
        match = RESOLVE.fullmatch(path)
        return f"{match[1]}/{match[2]}" if match else path.removeprefix("/cdn/").lstrip("/")

    def do_HEAD(self) -> None:
        self._file()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):  # older versions of the hub's library ask before a commit
            name = self.path.split("?")[0].removeprefix("/api/models/")
            status = self.server.status.get(("GET", name), 200)
            if status != 200:
                return self.answer(status)
            return self._json({"id": name, "sha": COMMIT, "xetEnabled": False, "siblings": []})
        self._file()

    def _file(self) -> None:
        hub, name = self.server, self._name()
        if hub.deaf:
            self.close_connection = True
            return
        token = self.headers.get("Authorization", "")
        hub.requests.append(Request(self.command, name, self.headers.get("Range", ""), token))
        status = hub.status.get((self.command, name), 404 if name not in hub.files else 200)
        if status != 200:
            self.answer(status, {"Retry-After": "7"} if status == 429 else None)
        elif RESOLVE.fullmatch(self.path):
            self._hub(name, hub.files[name])
        else:
            md5 = base64.b64encode(hashlib.md5(hub.files[name]).digest()).decode()
            self._body(name, hub.files[name], {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"})

    def _hub(self, name: str, data: bytes) -> None:
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git}"'}
        if len(data) < LARGE:
            return self._body(name, data, headers)
        large = {"X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": len(data)}
        place = f"http://localhost:{self.server.server_port}/cdn/{name}?signature=abc"
        self.answer(302, {**headers, **large, "Location": place})

    def _body(self, name: str, data: bytes, headers: dict) -> None:
        hub, asked, status = self.server, self.headers.get("Range", ""), 200
        if self.command == "HEAD":
            return self.answer(200, {**headers, "Content-Length": len(data)})
        if name in hub.flips:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if asked and hub.ranges:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(data):
                return self.answer(416)
            headers |= {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
            data, status = data[first:], 206
        if not hub.drops[name]:
            return self.answer(status, headers, data)
        part = data[: hub.drops[name].pop(0)]
        self.answer(status, {**headers, "Content-Length": len(data)}, part)
        self.close_connection = True

    def do_POST(self) -> None:
        """Uploads: a repository is made, files are announced, a commit brings them."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = self.headers.get("Authorization", "")
        self.server.requests.append(Request("POST", self.path, "", token))
        status = self.server.status.get(("POST", self.path), 200)
        if status != 200:
            return self.answer(status)
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._json({"files": files})
        commit = re.fullmatch(r"/api/models/(.+)/commit/main", self.path)
        if self.path == "/api/validate-yaml":  # of the page, which the hub looks at first
            return self._json({"errors": [], "warnings": []})
        if commit is None:
            made = json.loads(body)
            return self._json({"url": f"https://huggingface.co/{made['organization']}/{made['name']}"})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.server.commits[commit[1]][value["path"]] = base64.b64decode(value["content"])
        url = f"https://huggingface.co/{commit[1]}/commit/{COMMIT}"
        return self._json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _json(self, value: dict) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
