"""``export --to v1``: the paper's own files, there and back; ``--push``: models on the hub."""

import dataclasses
import hashlib
import json
import time

import pytest
import torch
import yaml
from local_hub import serving
from published import FAMILIES, GOOGLE, V1
from tiny_models import make_model, make_tokenizer
from tiny_training import train_tiny, write_tokens

from maskgit_cli.config.networks import VQGANConfig
from maskgit_cli.errors import ConfigError, OutputError
from maskgit_cli.formats.tensors import read_tensors
from maskgit_cli.networks.loading import load_model, load_tokenizer, save_tokenizer
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.training.optim import load_optimizer
from maskgit_cli.weights.exporting import export
from maskgit_cli.weights.importing import import_weights

GOLDEN_FILES = [V1.transformer, *V1.tokenizer]
# v1.0's VQGAN always normalizes in 32 groups.
SIZES = VQGANConfig(16, 32, (1, 1, 2), 1, (8,), 8, 4, 12, 32)


def load(path):
    return torch.load(path, weights_only=True)


def assert_equal(some, others):
    assert list(some) == list(others)
    for name, tensor in some.items():
        assert tensor.dtype == others[name].dtype
        assert torch.equal(tensor, others[name]), name


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The golden v1.0 files as a model directory."""
    out = tmp_path_factory.mktemp("v1") / "model"
    return import_weights(GOLDEN_FILES, out, heads=4)


@pytest.fixture(scope="module")
def v1_run(tmp_path_factory):
    """A run whose tokenizer v1.0 could read."""
    root = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_tokenizer(root / "tokenizer", VQGAN(SIZES).state_dict(), SIZES)
    tokens = write_tokens(root / "tokens.h5", root / "tokenizer")
    return train_tiny(tokens, root / "run")


# --- v1.0 -------------------------------------------------------------------------------------------


def test_published_files_come_back_as_they_were(imported, tmp_path):
    """Import, export: the same tensors in the same order under the same names, and the counters."""
    out = export(imported, tmp_path / "v1", to="v1")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "MaskGIT_32.pth",
        "VQGAN/last.ckpt",
        "VQGAN/model.yaml",
    ]
    native, published = load(out / "MaskGIT_32.pth"), load(GOLDEN_FILES[0])
    assert list(native) == list(published)
    assert_equal(native["model_state_dict"], published["model_state_dict"])
    assert native["iter"] == published["iter"] == 12345
    assert native["global_epoch"] == published["global_epoch"] == 7
    groups = [content["optimizer_state_dict"]["param_groups"][0] for content in (native, published)]
    for key in ("lr", "betas", "eps", "weight_decay", "amsgrad", "params"):
        assert groups[0][key] == groups[1][key], key
    sizes = [
        yaml.safe_load(path.read_text())["model"]["params"]
        for path in (out / "VQGAN/model.yaml", GOLDEN_FILES[2])
    ]
    for key in ("embed_dim", "n_embed", "ddconfig"):
        assert sizes[0][key] == sizes[1][key]


def test_exported_files_come_back_as_they_were(imported, tmp_path):
    """Export, import: the very same weights files."""
    out = export(imported, tmp_path / "v1", to="v1")
    files = [out / "MaskGIT_32.pth", out / "VQGAN/last.ckpt", out / "VQGAN/model.yaml"]
    again = import_weights(files, tmp_path / "again", heads=4)
    for name in ("model.safetensors", "tokenizer/model.safetensors"):
        assert (again / name).read_bytes() == (imported / name).read_bytes()
    records = [json.loads((path / "config.json").read_text()) for path in (imported, again)]
    for key in ("transformer", "resolution", "step", "epoch", "tokenizer_sha256"):
        assert records[0][key] == records[1][key]


def test_a_run_with_its_optimizer(v1_run, tmp_path):
    """Raw weights take the optimizer's state along, in the order of v1.0's parameters."""
    content = load(export(v1_run, tmp_path / "raw", to="v1", weights="raw") / "MaskGIT_16.pth")
    assert (content["iter"], content["global_epoch"]) == (6, 2)  # 6 steps of 8 images of 24
    network = load_model(v1_run, weights="raw").network
    parameters = [torch.nn.Parameter(t.clone()) for t in content["model_state_dict"].values()]
    optimizer = torch.optim.AdamW(parameters)
    optimizer.load_state_dict(content["optimizer_state_dict"])
    own = torch.optim.AdamW(network.parameters())
    (state,) = v1_run.glob("checkpoints/step-*6/optimizer.safetensors")
    load_optimizer(own, network, read_tensors(state))
    for published, native in zip(parameters, network.parameters(), strict=True):
        assert torch.equal(published, native)
        assert torch.equal(optimizer.state[published]["exp_avg"], own.state[native]["exp_avg"])
        assert optimizer.state[published]["step"] == 6
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.96)


def test_epochs_go_along_through_a_model_directory(v1_run, tmp_path):
    model = export(v1_run, tmp_path / "model")
    content = load(export(model, tmp_path / "v1", to="v1") / "MaskGIT_16.pth")
    assert (content["iter"], content["global_epoch"]) == (6, 2)


def test_averaged_weights_have_a_new_optimizer(v1_run, tmp_path):
    content = load(export(v1_run, tmp_path / "ema", to="v1") / "MaskGIT_16.pth")
    assert content["optimizer_state_dict"]["state"] == {}
    averaged = load_model(v1_run).network.positions
    assert torch.equal(content["model_state_dict"]["pos_emb"], averaged)


def test_a_tokenizer_alone(v1_run, tmp_path):
    out = export(v1_run / "tokenizer", tmp_path / "vqgan", to="v1")
    assert sorted(p.name for p in out.iterdir()) == ["last.ckpt", "model.yaml"]
    assert_equal(load(out / "last.ckpt")["state_dict"], load_tokenizer(v1_run).network.state_dict())


def test_the_same_export_gives_the_same_bytes(v1_run, tmp_path):
    digests = set()
    for name in ("a", "b"):
        out = export(v1_run, tmp_path / name, to="v1")
        files = sorted(p for p in out.rglob("*") if p.is_file())
        digests.add(tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in files))
    assert len(digests) == 1


def test_what_v1_cannot_hold(tmp_path, maskgit):
    model = make_model(tmp_path / "model")  # whose tokenizer normalizes in 4 groups
    with pytest.raises(ConfigError, match=r"in 4 groups; v1\.0's VQGAN always has 32"):
        export(model, tmp_path / "v1", to="v1")
    sizes = dataclasses.replace(SIZES, middle_attention=False)
    save_tokenizer(tmp_path / "plain", VQGAN(sizes).state_dict(), sizes)
    with pytest.raises(ConfigError, match="no attention in the middle"):
        export(tmp_path / "plain", tmp_path / "v1", to="v1")
    with pytest.raises(ConfigError, match="are float32"):
        export(model, tmp_path / "v1", to="v1", half=True)
    with pytest.raises(ConfigError, match="--to v2: must be one of native, v1"):
        export(model, tmp_path / "v1", to="v2")
    other = import_weights([GOOGLE.transformer], tmp_path / "google", tokenizer=GOOGLE.tokenizer)
    outcome = maskgit("export", other, tmp_path / "v1", "--to", "v1")
    assert outcome.status == 1
    assert "'google'" in outcome.stderr
    assert "--to v1" in outcome.stderr
    with pytest.raises(ConfigError, match="'google_vqgan'"):
        export(other / "tokenizer", tmp_path / "v1", to="v1")
    assert not (tmp_path / "v1").exists()


def test_another_number_of_heads_is_a_warning(imported, tmp_path, maskgit):
    outcome = maskgit("export", imported, tmp_path / "v1", "--to", "v1")
    assert (outcome.status, outcome.stdout) == (0, f"{tmp_path / 'v1'}\n")
    assert "--heads 4" in outcome.stderr


def test_overwriting_only_what_an_export_made(imported, tmp_path):
    out = export(imported, tmp_path / "v1", to="v1")
    export(imported, out, to="v1")  # already complete
    with pytest.raises(OutputError, match="exists"):
        export(imported, out)
    export(imported, out, to="v1", overwrite=True)
    export(imported, out, overwrite=True)
    load_model(out)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "last.ckpt").write_bytes(b"years of work")
    (mine / "model.yaml").write_text("model: mine")
    for to in ("v1", "native"):
        with pytest.raises(OutputError, match="mine exists and is not a model directory"):
            export(imported, mine, to=to, overwrite=True)
    assert (mine / "last.ckpt").read_bytes() == b"years of work"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_native_exports_of_published_networks(family, tmp_path):
    """Halton-MaskGIT's and Google's networks go the same way as the paper's."""
    files = [family.transformer, *family.tokenizer]
    model = import_weights(files, tmp_path / "model", heads=family.heads)
    out = export(model, tmp_path / "out")
    assert_equal(load_model(out).network.state_dict(), load_model(model).network.state_dict())
    assert type(load_model(out).network) is type(load_model(model).network)
    tokenizer = export(model / "tokenizer", tmp_path / "codec")
    assert load_tokenizer(tokenizer).sha256 == load_tokenizer(model).sha256
    assert type(load_tokenizer(tokenizer).network) is type(load_tokenizer(model).network)


