"""A tokenizer and a transformer of a few thousand random weights, written as real artifacts."""

from pathlib import Path

import torch

from maskgit_cli.config.networks import TRANSFORMERS, TransformerConfig, VQGANConfig
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.models import save_model
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.loading import save_tokenizer
from maskgit_cli.networks.maskgit import MaskGIT
from maskgit_cli.networks.registry import build
from maskgit_cli.networks.vqgan import VQGAN

CODES, GRID, RESOLUTION = 12, 4, 16
NAMES = ["cat", "dog", "owl"]
VQGAN_SIZES = VQGANConfig(
    resolution=RESOLUTION,
    channels=8,
    channel_multipliers=(1, 1, 2),
    residual_blocks=1,
    attention_resolutions=(),
    z_channels=8,
    embed_dim=4,
    codebook_size=CODES,
    norm_groups=4,
)


def tiny_sizes(classes: int = 3, grid: int = GRID) -> TransformerConfig:
    return TransformerConfig(32, 2, 4, 64, CODES, classes, grid, 0.0)


def tiny_transformer(classes: int = 3, grid: int = GRID, seed: int = 0) -> MaskGIT:
    """A transformer whose logits depend on position, token and class."""
    torch.manual_seed(seed)
    network = MaskGIT(tiny_sizes(classes, grid))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(False)


def make_tokenizer(path: Path, seed: int = 0) -> Path:
    """Write a tokenizer directory for 16 px images of 4×4 tokens."""
    torch.manual_seed(seed)
    network = VQGAN(VQGAN_SIZES)
    torch.nn.init.normal_(network.quantize.embedding.weight)
    save_tokenizer(path, network.state_dict(), VQGAN_SIZES)
    return path


def make_model(
    path: Path, names: list[str] | None = None, classes: int = 3, seed: int = 0, nan: bool = False
) -> Path:
    """Write a model directory with its tokenizer."""
    tokenizer = make_tokenizer(path.parent / f"{path.name}-tokenizer", seed)
    network = tiny_transformer(classes, seed=seed)
    if nan:  # finite weights whose products are not
        network.embedding.weight.fill_(3e38)
    record = {
        "transformer": network.config.to_json(),
        "class_names": NAMES[:classes] if names is None else names,
        "resolution": RESOLUTION,
        "tokenizer_sha256": sha256_file(tokenizer / "model.safetensors"),
    }
    save_model(path, network.state_dict(), record, tokenizer)
    return path


# Of each transformer, small enough for a test.
SMALL_NETWORKS = {
    "maskgit": {"width": 32, "depth": 3, "heads": 4, "mlp_width": 64},
    "google": {"width": 32, "depth": 3, "heads": 4, "mlp_width": 64},
    "halton": {"width": 32, "depth": 3, "heads": 4, "mlp_width": 64, "head_width": 8},
}


def make_network(name: str, dropout: float = 0.1) -> MaskedTransformer:
    """A transformer of a registry entry with random weights, for the tokens and classes of these models."""
    torch.manual_seed(0)
    entry = TRANSFORMERS[name]
    fields = {"codebook_size": CODES, "classes": len(NAMES), "grid": GRID, "dropout": dropout}
    return build(entry, entry.config(**SMALL_NETWORKS[name], **fields))
