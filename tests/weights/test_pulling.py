"""``pull`` from a hub and a bucket on loopback that break off, lie and refuse."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from local_hub import LARGE, Hub, serving
from published import GOOGLE, HALTON, V1
from tiny_models import make_model

from maskgit_cli.config.catalogue import CATALOGUE, CatalogueEntry, PublishedFile
from maskgit_cli.errors import ConfigError, OutputError, WeightsError
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.runtime import download as fetching
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.weights.pulling import download_published, pull

# The golden files by the names that the server has them under: repository or bucket, then path.
V1_FILES = {
    "user/v1/MaskGIT/tiny.pth": V1.transformer,
    "user/v1/VQGAN/last.ckpt": V1.tokenizer[0],
    "user/v1/VQGAN/model.yaml": V1.tokenizer[1],
}
HALTON_FILES = {"user/halton/tiny.pth": HALTON.transformer, "lab/vq/vq_c2i.pt": HALTON.tokenizer[0]}
GOOGLE_FILES = {"bucket/maskgit_tiny": GOOGLE.transformer, "bucket/tokenizer_tiny": GOOGLE.tokenizer[0]}
MODELS = {"tiny-v1": V1_FILES, "tiny-halton": HALTON_FILES, "tiny-google": GOOGLE_FILES}
WEIGHTS = "user/v1/MaskGIT/tiny.pth"


class Heard:
    """A reporter that keeps its messages."""

    def __init__(self):
        self.texts = []

    def task(self, description, total, done=0, unit="images"):
        self.texts.append(f"{description} {total} from {done}")
        return SILENT.task(description, total)

    def info(self, text):
        self.texts.append(text)

    warn = info


def published_file(server: Hub, name: str) -> PublishedFile:
    if name.startswith("bucket/"):
        return PublishedFile(f"{server.url}/bucket", name.removeprefix("bucket/"))
    user, repository, path = name.split("/", 2)
    return PublishedFile(f"{user}/{repository}", path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, with caches of its own and two small models in the catalogue; none waits."""
    with serving() as server:
        for files in MODELS.values():
            server.files |= {name: path.read_bytes() for name, path in files.items()}
        home = tmp_path / "home"
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        for name in ("HF_HUB_OFFLINE", "MASKGIT_OFFLINE", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's library waits between retries
        # The library keeps whole chunks of what came before a connection broke.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        for name, files in MODELS.items():
            weights, *tokenizer = (published_file(server, file) for file in files)
            model = CatalogueEntry(name, name[5:], weights, tuple(tokenizer), 0, 128, 4, None)
            monkeypatch.setitem(CATALOGUE, name, model)
        monkeypatch.chdir(tmp_path)
        yield server


def pin(monkeypatch, name, **facts):
    """Add facts about a model's weights to the catalogue."""
    model = CATALOGUE[name]
    monkeypatch.setitem(CATALOGUE, name, model._replace(weights=model.weights._replace(**facts)))


def half_written(folder: Path) -> list[str]:
    """What a failure may not leave behind."""
    return [str(p) for p in (folder / "models").rglob("*")] if (folder / "models").exists() else []


# --- what works -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_stages_take(hub, name, tmp_path):
    path = pull(name)
    assert path == Path("models") / name
    model, tokenizer = load_model(path), load_tokenizer(path)
    assert model.config.heads == 4
    assert model.tokenizer_sha256 == tokenizer.sha256
    codes = torch.full((1, model.config.grid, model.config.grid), model.network.mask_token)
    logits = model.network(codes, torch.zeros(1, dtype=torch.long))
    assert torch.isfinite(logits).all()


def test_files_stay_in_the_hubs_cache(hub, tmp_path):
    pull("tiny-v1")
    snapshots = tmp_path / "home/hub/models--user--v1/snapshots"
    (kept,) = snapshots.glob("*/MaskGIT/tiny.pth")
    assert kept.read_bytes() == hub.files[WEIGHTS]
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    pull("tiny-v1", Path("again"))
    assert hub.fetched(WEIGHTS) == [""], "downloaded once"
    assert load_model(Path("again")).sha256 == load_model(Path("models/tiny-v1")).sha256


def test_what_is_there_already(hub):
    pull("tiny-v1")
    before, heard = len(hub.requests), Heard()
    assert pull("tiny-v1", reporter=heard) == Path("models/tiny-v1")
    assert len(hub.requests) == before
    assert "is tiny-v1 already" in heard.texts[-1]
    with pytest.raises(OutputError, match="exists"):
        pull("tiny-google", Path("models/tiny-v1"))
    with pytest.raises(OutputError, match="exists"):
        pull("tiny-v1", weights="raw")  # which may be others than those that are there
    pull("tiny-google", Path("models/tiny-v1"), overwrite=True)
    assert load_model(Path("models/tiny-v1")).config.has_null_class is False


def test_no_requests_where_the_place_is_taken(hub):
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match="exists"):
        pull("tiny-v1", Path("mine"))
    assert hub.requests == []
    with pytest.raises(OutputError, match="does not replace it"):
        pull("tiny-v1", Path("mine"), overwrite=True)
    assert Path("mine/diary.txt").exists()


