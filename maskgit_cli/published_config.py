"""Sizes of the published networks that are not the report's: Halton-MaskGIT's and Google's.

LlamaGen's tokenizer has the sizes of a VQGAN, :class:`~maskgit_cli.config.VQGANConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from maskgit_cli.config import Pyramid, TransformerConfig
from maskgit_cli.settings import Settings, at_least, below_one, between, setting


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

    drops_labels: ClassVar[bool] = True  # knows "no class", which guidance and unlabelled images need
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
class OfficialConfig(TransformerConfig):
    """Sizes of Google's transformer (arXiv 2202.04200), which are those of the report's.

    It was trained with a class for every image: there is no row for the dropped label.
    """

    drops_labels: ClassVar[bool] = False
    sampler: ClassVar[str] = "official"


@dataclass(frozen=True)
class OfficialVQGANConfig(Pyramid):
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
