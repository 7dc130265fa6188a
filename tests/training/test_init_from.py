"""``train --init-from``: copied weights, interpolated positions, and refusals."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from documents import ROOT, Document, Specification
from published import FAMILIES, GOOGLE
from resigned import rewrite_index
from tiny_models import CODES, make_model, tiny_transformer
from tiny_training import train_tiny, write_tokens

from maskgit_cli.config.networks import TRANSFORMERS
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.data.imagenet import imagenet_classes
from maskgit_cli.errors import ConfigError, InputError, OutputError
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.training.init_from import from_model, resize_positions, resize_table
from maskgit_cli.weights.importing import import_weights


def positions_of(old: int, new: int) -> np.ndarray:
    """Positions of the centers of ``new`` cells in cells of ``old``, by the documented formula."""
    return np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)


# --- the formula ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(4, 8), (16, 32), (8, 4), (3, 5), (6, 6), (1, 3)])
@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 0)])
def test_a_linear_ramp(old, new, before, after):
    """Rows that are linear in line and column have the value at the new cell's center."""
    line, column = np.mgrid[:old, :old]
    grid = np.stack([line, column, 3 * line - 2 * column + 1], -1).reshape(-1, 3)
    special = np.full((before + after, 3), 77.0)
    table = np.concatenate([special[:before], grid, special[before:]])
    got = resize_table(torch.tensor(table, dtype=torch.float32), old, new, before, after).numpy()
    x = positions_of(old, new)
    line, column = np.meshgrid(x, x, indexing="ij")
    expected = np.stack([line, column, 3 * line - 2 * column + 1], -1).reshape(-1, 3)
    np.testing.assert_allclose(got[before : before + new**2], expected, atol=1e-5)
    assert (got[:before] == 77).all()
    assert (got[before + new**2 :] == 77).all()


def test_twice_as_many_cells():
    """256 to 512 px: each old cell is four new ones, a quarter of a cell off its center."""
    ramp = torch.arange(4.0).repeat(4).reshape(1, 16, 1)  # the column
    got = resize_table(ramp, 4, 8)[0, :8, 0].tolist()
    assert got == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]


def test_the_same_grid_changes_nothing():
    table = torch.randn(2, 17, 5)
    copy = resize_table(table, 4, 4, 0, 1)
    assert torch.equal(copy, table)
    assert copy.data_ptr() != table.data_ptr()


def test_no_value_leaves_the_range_of_the_trained_ones():
    table = torch.randn(81, 6)
    got = resize_table(table, 9, 20)
    assert got.min() >= table.min()
    assert got.max() <= table.max()


def test_all_other_tensors_are_equal():
    network = tiny_transformer()
    tensors = network.state_dict()
    got = resize_positions(TRANSFORMERS["maskgit"], tensors, 4, 8)
    larger = tiny_transformer(grid=8)
    larger.load_state_dict(got)
    for name, tensor in tensors.items():
        if name not in ("positions", "bias"):
            assert torch.equal(got[name], tensor), name
    assert torch.equal(got["positions"][:, -1], tensors["positions"][:, -1]), "the class's position"
    assert torch.equal(got["bias"][-1], tensors["bias"][-1])
    assert got["bias"].shape == (65, tensors["bias"].shape[1])


@pytest.mark.parametrize(
    ("name", "table", "special"),
    [("maskgit", "positions", -1), ("halton", "positions.weight", None), ("google", "positions.weight", 0)],
)
def test_published_networks_at_another_grid(name, table, special, tmp_path):
    """The class token's row is not interpolated, and the network runs at twice the side."""
    files = FAMILIES[name]
    path = import_weights([files.transformer, *files.tokenizer], tmp_path / "model", heads=files.heads)
    model = load_model(path)
    grid = model.config.grid
    tokens = tokens_of(path, tmp_path / "tokens.h5", 2 * grid, model.config)
    initial = from_model(path, open_tokens(tokens), TrainConfig(drop_label=0.0))
    tensors = model.network.state_dict()
    if special is not None:
        rows = [group[table].flatten(0, -2)[special] for group in (tensors, initial.tensors)]
        assert torch.equal(*rows)
    assert all(
        torch.equal(initial.tensors[n], t) for n, t in tensors.items() if t.shape == initial.tensors[n].shape
    )
    assert {n for n, t in tensors.items() if t.shape != initial.tensors[n].shape} <= {table, "bias"}
    network = initial.build()
    tokens = torch.full((1, 2 * grid, 2 * grid), network.mask_token)
    logits = network.eval()(tokens, torch.zeros(1, dtype=torch.long))
    assert logits.shape[1] == 4 * grid**2
    assert torch.isfinite(logits).all()


