"""The registry: its entries, the networks they name, and their initial weights."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskgit_cli.config.catalogue import CATALOGUE
from maskgit_cli.config.networks import SIZES, TOKENIZERS, TRAINABLE, TRANSFORMERS
from maskgit_cli.config.samplers import SAMPLERS
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.tensors import write_tensors
from maskgit_cli.networks import loading
from maskgit_cli.networks.base import ImageTokenizer, MaskedTransformer
from maskgit_cli.networks.registry import build, network_of

TINY = {"width": 32, "depth": 1, "heads": 4, "mlp_width": 64, "head_width": 8}


def tiny_config(name):
    """Sizes of a small network of an entry: 12 tokens, 3 classes, a 4×4 grid."""
    config = TRANSFORMERS[name].config
    sizes = {field.name: TINY[field.name] for field in dataclasses.fields(config) if field.name in TINY}
    return config(**sizes, codebook_size=12, classes=3, grid=4, dropout=0.0)


def tiny(name):
    """That network."""
    return build(TRANSFORMERS[name], tiny_config(name))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_is_what_its_entry_says(name):
    torch.manual_seed(0)
    entry, network = TRANSFORMERS[name], tiny(name).eval()
    assert entry.name == name
    assert isinstance(network, MaskedTransformer)
    assert entry.sampler in SAMPLERS
    tensors = network.state_dict()
    for table, (before, after) in entry.positions.items():
        assert tensors[table].shape[-2] == before + 16 + after
    assert network.mask_token == 12
    tokens = torch.full((2, 4, 4), network.mask_token)
    logits = network(tokens, torch.tensor([0, 1]))
    assert logits.shape[:2] == (2, 16)
    assert logits.shape[2] in (12, 13)
    if entry.config.has_null_class:
        assert torch.isfinite(network(tokens, torch.tensor([-1, -1]))).all()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_is_what_its_entry_says(name):
    entry = TOKENIZERS[name]
    assert entry.name == name
    assert entry.trainable == (name == "vqgan")
    with torch.device("meta"):
        assert isinstance(build(entry, entry.config()), ImageTokenizer)


def test_every_transformer_is_trained_by_its_named_sizes():
    assert set(TRAINABLE) == set(TRANSFORMERS)
    for entry in TRANSFORMERS.values():
        for name, size in entry.sizes.items():
            config = entry.config(**dataclasses.asdict(size), codebook_size=12, classes=3, grid=4)
            assert entry.size_name(config) == name
            assert entry.size_name(dataclasses.replace(config, width=96)) is None
    assert TRANSFORMERS["maskgit"].sizes is SIZES


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name.startswith("halton-256")])
def test_haltons_sizes_are_the_published_ones(name):
    """Parameter counts in millions as the authors give them: 23.0, 69.3, 142.2 and 479.7."""
    size = TRANSFORMERS["halton"].sizes[name.rsplit("-", 1)[1]]
    assert size.heads == CATALOGUE[name].heads
    entry = TRANSFORMERS["halton"]
    config = entry.config(**dataclasses.asdict(size), codebook_size=16384, classes=1000, grid=16)
    with torch.device("meta"):
        assert sum(p.numel() for p in build(entry, config).parameters()) == CATALOGUE[name].parameters


def test_googles_base_is_the_published_one():
    entry = TRANSFORMERS["google"]
    size = dataclasses.asdict(entry.sizes["base"])
    config = entry.config(**size, codebook_size=1024, classes=1000, grid=16)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(entry, config).parameters())
    assert (parameters, config.heads) == (CATALOGUE["google-256"].parameters, CATALOGUE["google-256"].heads)


def test_haltons_blocks_are_the_identity_at_first():
    """adaLN-Zero: with zero gates, a block's output is its input."""
    torch.manual_seed(0)
    network = tiny("halton").eval()
    x, condition = torch.randn(2, 17, 32), torch.randn(2, 32)
    assert torch.equal(network.blocks[0](x, condition), x)
    assert not network.blocks[0].modulation.bias.any()
    assert network.last_norm.modulation.weight.any()
    assert 0.015 < network.embedding.weight.std() < 0.025
    bound = (6 / (32 + 32)) ** 0.5  # of Xavier's uniform distribution
    assert 0.8 * bound < network.blocks[0].attention.wq.weight.abs().max() <= bound


def test_googles_initial_weights_are_berts():
    torch.manual_seed(0)
    for name, value in tiny("google").named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" not in name:
            assert value.abs().max() <= 0.04, name
            assert 0.01 < value.std() < 0.03, name


@pytest.mark.parametrize("name", [*TRANSFORMERS, *TOKENIZERS])
def test_a_network_is_loaded_without_being_initialized(name, tmp_path):
    """Nothing but its file decides what a loaded network holds: all tensors are in it, none is random."""
    entry = {**TRANSFORMERS, **TOKENIZERS}[name]
    small = {"resolution": 16, "channels": 8, "embed_dim": 4, "codebook_size": 12, "norm_groups": 4}
    config = tiny_config(name) if name in TRANSFORMERS else entry.config(**small)
    torch.manual_seed(1)
    wanted = build(entry, config)
    write_tensors(tmp_path / "w.safetensors", wanted.state_dict())
    before = torch.random.get_rng_state()
    network, digest = loading._load(entry, config, tmp_path / "w.safetensors", None)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert digest == sha256_file(tmp_path / "w.safetensors")
    for kind in ("parameters", "buffers"):
        for one, other in zip(getattr(network, kind)(), getattr(wanted, kind)(), strict=True):
            assert one.device.type == "cpu"
            assert one.data_ptr() % 64 == 0  # as torch allocates it, not as it lies in the file
            assert torch.equal(one, other)
    with pytest.raises(ArtifactError, match="is damaged: its sha256"):
        loading._load(entry, config, tmp_path / "w.safetensors", "0" * 64)


def test_loading_does_not_import_a_compiler():
    code = (
        "import sys; from maskgit_cli.formats.models import builtin_model; "
        "from maskgit_cli import load_model; load_model(builtin_model()); "
        "print({'torch._dynamo', 'sympy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_unknown_network_is_an_error():
    assert network_of({}, TRANSFORMERS, "maskgit", Path("x")).name == "maskgit"
    with pytest.raises(ArtifactError, match=r"'gpt'.*maskgit, halton, google"):
        network_of({"network": "gpt"}, TRANSFORMERS, "maskgit", Path("x"))


def test_the_registry_does_not_import_torch():
    code = "import sys, maskgit_cli.networks.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
