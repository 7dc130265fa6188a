"""The sizes of published networks, read off the shapes of their tensors.

Shapes don't tell the number of attention heads (but Google's do), how a table's rows divide into codes
and classes (but Halton-MaskGIT's do), the groups of group normalizations, nor the side of the images
that a tokenizer was made for.
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
from maskgit_cli.weights.names import Published

# Side in pixels of the images that all published tokenizers were first made for.
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


def _shape(published: Published, name: str, sides: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from."""
    if name not in published.tensors:
        raise _unlike(published, f"it lacks 1 tensor: {name}")
    shape = tuple(published.tensors[name].shape)
    if len(shape) != sides or 0 in shape:
        raise _unlike(published, f"{name} has shape {shape}")
    return shape


def _unlike(published: Published, fault: str) -> WeightsError:
    """An error that says what is not as it should be."""
    return WeightsError(f"{published.path} is not {published.family.title} as published: {fault}")


def _count(published: Published, pattern: str) -> int:
    """How many different numbers stand in the group of a pattern that names begin with."""
    return len({m[1] for name in published.tensors if (m := re.match(pattern, name))})


# --- transformers -----------------------------------------------------------------------------------


def grid_of(published: Published) -> int:
    """Codes on a side of a transformer's image: its positions are grid² or, with the class, grid² + 1."""
    name = published.family.positions
    sides = 3 if published.family.network == "maskgit" else 2
    return math.isqrt(_shape(published, name, sides)[-2])


def _classes(published: Published, rows: int, codes: int, others: int) -> int:
    """Classes in a table that has codes, classes and ``others``."""
    if rows < codes + others:
        raise ConfigError(
            f"{published.path} has {rows} rows for codes and classes, too few for the {codes} codes of the "
            "tokenizer; name the one that it was trained with"
        )
    return rows - codes - others


def _v1(published: Published, codes: int, heads: int | None) -> TransformerConfig:
    rows, width = _shape(published, "tok_emb.weight", 2)
    return TransformerConfig(
        width=width,
        depth=_count(published, r"transformer\.layers\.(\d+)\."),
        heads=V1_HEADS if heads is None else heads,
        mlp_width=_shape(published, "transformer.layers.0.1.fn.net.0.weight", 2)[0],
        codebook_size=codes,
        classes=_classes(published, rows, codes, 2),  # the mask and the dropped class
        grid=grid_of(published),
    )


def _halton(published: Published, codes: int, heads: int | None) -> HaltonConfig:
    rows, width = _shape(published, "tok_emb.weight", 2)
    inner = _shape(published, "transformer.layers.0.attn.wq.weight", 2)[0]
    heads = HALTON_HEADS.get((width, inner)) if heads is None else heads
    if heads is None:
        raise ConfigError(
            f"{published.path} has a width of {width}, which was not published: say its number of heads "
            "with --heads"
        )
    if inner % heads:
        raise ConfigError(f"--heads {heads}: must be a divisor of the {inner} features of all heads")
    return HaltonConfig(
        width=width,
        depth=_count(published, r"transformer\.layers\.(\d+)\."),
        heads=heads,
        head_width=inner // heads,
        mlp_width=_shape(published, "transformer.layers.0.ff.w1.weight", 2)[0],
        codebook_size=rows - 1,
        classes=_shape(published, "cls_emb.weight", 2)[0] - 1,
        grid=grid_of(published),
        registers=_shape(published, "reg_tokens.weight", 2)[0],
    )


def _google(published: Published, codes: int, heads: int | None) -> GoogleConfig:
    rows, width = _shape(published, "Embed_0/word_embeddings/embedding", 2)
    query = "TransformerLayer_0/Attention_0/self_attention/query/kernel"
    told = _shape(published, query, 3)[1]
    if heads not in (None, told):
        raise ConfigError(f"--heads {heads}: the shapes in {published.path} say {told}")
    return GoogleConfig(
        width=width,
        depth=_count(published, r"TransformerLayer_(\d+)/"),
        heads=told,
        mlp_width=_shape(published, "TransformerLayer_0/Mlp_0/intermediate_output/kernel", 2)[1],
        codebook_size=codes,
        classes=_classes(published, rows, codes, 1),  # the mask
        grid=grid_of(published),
    )


def transformer_sizes(published: Published, codes: int, heads: int | None) -> Any:
    """Sizes of a published transformer.

    Args:
        published: its weights.
        codes: K, of the tokenizer it was trained with.
        heads: attention heads; None takes what was published, unless shapes tell.

    Raises:
        ConfigError: ``heads`` cannot be, or has to be given, or ``codes`` is not of this network.
        WeightsError: a tensor that sizes are read from is missing or of another shape.
    """
    known: dict[str, Callable[[Published, int, int | None], Any]] = {
        "maskgit": _v1,
        "halton": _halton,
        "google": _google,
    }
    sizes = known[published.family.network](published, codes, heads)
    if sizes.codebook_size != codes:
        raise ConfigError(
            f"{published.path} is for {sizes.codebook_size} codes, the tokenizer has {codes}; "
            "name the tokenizer that it was trained with"
        )
    return sizes


