"""The catalogue of published models against the networks they are for."""

import re

import pytest
import torch
from documents import ROOT, Document

from maskgit_cli.config.catalogue import CATALOGUE, ORIGINS, published_model
from maskgit_cli.config.networks import GoogleConfig, HaltonConfig, TransformerConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.networks.google import GoogleMaskGIT
from maskgit_cli.networks.halton import HaltonMaskGIT
from maskgit_cli.networks.maskgit import MaskGIT

# Width, depth, head width and MLP width of Halton-MaskGIT's sizes, in its repository.
HALTON = {
    "tiny": (384, 6, 64, 1024),
    "small": (512, 12, 85, 1536),
    "base": (768, 12, 64, 2048),
    "large": (1024, 24, 64, 2816),
}


def network(model):
    """A published model's network at its full size, without memory for its weights."""
    grid = model.resolution // 16
    with torch.device("meta"):
        if model.family == "halton":
            width, depth, head_width, mlp_width = HALTON[model.name.rsplit("-", 1)[1]]
            sizes = HaltonConfig(width, depth, model.heads, head_width, mlp_width, 16384, 1000, grid)
            return HaltonMaskGIT(sizes)
        sizes = (768, 24, model.heads, 3072, 1024, 1000, grid)
        if model.family == "google":
            return GoogleMaskGIT(GoogleConfig(*sizes))
        return MaskGIT(TransformerConfig(*sizes))


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_parameters_are_those_of_the_network(model):
    assert sum(p.numel() for p in network(model).parameters()) == model.parameters


def test_the_published_numbers():
    """Parameters in millions, and FID, as the authors' pages round them."""
    shown = {name: (round(m.parameters / 1e6), m.fid) for name, m in CATALOGUE.items()}
    assert shown == {
        "maskgit-256": (174, 6.80),
        "maskgit-512": (176, 7.26),
        "halton-256-tiny": (23, 10.2),
        "halton-256-small": (69, 6.40),
        "halton-256-base": (142, 4.17),
        "halton-256-large": (480, None),
        "halton-384-tiny": (23, None),
        "halton-384-small": (70, 6.11),
        "halton-384-base": (142, 4.15),
        "halton-384-large": (480, 2.59),
        "google-256": (172, 6.06),
        "google-512": (173, 7.32),
    }
    assert f"{CATALOGUE['maskgit-256'].parameters / 1e6:.3f}" == "174.161"


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_entries_are_whole(model):
    assert model.family in ORIGINS
    assert str(model.resolution) in model.name
    for file in model.files:
        assert file.on_hub == (re.fullmatch(r"[\w.-]+/[\w.-]+", file.source) is not None)
        assert file.on_hub or file.source.startswith("https://")
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        # Every file holds at least the weights, in four bytes each.
        if file is model.weights and file.bytes:
            assert file.bytes > 4 * model.parameters


def test_sizes():
    assert CATALOGUE["maskgit-256"].bytes == 2_090_306_069 + 957_954_257 + 645
    assert CATALOGUE["halton-384-large"].bytes == 1_920_000_000 + 288_000_000
    assert CATALOGUE["google-256"].bytes is None


def test_names():
    assert published_model("maskgit-256") is CATALOGUE["maskgit-256"]
    with pytest.raises(ConfigError, match=r"Maskgit-255 .*maskgit-256"):
        published_model("Maskgit-255")
    with pytest.raises(ConfigError, match="halton-384-large, google-256"):
        published_model("???")


def test_the_document_has_the_same_table():
    rows = Document(ROOT / "docs" / "weights.md").rows("published-weights")
    sizes = {m.name: f"{m.bytes / 1e9:.2f} GB" if m.bytes else "-" for m in CATALOGUE.values()}
    assert rows == [
        [
            f"`{m.name}`",
            f"{m.parameters / 1e6:.3f} M",
            f"{m.resolution} px",
            f"{m.fid:.2f}" if m.fid else "-",
            sizes[m.name],
            ORIGINS[m.family].license,
        ]
        for m in CATALOGUE.values()
    ]
