"""Sizes of the networks, and the registry of networks: one entry per transformer and per tokenizer.

An entry names everything that other rooms need to know about a network, without importing it.
:mod:`maskgit_cli.networks.registry` imports the class that an entry names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from maskgit_cli.config.base import (
    LARGEST_COUNT,
    LARGEST_DEPTH,
    LARGEST_SIDE,
    LARGEST_WIDTH,
    Settings,
    at_least,
    below_one,
    between,
    require,
    setting,
)


@dataclass(frozen=True)
class NetworkEntry:
    """A network of this package.

    Attributes:
        name: name of the network in records and options.
        title: one phrase on what it is and where it was published.
        key: key of a record under which the network's config is stored.
        config: class of the config.
        path: ``module:Class`` of the network, inside :mod:`maskgit_cli.networks`.
        sizes: named sizes, as dataclasses whose fields are fields of the config.
    """

    name: str
    title: str
    key: str
    config: type[Any]
    path: str
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether it can be trained from scratch, which needs a named size."""
        return bool(self.sizes)

    def size_name(self, config: Any) -> str | None:
        """The name of the size that a config has, or None."""
        for name, size in self.sizes.items():
            if all(getattr(config, key) == value for key, value in dataclasses.asdict(size).items()):
                return name
        return None


@dataclass(frozen=True)
class TransformerEntry(NetworkEntry):
    """A transformer of this package.

    Attributes:
        sampler: sampler it is sampled with by default, a key of
            :data:`~maskgit_cli.config.samplers.SAMPLERS`.
        positions: tensors with one row per position of the grid, by name, with the number of rows before
            and after those of the grid, which belong to the class token.
        inits: laws of the initial weights, the default first: ``published``, that of the published code, or
            ``truncated``, normal with std 0.02 and ±2σ.
    """

    sampler: str = "confidence"
    positions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    inits: tuple[str, ...] = ("published",)


# --- transformers -----------------------------------------------------------------------------------


class MaskedTransformerConfig(Settings):
    """Config fields that every transformer has."""

    # Without a null class there is no guidance, no label dropout, and no image without a label.
    has_null_class: ClassVar[bool] = True

    heads: int
    codebook_size: int
    classes: int
    grid: int
    dropout: float

    def products(self) -> int:
        """Multiplications in the matrix products and attention of one image's forward pass."""
        raise NotImplementedError

    def training_flops(self) -> int:
        """Floating-point operations of one image's forward and backward pass.

        A multiplication and an addition are two; the backward pass has twice those of the forward pass (arXiv
        2001.08361, section 2.1). Everything but matrix products is left out, and what is recomputed.
        """
        return 2 * 3 * self.products()


@dataclass(frozen=True)
class TransformerConfig(MaskedTransformerConfig):
    """Sizes of the paper's transformer (arXiv 2310.14400, section 3).

    Attributes:
        width: features of a token.
        depth: number of blocks.
        heads: attention heads; divides ``width``.
        mlp_width: hidden features of a block's MLP.
        codebook_size: number of tokens K; token K is the mask.
        classes: number of classes C; class C is the null class.
        grid: tokens on a side of the image.
        dropout: probability, during training, of zeroing an activation or attention weight.
    """

    width: int = setting(rule=at_least(1, LARGEST_WIDTH))
    depth: int = setting(rule=at_least(1, LARGEST_DEPTH))
    heads: int = setting(rule=at_least(1, LARGEST_DEPTH))
    mlp_width: int = setting(rule=at_least(1, LARGEST_WIDTH))
    codebook_size: int = setting(rule=between(2, 65535))
    classes: int = setting(rule=at_least(0, LARGEST_COUNT))
    grid: int = setting(rule=at_least(1, LARGEST_WIDTH))
    dropout: float = setting(0.1, below_one())

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of the width {self.width}")

    def products(self) -> int:
        """Of the blocks, the input MLP, the output MLP, and the logits of K tokens and the mask."""
        d, n = self.width, self.grid**2
        return self._block_products() + (n + 1) * 2 * d * d + n * d * (d + self.codebook_size + 1)

    def _block_products(self) -> int:
        """Of all blocks, on T tokens with the class's: T·(4·D² + 2·D·M) + 2·T²·D each."""
        d, t = self.width, self.grid**2 + 1
        return self.depth * (t * (4 * d * d + 2 * d * self.mlp_width) + 2 * t * t * d)