# --- tokenizers -------------------------------------------------------------------------------------


def _multipliers(published: Published, channels: int, widths: list[int]) -> tuple[int, ...]:
    """Features of each level as multiples of those at full resolution."""
    if any(width % channels for width in widths):
        raise _unlike(published, f"its levels of {widths} features are no multiples of {channels}")
    return tuple(width // channels for width in widths)


def _pyramid(published: Published, resolution: int, level: str, block: str) -> VQGANConfig:
    """Sizes of a VQGAN whose levels and blocks have names that begin so."""
    channels = _shape(published, "encoder.conv_in.weight", 4)[0]
    levels = range(_count(published, rf"encoder\.{level}\.(\d+)\."))
    widths = [_shape(published, f"encoder.{level}.{i}.{block}.0.conv2.weight", 4)[0] for i in levels]
    attending = [i for i in levels if _count(published, rf"encoder\.{level}\.{i}\.attn\.(\d+)\.")]
    codes, embed_dim = _shape(published, "quantize.embedding.weight", 2)
    return VQGANConfig(
        resolution=resolution,
        channels=channels,
        channel_multipliers=_multipliers(published, channels, widths),
        residual_blocks=_count(published, rf"encoder\.{level}\.0\.{block}\.(\d+)\."),
        attention_resolutions=tuple(resolution >> i for i in attending),
        z_channels=_shape(published, "encoder.conv_out.weight", 4)[0],
        embed_dim=embed_dim,
        codebook_size=codes,
    )


def _vqgan(published: Published, resolution: int) -> VQGANConfig:
    return _pyramid(published, resolution, "down", "block")


def _llamagen(published: Published, resolution: int) -> VQGANConfig:
    return _pyramid(published, resolution, "conv_blocks", "res")


def _google_vqgan(published: Published, resolution: int) -> GoogleVQGANConfig:
    channels = _shape(published, "encoder/Conv_0/kernel", 4)[3]
    # The decoder has a convolution at its beginning, one after each of f's doublings, and one at its end.
    levels = _count(published, r"decoder/Conv_(\d+)/") - 1
    blocks = _count(published, r"encoder/ResBlock_(\d+)/")
    if levels < 1 or blocks % (levels + 1):
        raise _unlike(published, f"its {blocks} blocks do not divide into {levels} levels and the bottom")
    each = blocks // (levels + 1)
    firsts = [f"encoder/ResBlock_{i * each}/Conv_0/kernel" for i in range(levels)]
    widths = [_shape(published, name, 4)[3] for name in firsts]
    codes, embed_dim = _shape(published, "quantizer/codebook", 2)
    return GoogleVQGANConfig(
        resolution=resolution,
        channels=channels,
        channel_multipliers=_multipliers(published, channels, widths),
        residual_blocks=each,
        embed_dim=embed_dim,
        codebook_size=codes,
    )


def tokenizer_sizes(published: Published, resolution: int) -> Any:
    """Sizes of a published tokenizer.

    Args:
        published: its weights.
        resolution: side in pixels of the images it is for.

    Raises:
        ConfigError: the network cannot be for that resolution.
        WeightsError: a tensor that sizes are read from is missing or of another shape.
    """
    known: dict[str, Callable[[Published, int], Pyramid]] = {
        "vqgan": _vqgan,
        "llamagen": _llamagen,
        "google_vqgan": _google_vqgan,
    }
    return known[published.family.network](published, resolution)


def check_model_yaml(sizes: VQGANConfig, values: Mapping[str, Any], path: object) -> None:
    """Hold the sizes of a VQGAN to the ``model.yaml`` it was published with.

    Raises:
        WeightsError: they differ; the setting is named.
    """
    inner = values["ddconfig"]
    pairs = {
        "n_embed": (values.get("n_embed"), sizes.codebook_size),
        "embed_dim": (values.get("embed_dim"), sizes.embed_dim),
        "ch": (inner.get("ch"), sizes.channels),
        "ch_mult": (inner.get("ch_mult"), list(sizes.channel_multipliers)),
        "num_res_blocks": (inner.get("num_res_blocks"), sizes.residual_blocks),
        "attn_resolutions": (inner.get("attn_resolutions"), list(sizes.attention_resolutions)),
        "z_channels": (inner.get("z_channels"), sizes.z_channels),
        "double_z": (inner.get("double_z", False), False),
        "in_channels": (inner.get("in_channels", 3), 3),
        "out_ch": (inner.get("out_ch", 3), 3),
    }
    for key, (said, found) in pairs.items():
        if said is not None and said != found:
            raise WeightsError(f"{path} says {key} {said}, but the tensors say {found}; name the right file")
