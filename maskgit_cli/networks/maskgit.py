"""The paper's bidirectional transformer over a grid of tokens (arXiv 2310.14400, section 3).

One embedding table serves tokens, mask, classes and null class; the same table, transposed, turns the last
hidden states into logits. The class token comes after the image tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskgit_cli.config.networks import TransformerConfig
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.dropout import RowDropout, SeededSequential, attention, number_sites


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection (arXiv 2310.14400, section 3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.attention_dropout = RowDropout(config.dropout)
        self.out = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = SeededSequential(
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(),
            RowDropout(config.dropout),
            nn.Linear(config.mlp_width, config.width),
            RowDropout(config.dropout),
        )

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map hidden states (B, T, D) to hidden states (B, T, D); ``seeds`` (B,) are those of dropout."""
        x = x + self.attend(self.attention_norm(x), seeds)
        return x + self.mlp(self.mlp_norm(x), seeds)

    def initialize_attention_as_published(self) -> None:
        """Initial weights as those of ``nn.MultiheadAttention``."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def attend(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Full self-attention (arXiv 1706.03762, equation 1): (B, T, D) -> (B, T, D)."""
        b, t, d = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, d // self.heads)  # (B, T, 3, heads, D/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D/heads)
        y = attention(q, k, v, self.attention_dropout, seeds)  # (B, heads, T, D/heads)
        return self.out(y.transpose(1, 2).reshape(b, t, d))  # (B, T, D)


class MaskGIT(MaskedTransformer):
    """The paper's masked transformer: masked tokens and class labels in, logits for every token out.

    The embedding table's rows are, in order: K tokens, the mask, C classes, the null class of
    classifier-free guidance.

    Args:
        config: sizes of the network. At size base it has 174.161 M parameters with grid 16, 1,024 tokens
            and 1,000 classes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        width = config.width
        rows = config.codebook_size + 1 + config.classes + 1
        length = config.grid**2 + 1
        self.embedding = nn.Embedding(rows, width)
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.input_mlp = SeededSequential(
            nn.LayerNorm(width, eps=1e-12),
            RowDropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
            RowDropout(config.dropout),
            nn.Linear(width, width),
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.output_mlp = SeededSequential(
            nn.LayerNorm(width, eps=1e-12),
            RowDropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
        )
        self.bias = nn.Parameter(torch.zeros(length, rows))
        self.apply(self._initialize)
        nn.init.trunc_normal_(self.positions, std=0.02)
        number_sites(self)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        """Truncated normal initialization, std 0.02, ±2σ, as in BERT and MaskGIT; biases 0."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)

    def initialize_as_published(self) -> None:
        """Initial weights of the published code, which are those of torch's layers.

        Embeddings are normal with a standard deviation of 1, so that the first logits, products with the
        embeddings, have one of about √D. Weights and biases of D inputs are uniform within 1/√D; queries,
        keys and values are Xavier uniform with zero biases, as ``nn.MultiheadAttention`` has them.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, Block):
                module.initialize_attention_as_published()
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(
        self, tokens: Tensor, labels: Tensor, drop: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Predict every token from the unmasked ones (arXiv 2310.14400, section 3).

        Args:
            tokens: integers (B, h, w) in [0, K], where K is the mask.
            labels: integers (B,) in [0, C), or -1 for no label.
            drop: booleans (B,); True replaces the label by the null class.
            seeds: int64 (B,) of dropout, see :meth:`dropout_seeds`.

        Returns:
            Logits (B, h·w, K+1) of tokens and mask, as in the loss; a sampler ignores the last column.
        """
        k, seeds = self.config.codebook_size, self.dropout_seeds(labels, seeds)
        class_token = k + 1 + self.null_labels(labels, drop)  # (B,)
        rows = torch.cat([tokens.flatten(1), class_token.unsqueeze(1)], dim=1)  # (B, N+1)
        x = self.embedding(rows) + self.positions  # (B, N+1, D)
        x = self.input_mlp(x, seeds)
        x = self.run_blocks(x, seeds)
        x = self.output_mlp(x[:, :-1], seeds)  # (B, N, D): the class token predicts nothing
        return x @ self.embedding.weight[: k + 1].T + self.bias[:-1, : k + 1]  # (B, N, K+1)
