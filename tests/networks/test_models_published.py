"""Halton-MaskGIT's and Google's networks, imported from their files, against their own outputs."""

import pytest
import torch
import torch.nn.functional as F
from published import FAMILIES, golden

from maskgit_cli.config.networks import (
    TOKENIZERS,
    TRANSFORMERS,
    GoogleConfig,
    GoogleVQGANConfig,
    HaltonConfig,
    TransformerConfig,
    VQGANConfig,
)
from maskgit_cli.errors import ConfigError
from maskgit_cli.networks.base import Codebook
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.networks.registry import build
from maskgit_cli.weights.importing import import_weights

TOLERANCE = {"atol": 1e-4, "rtol": 0}
FOLDERS = {"maskgit": "maskgit_v1", "halton": "halton", "google": "official_jax"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = tmp_path_factory.mktemp("imported")
    for name, family in FAMILIES.items():
        import_weights([family.transformer], root / name, tokenizer=family.tokenizer, heads=family.heads)
    return root


# --- against the published implementations ----------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_give_the_published_logits(imported, name):
    network = load_model(imported / name).network
    io = golden(f"{FOLDERS[name]}/transformer_io.npz")
    assert (io["tokens"] == network.mask_token).any()
    logits = network(io["tokens"], io["labels"], io.get("drop_label"))
    torch.testing.assert_close(logits, io["logits"], **TOLERANCE)


@pytest.mark.parametrize("name", ["maskgit", "halton"])
def test_tokenizers_give_the_published_indices_and_pixels(imported, name):
    network = load_tokenizer(imported / name).network
    io = golden(f"{FOLDERS[name]}/vqgan_io.npz")
    assert torch.equal(network.encode(io["images"]), io["indices"])
    torch.testing.assert_close(network.reconstruct(io["images"]), io["reconstruction"], **TOLERANCE)
    torch.testing.assert_close(network.decode(io["random_indices"]), io["decoded"], **TOLERANCE)


def test_googles_tokenizer_gives_the_published_indices_and_pixels(imported):
    network = load_tokenizer(imported / "google").network
    io = golden("official_jax/vqgan_io.npz")
    images = io["images_0_1_nhwc"].permute(0, 3, 1, 2) * 2 - 1
    assert torch.equal(network.encode(images), io["indices"].long())
    pixels = (network.reconstruct(images).permute(0, 2, 3, 1) + 1) / 2
    torch.testing.assert_close(pixels, io["reconstruction_nhwc"], **TOLERANCE)


# --- at the published sizes -------------------------------------------------------------------------

SIZES = {
    "maskgit": (TransformerConfig(768, 24, 16, 3072, 1024, 1000, 16), 174.161),
    "halton": (HaltonConfig(1024, 24, 16, 64, 2816, 16384, 1000, 24), 479.985),
    "google": (GoogleConfig(768, 24, 12, 3072, 1024, 1000, 16), 172.457),
    "vqgan": (VQGANConfig(), 72.142),
    "llamagen": (VQGANConfig(codebook_size=16384, embed_dim=8), 71.883),
    "google_vqgan": (GoogleVQGANConfig(), 54.516),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_at_the_published_sizes(name):
    sizes, millions = SIZES[name]
    with torch.device("meta"):
        network = build((TRANSFORMERS | TOKENIZERS)[name], sizes)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 3) == millions


# --- labels -----------------------------------------------------------------------------------------


def test_haltons_null_class_is_no_label(imported):
    network = load_model(imported / "halton").network
    io = golden("halton/transformer_io.npz")
    none = torch.full_like(io["labels"], -1)
    dropped = network(io["tokens"], io["labels"], torch.ones(4, dtype=torch.bool))
    assert torch.equal(network(io["tokens"], none), dropped)
    assert not torch.allclose(network(io["tokens"], io["labels"]), dropped, atol=1e-2)


def test_googles_transformer_needs_a_label_for_every_image(imported):
    network = load_model(imported / "google").network
    io = golden("official_jax/transformer_io.npz")
    keep = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(network(io["tokens"], io["labels"], keep), network(io["tokens"], io["labels"]))
    for labels, drop in (
        (torch.tensor([1, -1, 2]), None),
        (io["labels"], torch.tensor([False, True, False])),
    ):
        with pytest.raises(ConfigError, match="--label"):
            network(io["tokens"], labels, drop)
    assert not network.config.has_null_class
    assert load_model(imported / "halton").config.has_null_class


# --- parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["halton", "google"])
@pytest.mark.parametrize("training", [False, True])
def test_attention_is_fused_unless_something_is_dropped(imported, monkeypatch, name, training):
    network = load_model(imported / name).network.train(training)
    calls = []
    fused = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        calls.append((tuple(q.shape), options))
        return fused(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    network(torch.zeros(2, 8, 8, dtype=torch.int64), torch.tensor([0, 1]))
    assert calls == ([] if training else [((2, 4, 65, 12), {})] * 2)


def test_haltons_heads_may_be_narrower_than_a_token():
    sizes = HaltonConfig(16, 1, 3, 5, 32, 8, 2, 2, dropout=0.0)
    torch.manual_seed(0)
    network = build(TRANSFORMERS["halton"], sizes)
    assert network.blocks[0].attention.wq.weight.shape == (15, 16)
    logits = network(torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([0]))
    assert logits.shape == (1, 4, 9)


def test_llamagens_indices_do_not_depend_on_lengths(imported):
    book = load_tokenizer(imported / "halton").network.quantize
    z = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    indices = book.nearest(z)
    assert torch.equal(book.nearest(z * 1e3), indices)
    torch.testing.assert_close(book.lookup(indices).norm(dim=1), torch.ones(2, 3, 3))
    plain = Codebook(*book.embedding.weight.shape)
    plain.load_state_dict(book.state_dict())
    assert not torch.equal(plain.nearest(z), indices)


def test_googles_tokenizer_takes_any_multiple_of_its_factor(imported):
    network = load_tokenizer(imported / "google").network
    indices = network.encode(torch.zeros(1, 3, 24, 8))
    assert indices.shape == (1, 6, 2)
    assert network.decode(indices).shape == (1, 3, 24, 8)
    assert network.latents(torch.zeros(1, 3, 8, 8)).shape == (1, 32, 2, 2)
