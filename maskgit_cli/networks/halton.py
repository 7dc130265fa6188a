"""Halton-MaskGIT's transformer (arXiv 2503.17076), with class-conditional adaLN.

Blocks are pre-norm, with shift, scale and gate computed from the class embedding (adaLN-Zero, arXiv
2212.09748, section 3.2), normalized queries and keys, and a gated MLP (SwiGLU, arXiv 2002.05202). A few
register tokens (arXiv 2309.16588) come after the image tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.networks import HaltonConfig
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.dropout import RowDropout, attention, number_sites

EPSILON = 1e-5


def normalize(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """RMS norm of the last dimension of (..., D), times weight (D) (arXiv 1910.07467, equation 4)."""
    return F.rms_norm(x, x.shape[-1:], weight, EPSILON)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (B, T, D) by vectors (B, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Attention(nn.Module):
    """Full self-attention with normalized queries and keys."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.dropout, self.output_dropout = RowDropout(config.dropout), RowDropout(config.dropout)
        self.wq = nn.Linear(config.width, inner, bias=False)
        self.wk = nn.Linear(config.width, inner, bias=False)
        self.wv = nn.Linear(config.width, inner, bias=False)
        self.wo = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D) to tokens (B, T, D); ``seeds`` (B,) are those of dropout."""
        v = self.wv(x)  # (B, T, heads·d)
        # All heads are normalized together. The norm is float32 whatever the precision of products.
        q, k = normalize(self.wq(x)).to(v.dtype), normalize(self.wk(x)).to(v.dtype)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B, heads, T, d)
        y = attention(q, k, v, self.dropout, seeds)  # (B, heads, T, d)
        dropped: Tensor = self.output_dropout(self.wo(y.transpose(1, 2).flatten(2)), seeds)  # (B, T, D)
        return dropped


class GatedMLP(nn.Module):
    """SwiGLU: one half of the hidden features gates the other (arXiv 2002.05202, equation 6)."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.dropout = RowDropout(config.dropout)
        self.w1 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.w2 = nn.Linear(config.mlp_width, config.width, bias=False)
        self.w3 = nn.Linear(config.width, config.mlp_width, bias=False)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D) to tokens (B, T, D); ``seeds`` (B,) are those of dropout."""
        hidden = F.silu(self.w1(x)) * self.w3(x)  # (B, T, M)
        return self.w2(self.dropout(hidden, seeds))  # (B, T, D)


class Block(nn.Module):
    """Attention and gated MLP, each shifted, scaled and gated by the class (arXiv 2212.09748, figure 3)."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.attention_norm = nn.Parameter(torch.ones(config.width))
        self.attention = Attention(config)
        self.mlp_norm = nn.Parameter(torch.ones(config.width))
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, condition: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D) to tokens (B, T, D), given class embeddings (B, D) and seeds (B,)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=1)
        h = self.attention(modulate(normalize(x, self.attention_norm), shift1, scale1), seeds)
        x = x + gate1.unsqueeze(1) * h
        h = self.mlp(modulate(normalize(x, self.mlp_norm), shift2, scale2), seeds)
        return x + gate2.unsqueeze(1) * h


class LastNorm(nn.Module):
    """The normalization before the logits, shifted and scaled by the class."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.width))
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.modulation = nn.Linear(config.width, 2 * config.width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens (B, T, D) to tokens (B, T, D), given class embeddings (B, D)."""
        shift, scale = self.modulation(F.silu(condition)).chunk(2, dim=1)
        return modulate(normalize(x, self.weight) + self.bias, shift, scale)


class HaltonMaskGIT(MaskedTransformer):
    """Halton-MaskGIT's masked transformer: masked tokens and class labels in, logits for every token out.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__(config)
        width = config.width
        self.embedding = nn.Embedding(config.codebook_size + 1, width)  # K tokens, then the mask
        self.classes = nn.Embedding(config.classes + 1, width)  # C classes, then the null class
        self.positions = nn.Embedding(config.grid**2, width)
        self.registers = nn.Embedding(config.registers, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.last_norm = LastNorm(config)
        self.bias = nn.Parameter(torch.zeros(config.codebook_size + 1))
        self._initialize()
        number_sites(self)

    def _initialize(self) -> None:
        """As in the published code: Xavier uniform, embeddings from a normal of std 0.02, adaLN zero.

        With zero gates every block begins as the identity (arXiv 2212.09748, section 3.2); the last
        norm's modulation is not zero there either.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.modulation.weight)

    def forward(
        self, tokens: Tensor, labels: Tensor, drop: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Predict every token from the unmasked ones (arXiv 2503.17076, section 3).

        Args:
            tokens: integers (B, h, w) in [0, K], where K is the mask.
            labels: integers (B,) in [0, C), or -1 for no label.
            drop: booleans (B,); True replaces the label by the null class.
            seeds: int64 (B,) of dropout, see :meth:`dropout_seeds`.

        Returns:
            Logits (B, h·w, K+1); the last column is the mask's.
        """
        seeds = self.dropout_seeds(labels, seeds)
        condition = self.classes(self.null_labels(labels, drop))  # (B, D)
        x = self.embedding(tokens.flatten(1)) + self.positions.weight  # (B, N, D)
        registers = self.registers.weight.expand(len(x), -1, -1)  # (B, R, D)
        x = torch.cat([x, registers], dim=1)  # (B, N+R, D)
        x = self.run_blocks(x, condition, seeds)
        x = self.last_norm(x[:, : -self.config.registers], condition)  # (B, N, D)
        return F.linear(x, self.embedding.weight, self.bias)  # (B, N, K+1): the table is tied
