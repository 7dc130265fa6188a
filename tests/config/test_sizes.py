"""Parameters and memory of the named sizes: counted without torch, compared with the networks."""

import dataclasses

import pytest
import torch
from published import FAMILIES

from maskgit_cli.config.networks import ATTENTION, TOKENIZER_SIZES, TOKENIZERS, TRANSFORMERS, VQGANConfig
from maskgit_cli.config.sizes import (
    ASSUMED,
    aligned,
    tokenizer_table,
    transformer_parameters,
    transformer_table,
    vqgan_parameters,
)
from maskgit_cli.networks.loading import load_model
from maskgit_cli.networks.registry import build
from maskgit_cli.weights.importing import import_weights


def count(entry, config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(entry, config).parameters())


ODD = VQGANConfig(
    resolution=32,
    channels=8,
    channel_multipliers=(1, 3, 3, 2),
    residual_blocks=3,
    attention_resolutions=(32, 8),
    z_channels=12,
    embed_dim=5,
    codebook_size=33,
    norm_groups=4,
)


@pytest.mark.parametrize("config", [*TOKENIZER_SIZES.values(), ODD], ids=[*TOKENIZER_SIZES, "odd"])
def test_parameters_of_a_vqgan(config):
    assert vqgan_parameters(config) == count(TOKENIZERS["vqgan"], config)


@pytest.mark.parametrize(
    ("network", "size"), [(entry.name, size) for entry in TRANSFORMERS.values() for size in entry.sizes]
)
def test_parameters_of_a_transformer(network, size):
    entry = TRANSFORMERS[network]
    for tables in (ASSUMED, {"codebook_size": 99, "classes": 7, "grid": 3}):
        config = entry.config(**dataclasses.asdict(entry.sizes[size]), **tables)
        assert transformer_parameters(config) == count(entry, config)


def test_parameters_of_a_model_with_sizes_of_its_own(tmp_path):
    family = FAMILIES["halton"]
    import_weights([family.transformer], tmp_path / "m", tokenizer=family.tokenizer, heads=family.heads)
    model = load_model(tmp_path / "m")
    assert transformer_parameters(model.config) == sum(p.numel() for p in model.network.parameters())


def test_the_tables_have_every_size_once():
    rows = tokenizer_table()[1:]
    assert [row[0] for row in rows] == [*TOKENIZER_SIZES]
    assert rows[0] == ("f16", "256 px", "16", "1024", "16×16", "72.142 M", "1.4 GB")
    rows = transformer_table()[1:]
    assert [row[:2] for row in rows] == [(e.name, size) for e in TRANSFORMERS.values() for size in e.sizes]
    base = next(row for row in rows if row[:2] == ("maskgit", "base"))
    assert base[-2:] == ("174.161 M", "3.5 GB")


def test_columns_are_aligned():
    assert aligned([("size", "n"), ("a", "10"), ("long", "9")]) == ["size   n", "a     10", "long   9"]


def test_latent_diffusions_tokenizer_is_as_published():
    """VQ-f8 of arXiv 2112.10752: 32×32 tokens of 16,384 codes with 4 numbers each."""
    f8 = TOKENIZER_SIZES["f8"]
    assert (f8.factor, f8.grid, f8.attention) == (8, 32, "lowest")
    with torch.device("meta"):
        network = build(TOKENIZERS["vqgan"], f8)
    assert network.quantize.embedding.weight.shape == (16384, 4)
    assert network.encoder.conv_out.weight.shape == (4, 512, 3, 3)
    assert [len(level.attn) for level in network.encoder.down] == [0, 0, 0, 2]


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_chosen_by_name(name):
    for own in TOKENIZER_SIZES.values():
        sizes = own.with_attention(name)
        assert sizes.attention == name
        with torch.device("meta"):
            modules = [key for key, _ in build(TOKENIZERS["vqgan"], sizes).named_modules() if "attn" in key]
        assert any("mid.attn_1.q" in key for key in modules) is (name != "none")
        lowest = len(sizes.channel_multipliers) - 1
        found = {key.split(".")[2] for key in modules if key.startswith("encoder.down") and ".q" in key}
        assert found == ({str(lowest)} if name == "lowest" else set())
        assert own.with_attention(own.attention) == own.with_attention(None) == own


def test_attention_elsewhere_has_no_name():
    assert ODD.attention is None
    assert dataclasses.replace(ODD, attention_resolutions=(99,)).attention == "middle"
    assert ODD.with_attention("none").attention == "none"