@dataclass(frozen=True)
class HaltonConfig(MaskedTransformerConfig):
    """Sizes of Halton-MaskGIT's transformer (arXiv 2503.17076).

    Attributes:
        width: features of a token.
        depth: number of blocks.
        heads: attention heads.
        head_width: features of a head; the heads together need not be as wide as a token.
        mlp_width: hidden features of a block's gated MLP.
        codebook_size: number of tokens K; token K is the mask.
        classes: number of classes C; class C is the null class.
        grid: tokens on a side of the image.
        registers: learned tokens after those of the image, which predict nothing.
        dropout: probability, during training, of zeroing an activation or attention weight.
    """

    width: int = setting(rule=at_least(1, LARGEST_WIDTH))
    depth: int = setting(rule=at_least(1, LARGEST_DEPTH))
    heads: int = setting(rule=at_least(1, LARGEST_DEPTH))
    head_width: int = setting(rule=at_least(1, LARGEST_WIDTH))
    mlp_width: int = setting(rule=at_least(1, LARGEST_WIDTH))
    codebook_size: int = setting(rule=between(2, 65535))
    classes: int = setting(rule=at_least(0, LARGEST_COUNT))
    grid: int = setting(rule=at_least(1, LARGEST_WIDTH))
    registers: int = setting(1, at_least(1, LARGEST_DEPTH))
    dropout: float = setting(0.1, below_one())

    def products(self) -> int:
        """Of the blocks, with attention of width I and three matrices per MLP, adaLN, and the logits."""
        d, n, inner = self.width, self.grid**2, self.heads * self.head_width
        t = n + self.registers
        block = t * (4 * d * inner + 3 * d * self.mlp_width) + 2 * t * t * inner + 6 * d * d
        return self.depth * block + 2 * d * d + n * d * (self.codebook_size + 1)


@dataclass(frozen=True)
class GoogleConfig(TransformerConfig):
    """Sizes of Google's transformer (arXiv 2202.04200), with the fields of the paper's.

    It was trained with a label for every image: there is no row for a null class.
    """

    has_null_class: ClassVar[bool] = False

    def products(self) -> int:
        """Of the blocks, the output layer, and the logits of K tokens."""
        return self._block_products() + self.grid**2 * self.width * (self.width + self.codebook_size)


@dataclass(frozen=True)
class Size:
    """A named size: width, depth, heads, MLP width."""

    width: int
    depth: int
    heads: int
    mlp_width: int


@dataclass(frozen=True)
class HaltonSize(Size):
    """A named size of Halton-MaskGIT's transformer, whose heads have a width of their own."""

    head_width: int


# base, big and huge are from the paper and its repository, where all three have an MLP of 3072; tiny and
# small are for grids of 8.
SIZES: dict[str, Size] = {
    "tiny": Size(192, 6, 6, 768),
    "small": Size(256, 6, 8, 1024),
    "base": Size(768, 24, 16, 3072),
    "big": Size(1024, 32, 16, 3072),
    "huge": Size(1024, 48, 16, 3072),
}

# As published. The MLP has 2/3 of 4·width hidden features, rounded up to a multiple of 256; small has six
# heads of 85 features, which together are narrower than a token.
HALTON_SIZES: dict[str, Size] = {
    "tiny": HaltonSize(384, 6, 6, 1024, 64),
    "small": HaltonSize(512, 12, 6, 1536, 85),
    "base": HaltonSize(768, 12, 12, 2048, 64),
    "large": HaltonSize(1024, 24, 16, 2816, 64),
}

