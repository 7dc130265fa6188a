"""LlamaGen's tokenizer (arXiv 2406.06525, section 3.1), which Halton-MaskGIT draws with.

It is a VQGAN whose lowest level attends and whose codebook lies on the unit sphere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskgit_cli.config.networks import VQGANConfig
from maskgit_cli.networks.vqgan import VQGAN, Codebook


class SphereCodebook(Codebook):
    """A codebook that compares directions: latents and vectors are divided by their length."""

    def nearest(self, z: Tensor) -> Tensor:
        """Indices (B, h, w) of the codebook vectors at the smallest angle to z (B, D, h, w)."""
        flat = F.normalize(z.movedim(1, -1).flatten(0, 2).float(), dim=-1)  # (B·h·w, D)
        vectors = F.normalize(self.embedding.weight.float(), dim=-1)  # (K, D)
        with torch.autocast(z.device.type, enabled=False):  # half precision would mistake near codes
            cosine = flat @ vectors.T  # (B·h·w, K)
        return cosine.argmax(1).view(z.shape[0], *z.shape[2:])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codebook vectors (B, D, h, w) of length 1 of codes (B, h, w)."""
        return F.normalize(self.embedding(codes), dim=-1).movedim(-1, 1)


class LlamaGen(VQGAN):
    """Encoder, codebook on the sphere, and decoder.

    Args:
        config: sizes of the network. The published one has f=16, 16,384 codes of 8 numbers.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__(config)
        self.quantize = SphereCodebook(config.codebook_size, config.embed_dim)
