"""Google's transformer (arXiv 2202.04200, section 3), a BERT over a grid of tokens.

Unlike in the paper's, the class token comes before the image tokens, blocks normalize after each addition,
GELU is the tanh approximation, and all positions share one bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.networks import GoogleConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.dropout import RowDropout, attention, number_sites

EPSILON = 1e-12


class Block(nn.Module):
    """Post-norm attention and MLP, each with a residual connection (arXiv 1810.04805, section 3)."""

    def __init__(self, config: GoogleConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_dropout, self.output_dropout, self.mlp_dropout = (
            RowDropout(config.dropout) for _ in range(3)
        )
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.mlp_in = nn.Linear(config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width, eps=EPSILON)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map hidden states (B, T, D) to hidden states (B, T, D); ``seeds`` (B,) are those of dropout."""
        x = self.attention_norm(self.output_dropout(self.attend(x, seeds), seeds) + x)
        h = self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))
        return self.mlp_norm(self.mlp_dropout(h, seeds) + x)

    def attend(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Full self-attention (arXiv 1706.03762, equation 1): (B, T, D) -> (B, T, D)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, D/heads)
            for layer in (self.query, self.key, self.value)
        )
        y = attention(q, k, v, self.attention_dropout, seeds)  # (B, heads, T, D/heads)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, D)


class GoogleMaskGIT(MaskedTransformer):
    """Google's masked transformer: masked tokens and class labels in, logits for every token out.

    The embedding table's rows are, in order: K tokens, C classes, the mask.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: GoogleConfig) -> None:
        super().__init__(config)
        width = config.width
        rows = config.codebook_size + config.classes + 1
        self.embedding = nn.Embedding(rows, width)
        self.positions = nn.Embedding(config.grid**2 + 1, width)
        self.embedding_norm = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = RowDropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(rows))
        self.apply(self._initialize)
        number_sites(self)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        """Truncated normal initialization, std 0.02, ±2σ, as in BERT (arXiv 1810.04805); biases 0."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Tensor, labels: Tensor, drop: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Predict every token from the unmasked ones (arXiv 2202.04200, section 3.1).

        Args:
            tokens: integers (B, h, w) in [0, K], where K is the mask.
            labels: integers (B,) in [0, C).
            drop: booleans (B,), all False: the network has no null class.
            seeds: int64 (B,) of dropout, see :meth:`dropout_seeds`.

        Returns:
            Logits (B, h·w, K) of the tokens.

        Raises:
            ConfigError: an image has no label, or its label is dropped.
        """
        if bool((labels < 0).any()) or (drop is not None and bool(drop.any())):
            raise ConfigError(
                "this network has no null class: choose a class for every image with --label, "
                "and sample without guidance (--cfg 0)"
            )
        k, mask_row = self.config.codebook_size, self.config.codebook_size + self.config.classes
        seeds = self.dropout_seeds(labels, seeds)
        image_rows = tokens.flatten(1)  # (B, N)
        image_rows = torch.where(image_rows == self.mask_token, mask_row, image_rows)
        class_row = k + labels.unsqueeze(1)  # (B, 1)
        rows = torch.cat([class_row, image_rows], dim=1)  # (B, 1+N)
        x = self.embedding_norm(self.embedding(rows) + self.positions.weight)  # (B, 1+N, D)
        x = self.dropout(x, seeds)
        x = self.run_blocks(x, seeds)
        x = x[:, 1:]  # (B, N, D): the class token predicts nothing
        x = self.output_norm(F.gelu(self.output(x), approximate="tanh"))
        return F.linear(x, self.embedding.weight[:k], self.bias[:k])  # (B, N, K): the table is tied