_TRANSFORMERS = (
    TransformerEntry(
        name="maskgit",
        title="the paper's transformer, arXiv 2310.14400",
        key="transformer",
        config=TransformerConfig,
        path="maskgit:MaskGIT",
        sizes=SIZES,
        sampler="confidence",
        positions={"positions": (0, 1), "bias": (0, 1)},
        inits=("truncated", "published"),
    ),
    TransformerEntry(
        name="halton",
        title="Halton-MaskGIT's transformer, arXiv 2503.17076",
        key="halton",
        config=HaltonConfig,
        path="halton:HaltonMaskGIT",
        sizes=HALTON_SIZES,
        sampler="halton",
        positions={"positions.weight": (0, 0)},
    ),
    TransformerEntry(
        name="google",
        title="Google's transformer, arXiv 2202.04200",
        key="google",
        config=GoogleConfig,
        path="google:GoogleMaskGIT",
        sizes={"base": SIZES["base"]},
        sampler="google",
        positions={"positions.weight": (1, 0)},
    ),
)
TRANSFORMERS: dict[str, TransformerEntry] = {entry.name: entry for entry in _TRANSFORMERS}

# What `train --network` and `train --size` take; a size must be one of the network's own.
TRAINABLE = tuple(entry.name for entry in _TRANSFORMERS if entry.trainable)
SIZE_NAMES = tuple(dict.fromkeys(name for entry in _TRANSFORMERS for name in entry.sizes))


# --- tokenizers -------------------------------------------------------------------------------------