# --- the hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's library waits between retries
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def test_push(hub, run, tmp_path, maskgit):
    out = tmp_path / "mine"
    outcome = maskgit("export", run, out, "--push", "user/mine", "--license", "mit")
    assert (outcome.status, outcome.stdout) == (0, f"{out}\n"), outcome.stderr
    assert f"uploaded to {hub.url}/user/mine" in outcome.stderr
    uploaded = hub.commits["user/mine"]
    assert uploaded == {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer/model.safetensors", "README.md"} <= uploaded.keys()
    assert {r.token for r in hub.requests} == {"Bearer hf_secret"}
    assert sum(r.name.endswith("/commit/main") for r in hub.requests) == 1, "one commit has it all"


def test_the_page_of_a_model(hub, run, tmp_path):
    export(run, tmp_path / "mine", push="user/mine", license="mit")
    page = (tmp_path / "mine/README.md").read_text()
    header, text = page.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header) == {
        "library_name": "maskgit-cli",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["maskgit", "masked-image-modeling", "class-conditional"],
        "license": "mit",
    }
    assert "16 px in 3 classes" in text
    assert "EMA weights after 6 training steps" in text
    assert "maskgit pull user/mine" in text
    assert load_model(tmp_path / "mine").sha256 in text
    assert "| `batch_size` | `8` |" in text
    assert "| run run |" in text


