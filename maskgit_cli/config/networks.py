"""Sizes of the networks: the paper's, Halton-MaskGIT's and Google's, and named sizes of our own.

LlamaGen's tokenizer has the sizes of a VQGAN, :class:`VQGANConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from maskgit_cli.config.base import (
    Settings,
    at_least,
    below_one,
    between,
    require,
    setting,
)


@dataclass(frozen=True)
class TransformerConfig(Settings):
    """Sizes of the paper's transformer (arXiv 2310.14400, section 3).

    Attributes:
        width: features of a token.
        depth: number of blocks.
        heads: attention heads; divides ``width``.
        mlp_width: hidden features of a block's MLP.
        codebook_size: number of codes K; code K is the mask.
        classes: number of classes C; class C stands for the dropped label.
        grid: tokens on a side of the image.
        dropout: probability, during training, of zeroing an activation or attention weight.
    """

    drops_labels: ClassVar[bool] = True  # knows "no class", which guidance and unlabeled images need
    sampler: ClassVar[str] = "confidence"  # what it is sampled with by default

    width: int = setting(rule=at_least(1))
    depth: int = setting(rule=at_least(1))
    heads: int = setting(rule=at_least(1))
    mlp_width: int = setting(rule=at_least(1))
    codebook_size: int = setting(rule=between(2, 65535))
    classes: int = setting(rule=at_least(0))
    grid: int = setting(rule=at_least(1))
    dropout: float = setting(0.1, below_one())

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of the width {self.width}")


@dataclass(frozen=True)
class Size:
    """A named network size: width, depth, heads, MLP width."""

    width: int
    depth: int
    heads: int
    mlp_width: int


# base, big and huge are the paper's and its repository's; tiny and small are ours, for grids of 8.
SIZES: dict[str, Size] = {
    "tiny": Size(192, 6, 6, 768),
    "small": Size(256, 6, 8, 1024),
    "base": Size(768, 24, 16, 3072),
    "big": Size(1024, 32, 16, 4096),
    "huge": Size(1024, 48, 16, 4096),
}


class Pyramid(Settings):
    """What convolutional tokenizers share: levels of features, each half the side of the one before."""

    resolution: int
    channels: int
    channel_multipliers: tuple[int, ...]
    norm_groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.channel_multipliers) > 0, "channel_multipliers", (), "at least one number")
        rule = f"a multiple of {self.factor}, which is how many times the network halves a side"
        require(self.resolution % self.factor == 0, "resolution", self.resolution, rule)
        for multiplier in self.channel_multipliers:
            rule = f"a divisor of every level's features, which {self.channels * multiplier} has not"
            divides = (self.channels * multiplier) % self.norm_groups == 0
            require(divides, "norm_groups", self.norm_groups, rule)

    @property
    def factor(self) -> int:
        """f: pixels on a side of the cell that one code stands for."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def grid(self) -> int:
        """Codes on a side of an image of ``resolution`` pixels."""
        return self.resolution // self.factor


@dataclass(frozen=True)
class VQGANConfig(Pyramid):
    """Sizes of a VQGAN (arXiv 2012.09841). The defaults are the paper's tokenizer: f=16, K=1024.

    Attributes:
        resolution: side in pixels of the images it was built for; it encodes any multiple of f.
        channels: features at full resolution; each level multiplies them.
        channel_multipliers: one number a level; every level but the last halves the side.
        residual_blocks: residual blocks a level (the decoder has one more).
        attention_resolutions: sides in pixels of the levels that attend.
        z_channels: features of the encoder's output.
        embed_dim: features of a codebook vector.
        codebook_size: number of codebook vectors.
        norm_groups: groups of every group normalization; divides every level's features.
        dropout: probability, during training, of zeroing a feature.
        middle_attention: whether the middle of the encoder and of the decoder attends, as published.
    """

    resolution: int = setting(256, at_least(1))
    channels: int = setting(128, at_least(1))
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = setting(2, at_least(1))
    attention_resolutions: tuple[int, ...] = (16,)
    z_channels: int = setting(256, at_least(1))
    embed_dim: int = setting(256, at_least(1))
    codebook_size: int = setting(1024, between(2, 65535))
    norm_groups: int = setting(32, at_least(1))
    dropout: float = setting(0.0, below_one())
    middle_attention: bool = True


# The paper's tokenizer, and siblings that two CPU cores can train.
TOKENIZER_SIZES: dict[str, VQGANConfig] = {
    "f16": VQGANConfig(),
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
    # Neither attention nor statistics of single channels: what a code says of its cell then depends less
    # on the rest of the picture. docs/builtin.md has the measurements.
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


@dataclass(frozen=True)
class HaltonConfig(Settings):
    """Sizes of Halton-MaskGIT's transformer (arXiv 2503.17076).

    Attributes:
        width: features of a token.
        depth: number of blocks.
        heads: attention heads.
        head_width: features of a head; the heads together need not be as wide as a token.
        mlp_width: hidden features of a block's gated MLP.
        codebook_size: number of codes K; code K is the mask.
        classes: number of classes C; class C stands for the dropped label.
        grid: tokens on a side of the image.
        registers: learned tokens beside the image's, which predict nothing.
        dropout: probability, during training, of zeroing an activation or attention weight.
    """

    drops_labels: ClassVar[bool] = True  # knows "no class", which guidance and unlabeled images need
    sampler: ClassVar[str] = "halton"  # what it is sampled with by default

    width: int = setting(rule=at_least(1))
    depth: int = setting(rule=at_least(1))
    heads: int = setting(rule=at_least(1))
    head_width: int = setting(rule=at_least(1))
    mlp_width: int = setting(rule=at_least(1))
    codebook_size: int = setting(rule=between(2, 65535))
    classes: int = setting(rule=at_least(0))
    grid: int = setting(rule=at_least(1))
    registers: int = setting(1, at_least(1))
    dropout: float = setting(0.1, below_one())


@dataclass(frozen=True)
class GoogleConfig(TransformerConfig):
    """Sizes of Google's transformer (arXiv 2202.04200), which are those of the paper's.

    It was trained with a class for every image: there is no row for the dropped label.
    """

    drops_labels: ClassVar[bool] = False
    sampler: ClassVar[str] = "google"


@dataclass(frozen=True)
class GoogleVQGANConfig(Pyramid):
    """Sizes of Google's tokenizer (arXiv 2202.04200, section 4.1).

    Attributes:
        residual_blocks: residual blocks a level, and as many at the bottom.
        embed_dim: features of the encoder's output, and of a codebook vector.

    The others are those of :class:`VQGANConfig`.
    """

    resolution: int = setting(256, at_least(1))
    channels: int = setting(128, at_least(1))
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = setting(2, at_least(1))
    embed_dim: int = setting(256, at_least(1))
    codebook_size: int = setting(1024, between(2, 65535))
    norm_groups: int = setting(32, at_least(1))