class Pyramid(Settings):
    """Config fields that every convolutional tokenizer has: levels, each half the side of the one before."""

    resolution: int
    channels: int
    channel_multipliers: tuple[int, ...]
    embed_dim: int
    codebook_size: int
    norm_groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        levels, most = len(self.channel_multipliers), LARGEST_SIDE.bit_length()
        require(0 < levels <= most, "channel_multipliers", f"({levels} numbers)", f"1 to {most} numbers")
        rule = f"a multiple of {self.factor}, the pixels per token on a side"
        require(self.resolution % self.factor == 0, "resolution", self.resolution, rule)
        for multiplier in self.channel_multipliers:
            rule = f"numbers that make at most {LARGEST_WIDTH:,} features of {self.channels}"
            fits = 1 <= multiplier * self.channels <= LARGEST_WIDTH
            require(fits, "channel_multipliers", multiplier, rule)
            rule = f"a divisor of every level's features, {self.channels * multiplier} among them"
            divides = (self.channels * multiplier) % self.norm_groups == 0
            require(divides, "norm_groups", self.norm_groups, rule)

    @property
    def factor(self) -> int:
        """f: pixels on a side of the cell of one codebook index."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def grid(self) -> int:
        """Codebook indices on a side of an image of ``resolution`` pixels."""
        return self.resolution // self.factor


# Where a VQGAN has attention: nowhere, in the middle of encoder and decoder, or also at their lowest level.
ATTENTION = ("none", "middle", "lowest")


@dataclass(frozen=True)
class VQGANConfig(Pyramid):
    """Sizes of a VQGAN (arXiv 2012.09841). The defaults are the paper's tokenizer: f=16, K=1024.

    Attributes:
        resolution: side in pixels of the images it was built for; it encodes any multiple of f.
        channels: features at full resolution; each level multiplies them.
        channel_multipliers: one number per level; every level but the last halves the side.
        residual_blocks: residual blocks per level (the decoder has one more).
        attention_resolutions: sides in pixels of the levels with attention.
        z_channels: features of the encoder's output.
        embed_dim: features of a codebook vector.
        codebook_size: number of codebook vectors.
        norm_groups: groups of every group normalization; divides every level's features.
        dropout: probability, during training, of zeroing a feature.
        middle_attention: whether the middle of encoder and decoder has attention, as published.
    """

    resolution: int = setting(256, at_least(1, LARGEST_SIDE))
    channels: int = setting(128, at_least(1, LARGEST_WIDTH))
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = setting(2, at_least(1, LARGEST_DEPTH))
    attention_resolutions: tuple[int, ...] = (16,)
    z_channels: int = setting(256, at_least(1, LARGEST_WIDTH))
    embed_dim: int = setting(256, at_least(1, LARGEST_WIDTH))
    codebook_size: int = setting(1024, between(2, 65535))
    norm_groups: int = setting(32, at_least(1, LARGEST_WIDTH))
    dropout: float = setting(0.0, below_one())
    middle_attention: bool = True

    @property
    def attention(self) -> str | None:
        """Where it has attention, one of :data:`ATTENTION`; None if that is none of these."""
        sides = {self.resolution >> level for level in range(len(self.channel_multipliers))}
        found = sides & {*self.attention_resolutions}
        if not found:
            return "middle" if self.middle_attention else "none"
        return "lowest" if found == {self.grid} and self.middle_attention else None

    def with_attention(self, name: str | None) -> VQGANConfig:
        """These sizes with attention elsewhere, one of :data:`ATTENTION`; None keeps it."""
        if name in (None, self.attention):
            return self
        sides = (self.grid,) if name == "lowest" else ()
        return dataclasses.replace(self, attention_resolutions=sides, middle_attention=name != "none")


@dataclass(frozen=True)
class GoogleVQGANConfig(Pyramid):
    """Sizes of Google's tokenizer (arXiv 2202.04200, section 4.1).

    Attributes:
        residual_blocks: residual blocks per level, and as many at the bottom.
        embed_dim: features of the encoder's output, and of a codebook vector.

    The others are those of :class:`VQGANConfig`.
    """

    resolution: int = setting(256, at_least(1, LARGEST_SIDE))
    channels: int = setting(128, at_least(1, LARGEST_WIDTH))
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = setting(2, at_least(1, LARGEST_DEPTH))
    embed_dim: int = setting(256, at_least(1, LARGEST_WIDTH))
    codebook_size: int = setting(1024, between(2, 65535))
    norm_groups: int = setting(32, at_least(1, LARGEST_WIDTH))


# The paper's tokenizer, latent diffusion's with f=8 (arXiv 2112.10752, its published VQ-f8), and smaller ones
# that two CPU cores can train.
TOKENIZER_SIZES: dict[str, VQGANConfig] = {
    "f16": VQGANConfig(),
    "f8": VQGANConfig(
        channel_multipliers=(1, 2, 2, 4),
        attention_resolutions=(32,),
        z_channels=4,
        embed_dim=4,
        codebook_size=16384,
    ),
    "small": VQGANConfig(
        resolution=64,
        channels=16,
        channel_multipliers=(1, 2, 4, 6),
        residual_blocks=1,
        attention_resolutions=(8,),
        z_channels=64,
        embed_dim=32,
        codebook_size=512,
        norm_groups=16,
    ),
    # Neither attention nor statistics of single channels: an index then depends less on the image outside
    # its cell. docs/builtin.md has the measurements.
    "local": VQGANConfig(
        resolution=64,
        channels=16,
        channel_multipliers=(1, 2, 4, 6),
        residual_blocks=1,
        attention_resolutions=(),
        z_channels=64,
        embed_dim=8,
        codebook_size=512,
        norm_groups=1,
        middle_attention=False,
    ),
    "tiny": VQGANConfig(
        resolution=32,
        channels=16,
        channel_multipliers=(1, 2, 4),
        residual_blocks=1,
        attention_resolutions=(8,),
        z_channels=32,
        embed_dim=16,
        codebook_size=64,
        norm_groups=8,
    ),
}

_TOKENIZERS = (
    NetworkEntry(
        name="vqgan",
        title="a VQGAN, arXiv 2012.09841; the paper's tokenizer",
        key="vqgan",
        config=VQGANConfig,
        path="vqgan:VQGAN",
        sizes=TOKENIZER_SIZES,
    ),
    NetworkEntry(
        name="llamagen",
        title="LlamaGen's tokenizer, arXiv 2406.06525, used by Halton-MaskGIT",
        key="llamagen",
        config=VQGANConfig,
        path="llamagen:LlamaGenVQ",
    ),
    NetworkEntry(
        name="google_vqgan",
        title="Google's tokenizer, arXiv 2202.04200",
        key="google_vqgan",
        config=GoogleVQGANConfig,
        path="google_vqgan:GoogleVQGAN",
    ),
)
TOKENIZERS: dict[str, NetworkEntry] = {entry.name: entry for entry in _TOKENIZERS}