def tokens_of(model: Path, path: Path, grid: int, sizes) -> Path:
    """A token file of a model's tokenizer, with a label for each of its images."""
    labels = np.arange(6, dtype=np.int32) % sizes.classes
    codes = np.zeros((6, 1, grid, grid), np.int64)
    factor = load_tokenizer(model).config.factor
    facts = {
        "codebook_size": sizes.codebook_size,
        "grid": grid,
        "resolution": grid * factor,
        "class_names": [],
    }
    return write_tokens(path, model / "tokenizer", codes, labels, **facts)


# --- runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of 16 px images in three classes."""
    return make_model(tmp_path_factory.mktemp("models") / "small")


def larger_tokens(path: Path, model: Path, **changes) -> Path:
    """A token file of 32 px images of that model's tokenizer."""
    codes = np.arange(24)[:, None, None, None] % CODES + np.zeros((1, 1, 8, 8), np.int64)
    return write_tokens(path, model / "tokenizer", codes, grid=8, resolution=32, **changes)


def train_from(tokens: Path, out: Path, model: Path, **settings) -> Path:
    return train_tiny(tokens, out, {"init_from": model}, size=None, **settings)


def test_a_larger_run(model, tmp_path):
    """Training starts at the model's weights, and the record names them."""
    tokens = larger_tokens(tmp_path / "tokens32.h5", model)
    run = train_from(tokens, tmp_path / "run", model, steps=1, lr=1e-30, weight_decay=0.0, preview_every=1)
    made = load_model(run, weights="raw")
    old = load_model(model)
    wanted = resize_positions(TRANSFORMERS["maskgit"], old.network.state_dict(), 4, 8)
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    assert made.config.grid == 8
    assert (made.config.depth, made.config.heads) == (old.config.depth, old.config.heads)
    record = json.loads((run / "config.json").read_text())
    assert record["settings"]["init_from"] == old.sha256
    assert record["settings"]["size"] is None
    assert {"kind": "model", "name": "small", "sha256": old.sha256} in record["parents"]
    assert (run / "previews/step-00000001.png").exists()


def test_a_run_from_a_run_is_resumed(run, tokens, tmp_path):
    """The EMA weights of a run with the same grid; the same command resumes."""
    settings = {"steps": 2, "checkpoint_every": 1}
    path = train_tiny(tokens, tmp_path / "next", {"init_from": run}, **settings)
    whole = train_tiny(tokens, tmp_path / "whole", {"init_from": run}, **{**settings, "steps": 4})
    train_tiny(tokens, tmp_path / "next", {"init_from": run}, **{**settings, "steps": 4})
    name = "checkpoints/step-00000004/model.safetensors"
    assert (path / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(OutputError, match="--init-from"):
        train_tiny(tokens, tmp_path / "next", **settings)


def test_a_name_under_models(model, tmp_path, monkeypatch, maskgit):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/small").symlink_to(model)
    tokens = larger_tokens(tmp_path / "tokens32.h5", model)
    arguments = ["--steps", 1, "--batch-size", 4, "--preview-every", 0, "--device", "cpu", "--quiet"]
    outcome = maskgit("train", tokens, "--init-from", "small", *arguments)
    assert (outcome.status, outcome.stdout) == (0, "runs/tokens32-maskgit-32\n"), outcome.stderr
    missing = maskgit("train", tokens, "--init-from", "maskgit-256", *arguments)
    assert missing.status == 1
    assert "`maskgit pull maskgit-256`" in missing.stderr


def test_googles_network_is_trained_without_label_dropout(tmp_path):
    path = import_weights([GOOGLE.transformer], tmp_path / "google", tokenizer=GOOGLE.tokenizer)
    sizes = load_model(path).config
    tokens = tokens_of(path, tmp_path / "tokens.h5", sizes.grid, sizes)
    with pytest.raises(ConfigError, match=r"--drop-label 0\.1"):
        train_from(tokens, tmp_path / "run", path, drop_label=0.1)
    run = train_from(tokens, tmp_path / "run", path, steps=1, batch_size=2, preview_every=1)
    assert json.loads((run / "config.json").read_text())["settings"]["drop_label"] == 0
    before, after = load_model(path).network.state_dict(), load_model(run, weights="raw").network.state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["output.weight"], after["output.weight"])


