"""What all transformers and all tokenizers have in common, as other rooms use them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskgit_cli.config.networks import MaskedTransformerConfig, Pyramid


class MaskedTransformer(nn.Module):
    """Base of the transformers: masked tokens and class labels in, logits out."""

    config: Any
    blocks: nn.ModuleList
    # Whether blocks compute their activations again in the backward pass, instead of keeping them.
    grad_checkpointing = False

    def __init__(self, config: MaskedTransformerConfig) -> None:
        super().__init__()
        self.config = config

    def run_blocks(self, x: Tensor, *conditions: Tensor | None) -> Tensor:
        """Hidden states (B, T, D) through all blocks, each of which is given the conditions, too.

        Gradients are the same with gradient checkpointing (arXiv 1604.06174, section 4): dropout is a
        function of the seeds.
        """
        recomputed = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if recomputed:
                x = checkpoint(block, x, *conditions, use_reentrant=False)
            else:
                x = block(x, *conditions)
        return x

    @property
    def mask_token(self) -> int:
        """The token K of a masked position, after the K tokens of the codebook."""
        return int(self.config.codebook_size)

    def null_labels(self, labels: Tensor, drop: Tensor | None) -> Tensor:
        """Labels (B,) with the null class C where they are -1 or ``drop`` (B,) is True."""
        dropped = labels < 0 if drop is None else drop | (labels < 0)
        return torch.where(dropped, self.config.classes, labels)

    def dropout_seeds(self, labels: Tensor, seeds: Tensor | None) -> Tensor | None:
        """Seeds int64 (B,) of dropout: those given, or numbers of torch's own generator.

        Args:
            labels: of the images (B,).
            seeds: int64 (B,), one per image; what is dropped depends on it and on nothing else. None draws
                them where dropout is active.
        """
        if seeds is None and self.training and self.config.dropout > 0:
            return torch.randint(-(2**63), 2**63 - 1, labels.shape, device=labels.device)
        return seeds

    def initialize_as_published(self) -> None:
        """Draw initial weights as the published code does, if those of the constructor differ."""

    def forward(
        self, tokens: Tensor, labels: Tensor, drop: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Predict every token from the unmasked ones.

        Args:
            tokens: integers (B, h, w) in [0, K], where K is the mask.
            labels: integers (B,) in [0, C), or -1 for no label.
            drop: booleans (B,); True replaces the label by the null class.
            seeds: int64 (B,) of dropout, see :meth:`dropout_seeds`.

        Returns:
            Logits (B, h·w, K) or (B, h·w, K+1), where the last column is the mask's.
        """
        raise NotImplementedError


class Codebook(nn.Module):
    """K vectors of D numbers; quantization replaces a latent by the nearest of them."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / size, 1.0 / size)

    def nearest(self, z: Tensor) -> Tensor:
        """Indices (B, h, w) of the codebook vectors nearest to z (B, D, h, w) in Euclidean distance."""
        flat = z.movedim(1, -1).flatten(0, 2).float()  # (B·h·w, D)
        weight = self.embedding.weight.float()  # (K, D)
        # Half precision would confuse vectors that are close. |z|² is the same for every vector, so it is
        # left out of the comparison.
        with torch.autocast(z.device.type, enabled=False):
            distance = weight.pow(2).sum(1) - 2.0 * flat @ weight.T  # (B·h·w, K)
        return distance.argmin(1).view(z.shape[0], *z.shape[2:])  # (B, h, w)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codebook vectors (B, D, h, w) of indices (B, h, w)."""
        return self.embedding(indices).movedim(-1, 1)


class ImageTokenizer(nn.Module):
    """Base of the tokenizers: images to codebook indices and back."""

    config: Any
    quantize: Codebook

    def __init__(self, config: Pyramid) -> None:
        super().__init__()
        self.config = config

    def latents(self, images: Tensor) -> Tensor:
        """Encoder outputs before quantization (B, D, h, w) of images (B, 3, H, W) in -1..1."""
        raise NotImplementedError

    def decode(self, indices: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), nominally in -1..1 and not clamped, of codebook indices (B, h, w)."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Codebook indices (B, h, w), int64, of images (B, 3, H, W) in -1..1."""
        return self.quantize.nearest(self.latents(images))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in -1..1 through the quantizer and back."""
        return self.decode(self.encode(images))
