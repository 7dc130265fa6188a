"""docs/networks.md is what imported directories hold: sizes, settings and tensors."""

import json
import re

import pytest
import torch
from documents import CODE, ROOT, Document, Specification, check_shape
from published import FAMILIES

from maskgit_cli.config.networks import TOKENIZERS, TRANSFORMERS
from maskgit_cli.config.recipes import RECIPES
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.networks.registry import build
from maskgit_cli.weights.importing import import_weights

PAGE = Document(ROOT / "docs" / "networks.md")
NETWORKS = TRANSFORMERS | TOKENIZERS


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The record and the network of each kind."""
    found = {}
    for name, family in FAMILIES.items():
        path = tmp_path_factory.mktemp("imported") / name
        import_weights([family.transformer], path, tokenizer=family.tokenizer, heads=family.heads)
        for folder, load in ((path, load_model), (path / "tokenizer", load_tokenizer)):
            record = json.loads((folder / "config.json").read_text())
            found[record["network"]] = (record, load(path).network)
    return found


def test_networks_and_their_keys():
    rows = [(CODE.findall(row[0])[0], row[1], CODE.findall(row[2])[0]) for row in PAGE.rows("networks")]
    assert rows == [(name, entry.title, entry.key) for name, entry in NETWORKS.items()]


def test_named_sizes_and_recipes():
    rows = {CODE.findall(row[0])[0]: CODE.findall(row[1]) for row in PAGE.rows("training-from-scratch")}
    assert rows == {name: list(entry.sizes) for name, entry in TRANSFORMERS.items()}
    recipes = {
        CODE.findall(row[0])[0]: CODE.findall(row[1])[0] for row in PAGE.rows("training-from-scratch", 1)
    }
    assert recipes == {name: recipe(100).network or "maskgit" for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", ["halton", "google", "google_vqgan"])
def test_sizes(imported, name):
    held = Specification(PAGE)
    record, _ = imported[name]
    held.check(record[NETWORKS[name].key], f"sizes-of-{name}")
    held.check(
        record["settings"], f"settings-of-an-imported-{'model' if name in TRANSFORMERS else 'tokenizer'}"
    )
    assert held.unmet() == {}


@pytest.mark.parametrize("name", ["halton", "google", "google_vqgan"])
def test_tensors(imported, name):
    _, network = imported[name]
    sizes = network.config.to_json()
    letters = {"width": "D", "mlp_width": "M", "codebook_size": "K", "classes": "C", "registers": "R"}
    known = {letters[key]: value for key, value in sizes.items() if key in letters}
    known |= {"E": sizes.get("embed_dim"), "N": sizes.get("grid", 0) ** 2}
    known["H"] = sizes.get("heads", 0) * sizes.get("head_width", 0)
    rows = {
        re.sub(r"\b[IJ]\b", r"\\d+", re.escape(tensor)): row[1]
        for row in PAGE.rows(f"tensors-of-{name}")
        for tensor in CODE.findall(row[0])
    }
    met = set()
    for tensor, value in network.state_dict().items():
        (pattern,) = (p for p in rows if re.fullmatch(p, tensor))
        met.add(pattern)
        check_shape(tuple(value.shape), rows[pattern], known, free=True)
    assert met == rows.keys()


def test_llamagens_tensors_are_those_of_a_vqgan(imported):
    record, network = imported["llamagen"]
    with torch.device("meta"):
        vqgan = build(NETWORKS["vqgan"], network.config).state_dict()
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in vqgan.items()}
    assert record["llamagen"] == network.config.to_json()