@pytest.mark.parametrize("name", ["halton", "google"])
def test_the_record_of_a_run_of_another_network(name, tmp_path):
    """As documented: a run's record, with the sizes under the network's own key."""
    files = FAMILIES[name]
    path = import_weights([files.transformer, *files.tokenizer], tmp_path / "model", heads=files.heads)
    sizes = load_model(path).config
    tokens = tokens_of(path, tmp_path / "tokens.h5", sizes.grid, sizes)
    run = train_from(tokens, tmp_path / "run", path, steps=1, batch_size=2)
    record = read_json(run / "config.json", "a run")
    Specification(Document(ROOT / "docs" / "networks.md")).check(record[name], f"sizes-of-{name}")
    assert record["network"] == name
    record["transformer"] = load_model(make_model(tmp_path / "ours")).config.to_json()
    del record[name]
    Specification(Document(ROOT / "docs" / "artifacts.md")).check(record, "record-of-a-run")
    again = {"steps": 2, "batch_size": 2}
    assert load_model(train_from(tokens, tmp_path / "run", path, **again)).step == 2


def test_googles_network_needs_labels(tmp_path):
    path = import_weights([GOOGLE.transformer], tmp_path / "google", tokenizer=GOOGLE.tokenizer)
    sizes = load_model(path).config
    tokens = tokens_of(path, tmp_path / "tokens.h5", sizes.grid, sizes)
    with h5py.File(tokens, "r+") as file:
        file["labels"][1] = -1
    rewrite_index(tokens)
    with pytest.raises(ConfigError, match=r"--init-from .*tokens\.h5"):
        train_from(tokens, tmp_path / "run", path)
    assert not (tmp_path / "run").exists()


def test_without_a_model_the_record_has_none(tokens, tmp_path):
    record = json.loads((train_tiny(tokens, tmp_path / "run", steps=1) / "config.json").read_text())
    assert "init_from" not in record["settings"]
    assert record["settings"]["size"] == "tiny"


# --- refusals ---------------------------------------------------------------------------------------


def test_another_tokenizer(model, tokens, tmp_path):
    other = make_model(tmp_path / "other", seed=5)
    with pytest.raises(ConfigError, match=r"--init-from .*--tokenizer"):
        train_from(tokens, tmp_path / "run", other)
    assert not (tmp_path / "run").exists()


def test_other_classes(model, tmp_path):
    two = larger_tokens(
        tmp_path / "two.h5", model, class_names=["cat", "dog"], labels=np.arange(24, dtype=np.int32) % 2
    )
    with pytest.raises(ConfigError, match=r"3 classes.*two.h5 has 2"):
        train_from(two, tmp_path / "run", model)
    renamed = larger_tokens(tmp_path / "renamed.h5", model, class_names=["cat", "cow", "owl"])
    with pytest.raises(ConfigError, match=r"class 1 is dog.*renamed.h5.* cow"):
        train_from(renamed, tmp_path / "run", model)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_wordnet_ids_has_the_classes_of_a_model_of_names(tmp_path):
    classes = imagenet_classes()[:3]
    model = make_model(tmp_path / "model", [c.name for c in classes])
    tokens = larger_tokens(tmp_path / "tokens.h5", model, class_names=[c.wordnet_id for c in classes])
    assert from_model(model, open_tokens(tokens), TrainConfig()).config.grid == 8


def test_another_size(model, tmp_path):
    tokens = larger_tokens(tmp_path / "tokens.h5", model)
    with pytest.raises(ConfigError, match="--size tiny"):
        train_tiny(tokens, tmp_path / "run", {"init_from": model}, size="tiny")


def test_no_model(model, tmp_path):
    tokens = larger_tokens(tmp_path / "tokens.h5", model)
    with pytest.raises(InputError, match="absent"):
        train_from(tokens, tmp_path / "run", tmp_path / "absent")
