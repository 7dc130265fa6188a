"""The sizes of published networks, inferred from the shapes of their tensors.

Shapes do not contain the number of attention heads (except Google's), how a table's rows divide into tokens
and classes (except Halton-MaskGIT's), the groups of group normalizations, nor the resolution that a tokenizer
was made for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from maskgit_cli.config.networks import (
    GoogleConfig,
    GoogleVQGANConfig,
    HaltonConfig,
    Pyramid,
    TransformerConfig,
    VQGANConfig,
)
from maskgit_cli.errors import ConfigError, WeightsError
from maskgit_cli.weights.names import PublishedWeights

# Resolution in pixels that all published tokenizers were first made for.
RESOLUTION = 256
V1_HEADS = 16
# Halton-MaskGIT's heads by the width of a token and of all heads together.
HALTON_HEADS = {
    (256, 256): 4,
    (384, 384): 6,
    (512, 510): 6,
    (512, 512): 8,
    (768, 768): 12,
    (1024, 1024): 16,
    (1152, 1152): 16,
}


def _shape(weights: PublishedWeights, name: str, sides: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are inferred from."""
    if name not in weights.tensors:
        raise _unlike(weights, f"1 key missing: {name}")
    shape = tuple(weights.tensors[name].shape)
    if len(shape) != sides or 0 in shape:
        raise _unlike(weights, f"{name} has shape {shape}")
    return shape


def _unlike(weights: PublishedWeights, fault: str) -> WeightsError:
    """The error for weights that do not fit the published network."""
    return WeightsError(f"{weights.path} is not {weights.spec.title} as published: {fault}")


def _count(weights: PublishedWeights, pattern: str) -> int:
    """How many different numbers the group of a pattern matches at the beginning of names."""
    return len({m[1] for name in weights.tensors if (m := re.match(pattern, name))})


# --- transformers -----------------------------------------------------------------------------------


def grid_of(weights: PublishedWeights) -> int:
    """Tokens per side of an image: positions are grid² or, with the class token, grid² + 1."""
    name = weights.spec.positions
    sides = 3 if weights.spec.network == "maskgit" else 2
    return math.isqrt(_shape(weights, name, sides)[-2])


def _classes(weights: PublishedWeights, rows: int, codes: int, others: int) -> int:
    """Number of classes in a table of tokens, classes and ``others``."""
    if rows < codes + others:
        raise ConfigError(
            f"{weights.path} has {rows} rows for tokens and classes, too few for the {codes} tokens of the "
            "tokenizer; give the one that it was trained with"
        )
    return rows - codes - others


def _v1(weights: PublishedWeights, codes: int, heads: int | None) -> TransformerConfig:
    rows, width = _shape(weights, "tok_emb.weight", 2)
    return TransformerConfig(
        width=width,
        depth=_count(weights, r"transformer\.layers\.(\d+)\."),
        heads=V1_HEADS if heads is None else heads,
        mlp_width=_shape(weights, "transformer.layers.0.1.fn.net.0.weight", 2)[0],
        codebook_size=codes,
        classes=_classes(weights, rows, codes, 2),  # the mask and the null class
        grid=grid_of(weights),
    )


def _halton(weights: PublishedWeights, codes: int, heads: int | None) -> HaltonConfig:
    rows, width = _shape(weights, "tok_emb.weight", 2)
    inner = _shape(weights, "transformer.layers.0.attn.wq.weight", 2)[0]
    heads = HALTON_HEADS.get((width, inner)) if heads is None else heads
    if heads is None:
        raise ConfigError(
            f"{weights.path} has a width of {width}, which was not published: give its number of heads "
            "with --heads"
        )
    if inner % heads:
        raise ConfigError(f"--heads {heads}: must be a divisor of the {inner} features of all heads")
    return HaltonConfig(
        width=width,
        depth=_count(weights, r"transformer\.layers\.(\d+)\."),
        heads=heads,
        head_width=inner // heads,
        mlp_width=_shape(weights, "transformer.layers.0.ff.w1.weight", 2)[0],
        codebook_size=rows - 1,
        classes=_shape(weights, "cls_emb.weight", 2)[0] - 1,
        grid=grid_of(weights),
        registers=_shape(weights, "reg_tokens.weight", 2)[0],
    )


def _google(weights: PublishedWeights, codes: int, heads: int | None) -> GoogleConfig:
    rows, width = _shape(weights, "Embed_0/word_embeddings/embedding", 2)
    query = "TransformerLayer_0/Attention_0/self_attention/query/kernel"
    found = _shape(weights, query, 3)[1]
    if heads not in (None, found):
        raise ConfigError(f"--heads {heads}: the shapes in {weights.path} have {found}")
    return GoogleConfig(
        width=width,
        depth=_count(weights, r"TransformerLayer_(\d+)/"),
        heads=found,
        mlp_width=_shape(weights, "TransformerLayer_0/Mlp_0/intermediate_output/kernel", 2)[1],
        codebook_size=codes,
        classes=_classes(weights, rows, codes, 1),  # the mask
        grid=grid_of(weights),
    )