def test_the_token_goes_to_the_hub_alone(hub):
    pull("tiny-v1")
    sent = {(r.method, r.name): r.token for r in hub.requests}
    assert sent["HEAD", WEIGHTS] == "Bearer hf_secret"
    assert sent["GET", "user/v1/VQGAN/model.yaml"] == "Bearer hf_secret"
    assert sent["GET", WEIGHTS] == "", "large files lie on another host"


# --- what breaks off --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"), [("tiny-v1", WEIGHTS), ("tiny-google", "bucket/maskgit_tiny")], ids=["hub", "server"]
)
def test_a_broken_connection_is_taken_up(hub, name, file):
    size = len(hub.files[file])
    hub.drops[file] = [size // 2, 1000]
    pull(name)
    kept = size // 2 // 1000 * 1000
    assert hub.fetched(file) == ["", f"bytes={kept}-", f"bytes={kept + 1000}-"]


@pytest.mark.parametrize(
    ("name", "file"), [("tiny-v1", WEIGHTS), ("tiny-google", "bucket/maskgit_tiny")], ids=["hub", "server"]
)
def test_what_arrived_is_kept_for_the_next_call(hub, name, file, tmp_path):
    hub.drops[file] = [5000] + [0] * 10
    with pytest.raises(WeightsError, match="broke off"):
        pull(name)
    assert half_written(tmp_path) == []
    hub.drops[file].clear()
    hub.requests.clear()
    heard = Heard()
    pull(name, reporter=heard)
    assert hub.fetched(file) == ["bytes=5000-"]
    assert f"{len(hub.files[file])} from 5000" in heard.texts[0]


def test_a_server_that_always_begins_anew(hub):
    hub.ranges = False
    hub.drops[WEIGHTS] = [3000]
    pull("tiny-v1")
    assert hub.fetched(WEIGHTS) == ["", "bytes=3000-"]


def test_what_is_kept_may_be_too_long(hub, tmp_path):
    """A file that changed, say; the size tells."""
    blobs = tmp_path / "home/maskgit"
    blobs.mkdir(parents=True)
    (blobs / "maskgit_tiny.incomplete").write_bytes(b"x" * (len(hub.files["bucket/maskgit_tiny"]) + 1))
    pull("tiny-google")
    assert hub.fetched("bucket/maskgit_tiny") == [""]


def test_two_processes_do_not_write_one_file(hub, tmp_path):
    lock = tmp_path / "home/maskgit/.maskgit_tiny.incomplete.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(WeightsError, match="another process"):
        pull("tiny-google")


# --- what lies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tiny-v1", WEIGHTS),
        ("tiny-v1", "user/v1/VQGAN/model.yaml"),
        ("tiny-google", "bucket/maskgit_tiny"),
    ],
)
def test_a_wrong_byte(hub, name, file, tmp_path, maskgit):
    hub.flips.add(file)
    outcome = maskgit("pull", name, "--quiet")
    assert outcome.status == 1
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1
    assert "other bytes" in outcome.stderr
    assert "signature" not in outcome.stderr
    assert half_written(tmp_path) == []
    kept = [
        p.name
        for p in (tmp_path / "home").rglob("*")
        if p.is_file() and p.stat().st_size == len(hub.files[file])
    ]
    assert kept == [], "wrong bytes were kept"
    hub.flips.clear()
    assert maskgit("pull", name, "--quiet").status == 0


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": 7}])
def test_a_file_that_is_not_the_published_one(hub, facts, monkeypatch, tmp_path):
    """It is not downloaded if its server states other facts."""
    pin(monkeypatch, "tiny-v1", **facts)
    with pytest.raises(WeightsError, match="not the published file"):
        pull("tiny-v1")
    assert hub.fetched(WEIGHTS) == []
    assert half_written(tmp_path) == []


