"""Parameters and memory of the named sizes, computed from their configs: help pages import no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from maskgit_cli.config.networks import (
    TOKENIZER_SIZES,
    TRANSFORMERS,
    GoogleConfig,
    HaltonConfig,
    TransformerConfig,
    TransformerEntry,
    VQGANConfig,
)

# Training keeps per parameter, in float32: the weight, its gradient, the two moments of Adam, the EMA.
_BYTES_PER_PARAMETER = 5 * 4
# What the table of transformers assumes, as in the paper: tokens, classes, grid.
ASSUMED = {"codebook_size": 1024, "classes": 1000, "grid": 16}


def vqgan_parameters(config: VQGANConfig) -> int:
    """Number of parameters of a VQGAN."""
    widths = [config.channels * m for m in config.channel_multipliers]
    levels = [(width, config.resolution >> level) for level, width in enumerate(widths)]
    z, e, lowest, blocks = config.z_channels, config.embed_dim, widths[-1], config.residual_blocks
    middle = 2 * _residual(lowest, lowest) + (_attention(lowest) if config.middle_attention else 0)
    encoder = _convolution(3, config.channels) + _levels(config, config.channels, levels, blocks)
    encoder += middle + 2 * lowest + _convolution(lowest, z)
    decoder = _convolution(z, lowest) + middle + _levels(config, lowest, levels[::-1], blocks + 1)
    decoder += 2 * widths[0] + _convolution(widths[0], 3)
    codebook = config.codebook_size * e + _convolution(z, e, 1) + _convolution(e, z, 1)
    return encoder + codebook + decoder


def _levels(config: VQGANConfig, inputs: int, levels: list[tuple[int, int]], blocks: int) -> int:
    """Parameters of the levels of an encoder or decoder, of (width, side in pixels) each."""
    count = 0
    for width, side in levels:
        count += _residual(inputs, width) + (blocks - 1) * _residual(width, width)
        count += blocks * _attention(width) if side in config.attention_resolutions else 0
        inputs = width
    return count + sum(_convolution(width, width) for width, _ in levels[:-1])  # the changes of size


def _convolution(inputs: int, outputs: int, side: int = 3) -> int:
    return inputs * outputs * side**2 + outputs


def _residual(inputs: int, outputs: int) -> int:
    shortcut = _convolution(inputs, outputs, 1) if inputs != outputs else 0
    return (
        2 * inputs + _convolution(inputs, outputs) + 2 * outputs + _convolution(outputs, outputs) + shortcut
    )


def _attention(channels: int) -> int:
    return 2 * channels + 4 * _convolution(channels, channels, 1)


def transformer_parameters(config: TransformerConfig | HaltonConfig) -> int:
    """Number of parameters of a transformer of any network."""
    d, m, positions = config.width, config.mlp_width, config.grid**2
    if isinstance(config, HaltonConfig):
        inner = config.heads * config.head_width
        block = _linear(d, 6 * d) + 4 * d * inner + 3 * d * m + 2 * d
        tables = (config.codebook_size + 1 + config.classes + 1 + positions + config.registers) * d
        return tables + config.depth * block + 2 * d + _linear(d, 2 * d) + config.codebook_size + 1
    block = 4 * _linear(d, d) + _linear(d, m) + _linear(m, d) + 4 * d
    if isinstance(config, GoogleConfig):
        rows = config.codebook_size + config.classes + 1
        return (rows + positions + 1) * d + 4 * d + config.depth * block + _linear(d, d) + rows
    rows, length = config.codebook_size + 1 + config.classes + 1, positions + 1
    mlps = 3 * _linear(d, d) + 8 * d
    return (rows + length) * d + mlps + config.depth * block + length * rows


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


# --- tables -----------------------------------------------------------------------------------------

Table = list[tuple[str, ...]]


def tokenizer_table() -> Table:
    """The tokenizers that ``train-vqgan`` trains from scratch: a head, then one row per size."""
    head = ("size", "resolution", "factor", "codes", "tokens", "parameters", "memory")
    return [
        head,
        *(
            (
                name,
                f"{size.resolution} px",
                str(size.factor),
                str(size.codebook_size),
                f"{size.grid}×{size.grid}",
                *_amounts(vqgan_parameters(size)),
            )
            for name, size in TOKENIZER_SIZES.items()
        ),
    ]


def transformer_table() -> Table:
    """The transformers that ``train`` trains from scratch: a head, then one row per network and size."""
    head = ("network", "size", "width", "depth", "heads", "MLP", "parameters", "memory")
    return [
        head,
        *(
            (
                entry.name,
                name,
                str(size.width),
                str(size.depth),
                str(size.heads),
                str(size.mlp_width),
                *_amounts(transformer_parameters(_assumed(entry, size))),
            )
            for entry in TRANSFORMERS.values()
            for name, size in entry.sizes.items()
        ),
    ]


def _assumed(entry: TransformerEntry, size: Any) -> Any:
    return entry.config(**dataclasses.asdict(size), **ASSUMED)


def _amounts(parameters: int) -> tuple[str, str]:
    """Parameters in millions, and the memory of a training without its activations."""
    memory = parameters * _BYTES_PER_PARAMETER / 1e6
    shown = f"{memory / 1e3:.1f} GB" if memory >= 1000 else f"{memory:.0f} MB"
    return f"{parameters / 1e6:.3f} M", shown


TOKENIZER_NOTE = (
    "Factor: pixels per token on a side. Memory: weights, gradients, Adam and EMA; "
    "activations come on top and grow with --batch-size."
)
TRANSFORMER_NOTE = (
    "With {codebook_size:,} codes, {classes:,} classes and {grid}×{grid} tokens. Memory: weights, gradients, "
    "AdamW and EMA; activations come on top and grow with --batch-size."
).format(**ASSUMED)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text: columns of the width of their longest cell, numbers to the right."""
    columns = list(zip(*table, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [any(cell[:1].isdigit() for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in table
    ]
