"""DINOv2 ViT-L/14, whose Fréchet distance is FD-DINOv2 (arXiv 2306.04675)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.runtime.pretrained import DINOV2_LARGE
from maskgit_cli.scoring.features import Resources
from maskgit_cli.scoring.vision import (
    Architecture,
    VisionExtractor,
    bicubic_square,
    load_network,
    standardized,
)

SIDE = 224  # pixels
# ImageNet's, as of the network's training.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What the published network adds to the side of the grid, in patches, when it interpolates positions.
OFFSET = 0.1
ARCHITECTURE = Architecture(
    "DINOv2",
    DINOV2_LARGE,
    "Dinov2Model",
    "Dinov2Config",
    {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 518,
    },
)


def load(resources: Resources) -> Dinov2Extractor:
    """Load DINOv2; other sizes of it come from a directory in ``resources.weights``.

    Raises:
        WeightsError: ``transformers`` is not installed, or the weights are not available or not valid.
    """
    return Dinov2Extractor(*load_network(ARCHITECTURE, resources))


class Dinov2Extractor(VisionExtractor):
    """The class token after the last normalization (1024 features for ViT-L), without logits.

    Images of any size are cropped to their center square and resized as Pillow does: bicubic, rounded.

    Args:
        network: a ``Dinov2Model`` in evaluation mode; its positions are replaced by those of 224 px.
        sha256: of its weights.
    """

    def __init__(self, network: Any, sha256: str) -> None:
        super().__init__(network, sha256, network.config.hidden_size)
        embeddings = network.embeddings
        positions = positions_of(embeddings.position_embeddings.detach(), SIDE // network.config.patch_size)
        embeddings.position_embeddings = nn.Parameter(positions, requires_grad=False)

    def embedded(self, images: Tensor) -> Tensor:
        """Class tokens (B, D) of uint8 images (B, 3, H, W)."""
        pixels = bicubic_square(images, SIDE).round().clamp(0, 255)  # (B, 3, 224, 224)
        tokens = self.network(standardized(pixels, MEAN, DEVIATION)).last_hidden_state  # (B, 1 + 256, D)
        return tokens[:, 0]


def positions_of(positions: Tensor, side: int) -> Tensor:
    """Position embeddings for another grid, as the published network interpolates them.

    ``transformers`` does it without the offset, which changes the features a little.

    Args:
        positions: (1, 1 + M², D), the class token's first.
        side: of the new grid, in patches.

    Returns:
        (1, 1 + side², D).
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == side:
        return positions
    grid = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)  # (1, D, M, M)
    scale = (side + OFFSET) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")  # (1, D, side, side)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