def transformer_sizes(weights: PublishedWeights, codes: int, heads: int | None) -> Any:
    """Sizes of a published transformer.

    Args:
        weights: the published weights.
        codes: codebook size K of the tokenizer it was trained with.
        heads: attention heads; None takes the published number, unless the shapes have it.

    Raises:
        ConfigError: ``heads`` is impossible, or has to be given, or ``codes`` does not fit this network.
        WeightsError: a tensor that sizes are inferred from is missing or of another shape.
    """
    known: dict[str, Callable[[PublishedWeights, int, int | None], Any]] = {
        "maskgit": _v1,
        "halton": _halton,
        "google": _google,
    }
    sizes = known[weights.spec.network](weights, codes, heads)
    if sizes.codebook_size != codes:
        raise ConfigError(
            f"{weights.path} is for {sizes.codebook_size} tokens, the tokenizer has {codes}; "
            "give the tokenizer that it was trained with"
        )
    return sizes


# --- tokenizers -------------------------------------------------------------------------------------


def _multipliers(weights: PublishedWeights, channels: int, widths: list[int]) -> tuple[int, ...]:
    """Channels of each level as multiples of those at full resolution."""
    if any(width % channels for width in widths):
        raise _unlike(weights, f"its levels of {widths} channels are not multiples of {channels}")
    return tuple(width // channels for width in widths)


def _pyramid(weights: PublishedWeights, resolution: int, level: str, block: str) -> VQGANConfig:
    """Sizes of a VQGAN whose levels and blocks have these names."""
    channels = _shape(weights, "encoder.conv_in.weight", 4)[0]
    levels = range(_count(weights, rf"encoder\.{level}\.(\d+)\."))
    widths = [_shape(weights, f"encoder.{level}.{i}.{block}.0.conv2.weight", 4)[0] for i in levels]
    attending = [i for i in levels if _count(weights, rf"encoder\.{level}\.{i}\.attn\.(\d+)\.")]
    codes, embed_dim = _shape(weights, "quantize.embedding.weight", 2)
    return VQGANConfig(
        resolution=resolution,
        channels=channels,
        channel_multipliers=_multipliers(weights, channels, widths),
        residual_blocks=_count(weights, rf"encoder\.{level}\.0\.{block}\.(\d+)\."),
        attention_resolutions=tuple(resolution >> i for i in attending),
        z_channels=_shape(weights, "encoder.conv_out.weight", 4)[0],
        embed_dim=embed_dim,
        codebook_size=codes,
    )


def _vqgan(weights: PublishedWeights, resolution: int) -> VQGANConfig:
    return _pyramid(weights, resolution, "down", "block")


def _llamagen(weights: PublishedWeights, resolution: int) -> VQGANConfig:
    return _pyramid(weights, resolution, "conv_blocks", "res")


def _google_vqgan(weights: PublishedWeights, resolution: int) -> GoogleVQGANConfig:
    channels = _shape(weights, "encoder/Conv_0/kernel", 4)[3]
    # The decoder has a convolution at its beginning, one after each of f's doublings, and one at its end.
    levels = _count(weights, r"decoder/Conv_(\d+)/") - 1
    blocks = _count(weights, r"encoder/ResBlock_(\d+)/")
    if levels < 1 or blocks % (levels + 1):
        raise _unlike(weights, f"its {blocks} blocks do not divide into {levels} levels and the middle")
    each = blocks // (levels + 1)
    firsts = [f"encoder/ResBlock_{i * each}/Conv_0/kernel" for i in range(levels)]
    widths = [_shape(weights, name, 4)[3] for name in firsts]
    codes, embed_dim = _shape(weights, "quantizer/codebook", 2)
    return GoogleVQGANConfig(
        resolution=resolution,
        channels=channels,
        channel_multipliers=_multipliers(weights, channels, widths),
        residual_blocks=each,
        embed_dim=embed_dim,
        codebook_size=codes,
    )


def tokenizer_sizes(weights: PublishedWeights, resolution: int) -> Any:
    """Sizes of a published tokenizer.

    Args:
        weights: the published weights.
        resolution: image side in pixels.

    Raises:
        ConfigError: the network cannot have that resolution.
        WeightsError: a tensor that sizes are inferred from is missing or of another shape.
    """
    known: dict[str, Callable[[PublishedWeights, int], Pyramid]] = {
        "vqgan": _vqgan,
        "llamagen": _llamagen,
        "google_vqgan": _google_vqgan,
    }
    return known[weights.spec.network](weights, resolution)


def check_model_yaml(sizes: VQGANConfig, values: Mapping[str, Any], path: object) -> None:
    """Check the sizes of a VQGAN against the ``model.yaml`` it was published with.

    Raises:
        WeightsError: they differ; the setting is named.
    """
    inner = values["ddconfig"]
    attends = inner.get("attn_resolutions")
    pairs = {
        "n_embed": (values.get("n_embed"), sizes.codebook_size),
        "embed_dim": (values.get("embed_dim"), sizes.embed_dim),
        "ch": (inner.get("ch"), sizes.channels),
        "ch_mult": (inner.get("ch_mult"), list(sizes.channel_multipliers)),
        "num_res_blocks": (inner.get("num_res_blocks"), sizes.residual_blocks),
        # A set in a list: configs name the resolutions in any order.
        "attn_resolutions": (attends and sorted(attends), sorted(sizes.attention_resolutions)),
        "z_channels": (inner.get("z_channels"), sizes.z_channels),
        "double_z": (inner.get("double_z", False), False),
        "in_channels": (inner.get("in_channels", 3), 3),
        "out_ch": (inner.get("out_ch", 3), 3),
    }
    for key, (stated, found) in pairs.items():
        if stated is not None and stated != found:
            raise WeightsError(
                f"{path} has {key} {stated}, but the tensors have {found}; give the right file"
            )
