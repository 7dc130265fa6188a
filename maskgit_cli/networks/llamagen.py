"""LlamaGen's tokenizer (arXiv 2406.06525, section 3.1), used by Halton-MaskGIT.

It is a VQGAN with attention at its lowest level and a codebook on the unit sphere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskgit_cli.config.networks import VQGANConfig
from maskgit_cli.networks.vqgan import VQGAN, Quantized, StraightThroughCodebook


class SphereCodebook(StraightThroughCodebook):
    """A codebook compared by direction: latents and vectors are normalized to length 1."""

    def nearest(self, z: Tensor) -> Tensor:
        """Indices (B, h, w) of the codebook vectors at the smallest angle to z (B, D, h, w)."""
        flat = F.normalize(z.movedim(1, -1).flatten(0, 2).float(), dim=-1)  # (B·h·w, D)
        vectors = F.normalize(self.embedding.weight.float(), dim=-1)  # (K, D)
        with torch.autocast(z.device.type, enabled=False):  # half precision would confuse close vectors
            cosine = flat @ vectors.T  # (B·h·w, K)
        return cosine.argmax(1).view(z.shape[0], *z.shape[2:])  # (B, h, w)

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (B, D, h, w), normalized as the vectors are, with a straight-through gradient."""
        return super().forward(F.normalize(z, dim=1))

    def lookup(self, indices: Tensor) -> Tensor:
        """Codebook vectors (B, D, h, w) of length 1 of indices (B, h, w)."""
        return F.normalize(self.embedding(indices), dim=-1).movedim(-1, 1)


class LlamaGenVQ(VQGAN):
    """Encoder, codebook on the unit sphere, and decoder.

    Args:
        config: sizes of the network. The published one has f=16 and 16,384 codebook vectors of 8 numbers.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__(config)
        self.quantize = SphereCodebook(config.codebook_size, config.embed_dim)