def test_a_card_without_a_license_is_a_warning(hub, tmp_path, maskgit):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    outcome = maskgit("export", tokenizer, tmp_path / "mine", "--push", "user/codec")
    assert outcome.status == 0, outcome.stderr
    assert "states no license" in outcome.stderr
    assert "license" not in hub.commits["user/codec"]["README.md"].decode().split("---")[1]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/repos/create", 401, "HF_TOKEN"),
        ("/api/repos/create", 403, "write access"),
        ("/api/models/user/mine/preupload/main", 429, "too many requests"),
        ("/api/models/user/mine/commit/main", 500, "HTTP status 500"),
    ],
)
def test_a_hub_that_refuses(hub, run, tmp_path, maskgit, path, status, message):
    hub.status["POST", path] = status
    if path == "/api/repos/create":  # where it is there already, no permission to create it is needed
        hub.status["GET", "user/mine"] = status
    outcome = maskgit("export", run, tmp_path / "mine", "--push", "user/mine", "--quiet")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert message in outcome.stderr
    assert "--overwrite" in outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert hub.commits == {}
    hub.status.clear()
    again = maskgit("export", run, tmp_path / "mine", "--push", "user/mine", "--overwrite")
    assert again.status == 0, again.stderr


@pytest.mark.parametrize("name", ["mine", "user/", "a/b/c", "../x", "user/../x"])
def test_a_repository_that_cannot_be(run, tmp_path, name):
    with pytest.raises(ConfigError, match="must be user/name"):
        export(run, tmp_path / "mine", push=name)
    assert not (tmp_path / "mine").exists()
