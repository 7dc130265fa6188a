"""Google's transformer (arXiv 2202.04200, section 3), a BERT over a grid of codes.

Unlike the paper's, the class token stands before the image tokens, blocks normalize after each
addition, GELU is the tanh approximation, and one bias serves every position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.networks import GoogleConfig
from maskgit_cli.errors import ConfigError

EPSILON = 1e-12


class Block(nn.Module):
    """Post-norm attention and MLP, each with a residual connection.

    Args:
        config: sizes of the network; ``width``, ``heads``, ``mlp_width`` and ``dropout`` are read.
    """

    def __init__(self, config: GoogleConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.mlp_in = nn.Linear(config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden states (B, T, D) to hidden states (B, T, D)."""
        x = self.attention_norm(F.dropout(self.attend(x), self.dropout, self.training) + x)
        h = self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))
        return self.mlp_norm(F.dropout(h, self.dropout, self.training) + x)

    def attend(self, x: Tensor) -> Tensor:
        """Attend from every token to every token, unmasked: (B, T, D) -> (B, T, D)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, D/heads)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))


class Google(nn.Module):
    """Google's masked transformer: codes with holes and a class in, logits for every code out.

    The embedding table's rows are, in order: ``codebook_size`` codes, ``classes`` classes, the mask.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: GoogleConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        rows = config.codebook_size + config.classes + 1
        self.embedding = nn.Embedding(rows, width)
        self.positions = nn.Embedding(config.grid**2 + 1, width)
        self.embedding_norm = nn.LayerNorm(width, eps=EPSILON)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(rows))

    @property
    def mask_code(self) -> int:
        """The code that stands for "not known yet", on this side of the table; its row is the last."""
        return self.config.codebook_size

    def forward(self, codes: Tensor, labels: Tensor, drop: Tensor | None = None) -> Tensor:
        """Predict every token from the ones that are known.

        Args:
            codes: integers (B, h, w) in [0, codebook_size], where ``codebook_size`` is the mask.
            labels: integers (B,) in [0, classes).
            drop: booleans (B,), all False: the network knows no dropped class.

        Returns:
            Logits (B, h·w, codebook_size) for the codes.

        Raises:
            ConfigError: an image has no label, or is to lose it.
        """
        if bool((labels < 0).any()) or (drop is not None and bool(drop.any())):
            raise ConfigError(
                "this network was trained with a class for every image: name one with --label, "
                "and draw without guidance (--cfg 0)"
            )
        sizes = self.config
        mask_row = sizes.codebook_size + sizes.classes
        image_tokens = codes.flatten(1)  # (B, N)
        image_tokens = torch.where(image_tokens == self.mask_code, mask_row, image_tokens)
        class_token = labels.view(-1, 1) + sizes.codebook_size  # (B, 1)
        tokens = torch.cat([class_token, image_tokens], dim=1)  # (B, 1+N)
        x = self.embedding_norm(self.embedding(tokens) + self.positions.weight)  # (B, 1+N, D)
        x = F.dropout(x, sizes.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        x = self.output_norm(F.gelu(self.output(x[:, 1:]), approximate="tanh"))  # (B, N, D)
        codes_only = slice(0, sizes.codebook_size)
        return F.linear(x, self.embedding.weight[codes_only], self.bias[codes_only])  # (B, N, K)
