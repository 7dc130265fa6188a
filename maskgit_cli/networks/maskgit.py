"""The bidirectional transformer of the paper (arXiv 2310.14400, section 3), over a grid of codes.

One embedding table serves the codes, the mask, the classes and the dropped class; the same table,
transposed, turns the last hidden states into logits. The class token stands after the image tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.networks import TransformerConfig


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection.

    Args:
        config: sizes of the network; ``width``, ``heads``, ``mlp_width`` and ``dropout`` are read.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_width, config.width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden states (B, T, D) to hidden states (B, T, D)."""
        x = x + self.attend(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def attend(self, x: Tensor) -> Tensor:
        """Attend from every token to every token, unmasked: (B, T, D) -> (B, T, D)."""
        b, t, d = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D/heads)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class MaskGIT(nn.Module):
    """The paper's masked transformer: codes with holes and a class in, logits for every token out.

    The embedding table's rows are, in order: ``codebook_size`` codes, the mask, ``classes`` classes,
    and the dropped class that stands for "no label" in classifier-free guidance.

    Args:
        config: sizes of the network. ``MaskGIT(SIZES["base"])`` has 174.161 M parameters at grid 16
            with 1,024 codes and 1,000 classes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        rows = config.codebook_size + 1 + config.classes + 1
        tokens = config.grid**2 + 1
        self.embedding = nn.Embedding(rows, width)
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.input_mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.output_mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
        )
        self.bias = nn.Parameter(torch.zeros(tokens, rows))
        self.apply(self._initialize)
        nn.init.trunc_normal_(self.positions, std=0.02)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        """Draw weights from a normal of 0.02 cut at two deviations, as BERT and MaskGIT do."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)

    @property
    def mask_code(self) -> int:
        """The code that stands for "not known yet": the row after the last code."""
        return self.config.codebook_size

    def forward(self, codes: Tensor, labels: Tensor, drop: Tensor | None = None) -> Tensor:
        """Predict every token from the ones that are known.

        Args:
            codes: integers (B, h, w) in [0, codebook_size], where ``codebook_size`` is the mask.
            labels: integers (B,) in [0, classes), or -1 for no class.
            drop: booleans (B,); True replaces the label by the dropped class.

        Returns:
            Logits (B, h·w, codebook_size + 1) for the codes and the mask, as the loss wants them;
            a sampler leaves the last column out.
        """
        b = codes.shape[0]
        image_tokens = codes.flatten(1)  # (B, N)
        dropped = labels < 0 if drop is None else drop | (labels < 0)
        class_token = torch.where(dropped, self.config.classes, labels) + self.config.codebook_size + 1
        tokens = torch.cat([image_tokens, class_token.view(b, 1)], dim=1)  # (B, N+1)
        x = self.embedding(tokens) + self.positions  # (B, N+1, D)
        x = self.input_mlp(x)
        for block in self.blocks:
            x = block(x)
        x = self.output_mlp(x[:, :-1])  # (B, N, D): the class token predicts nothing
        wanted = self.config.codebook_size + 1
        return x @ self.embedding.weight[:wanted].T + self.bias[:-1, :wanted]  # (B, N, K+1)