def test_the_published_digest_is_checked_where_the_server_gives_another_kind(hub, monkeypatch):
    pin(monkeypatch, "tiny-google", sha256="0" * 64)
    with pytest.raises(WeightsError, match="maskgit_tiny"):
        pull("tiny-google")


def test_a_damaged_cache(hub, tmp_path):
    pull("tiny-v1")
    (kept,) = (tmp_path / "home/hub/models--user--v1/snapshots").glob("*/MaskGIT/tiny.pth")
    blob = kept.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"is damaged .*remove it and pull again"):
        pull("tiny-v1", Path("other"), offline=True)
    heard = Heard()
    pull("tiny-v1", Path("other"), reporter=heard)
    assert "is damaged" in heard.texts[0]
    assert blob.read_bytes() == hub.files[WEIGHTS]


# --- what refuses -----------------------------------------------------------------------------------

REFUSALS = {401: "HF_TOKEN", 403: "HF_TOKEN", 404: "not found", 429: "in 7 s", 500: "try again later"}


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    ("name", "file"),
    [("tiny-v1", WEIGHTS), ("tiny-google", "bucket/tokenizer_tiny")],
    ids=["hub", "server"],
)
def test_refusals_get_one_line(hub, status, method, name, file, tmp_path, maskgit):
    hub.status[method, file] = status
    outcome = maskgit("pull", name, "--quiet")
    assert outcome.status == 1
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert file.rsplit("/", 1)[1] in outcome.stderr
    assert REFUSALS[status] in outcome.stderr
    assert f"HTTP status {status}" in outcome.stderr
    assert half_written(tmp_path) == []


def test_a_name_of_which_no_file_was_listed(hub, monkeypatch, tmp_path, maskgit):
    monkeypatch.setitem(CATALOGUE, "tiny-v1", CATALOGUE["tiny-v1"]._replace(listed=False))
    hub.status["HEAD", WEIGHTS] = 404
    outcome = maskgit("pull", "tiny-v1", "--quiet")
    assert outcome.status == 1
    assert "naming scheme" in outcome.stderr
    assert "HTTP status 404" in outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert half_written(tmp_path) == []


def test_a_hub_that_is_not_there(hub, monkeypatch, tmp_path, maskgit):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    outcome = maskgit("pull", "tiny-v1", "--quiet")
    assert outcome.status == 1
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert "cannot be reached" in outcome.stderr
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-google"])
def test_the_caches_help_where_nothing_answers(hub, name):
    pull(name)
    hub.deaf = True
    heard = Heard()
    pull(name, Path("other"), reporter=heard)
    assert "cannot be reached" in heard.texts[0]
    assert "instead" in heard.texts[0]


# --- offline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-google"])
def test_offline(hub, name, monkeypatch, tmp_path):
    with pytest.raises(WeightsError, match="--offline"):
        pull(name, offline=True)
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    with pytest.raises(WeightsError, match="MASKGIT_OFFLINE"):
        pull(name)
    assert hub.requests == []
    assert half_written(tmp_path) == []
    monkeypatch.delenv("MASKGIT_OFFLINE")
    pull(name)
    hub.requests.clear()
    pull(name, Path("other"), offline=True)
    assert hub.requests == []


# --- models that somebody uploaded ------------------------------------------------------------------


@pytest.fixture
def uploaded(hub, tmp_path):
    """A native model directory in the repository user/mine."""
    model = make_model(tmp_path / "mine")
    for path in model.rglob("*"):
        if path.is_file():
            hub.files[f"user/mine/{path.relative_to(model).as_posix()}"] = path.read_bytes()
    return model


def test_a_model_directory_from_the_hub(hub, uploaded):
    path = pull("user/mine")
    assert path == Path("models/mine")
    assert {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} == {
        p.relative_to(uploaded): p.read_bytes() for p in uploaded.rglob("*") if p.is_file()
    }


def test_a_damaged_model_directory_from_the_hub(hub, uploaded, tmp_path):
    hub.files["user/mine/config.json"] = b'{"format": "maskgit-model", "version": 1}'
    with pytest.raises(ValueError, match="has no"):
        pull("user/mine")
    assert half_written(tmp_path) == []


def test_the_environment_is_honoured(hub, uploaded, tmp_path):
    """In a process of its own, as a user has it: the hub's address, its cache, and a path on stdout."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "elsewhere"), "HF_ENDPOINT": hub.url}
    words = [sys.executable, "-m", "maskgit_cli", "pull", "user/mine", "--json"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"path": "models/mine"}
    assert list((tmp_path / "elsewhere/hub/models--user--mine/snapshots").glob("*/config.json"))


# --- the command ------------------------------------------------------------------------------------


def test_list(maskgit):
    shown = maskgit("pull", "--list")
    assert shown.status == 0
    assert "halton-256-large and halton-384-tiny" in shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["name", "parameters", "resolution", "FID", "size"]
    assert [line.split()[0] for line in lines[1:]] == list(CATALOGUE)
    assert "174.2 M      256 px   6.80  3.05 GB" in lines[1]
    listed = json.loads(maskgit("pull", "--list", "--json").stdout)["models"]
    assert listed[0]["parameters"] == 174_160_874
    assert [m["name"] for m in listed] == list(CATALOGUE)


def test_an_unknown_name(maskgit):
    outcome = maskgit("pull", "maskgit-257")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert "there are maskgit-256" in outcome.stderr
    with pytest.raises(ConfigError):
        pull("maskgit-257")


@pytest.mark.parametrize("name", ["user/", "/name", "a/b/c", "../x"])
def test_a_repository_that_cannot_be(name, maskgit):
    outcome = maskgit("pull", name)
    assert (outcome.status, outcome.stdout) == (1, "")
    assert f"pull {name}: must be user/name" in outcome.stderr


def test_digests_of_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert fetching.digest_file(path, "git") == "ce013625030ba8dba906f756967f9e9ca394464a"  # as git says
    assert fetching.digest_file(path, "md5") == "b1946ac92492d2347c6235b4d2611184"
    assert fetching.difference(path, 6, "md5:b1946ac92492d2347c6235b4d2611184") is None
    assert fetching.difference(path, 7, None) == "6 bytes, not 7"


def test_small_files_are_checked_too(hub):
    """The hub tags them as git does; without that a model.yaml could be anybody's."""
    assert len(hub.files["user/v1/VQGAN/model.yaml"]) < LARGE
    file = PublishedFile("user/v1", "VQGAN/model.yaml")
    assert download_published(file).read_bytes() == hub.files["user/v1/VQGAN/model.yaml"]
