"""CLIP ViT-L/14 at 336 px, whose image embeddings CMMD compares (arXiv 2401.09603)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from maskgit_cli.runtime.pretrained import CLIP_LARGE_336
from maskgit_cli.scoring.features import Resources
from maskgit_cli.scoring.vision import (
    Architecture,
    VisionExtractor,
    bicubic_square,
    load_network,
    standardized,
)

# Of the network's training images.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ARCHITECTURE = Architecture(
    "CLIP",
    CLIP_LARGE_336,
    "CLIPVisionModelWithProjection",
    "CLIPVisionConfig",
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 336,
    },
)


def load(resources: Resources) -> ClipExtractor:
    """Load CLIP's image encoder; other sizes of it come from a directory in ``resources.weights``.

    Raises:
        WeightsError: ``transformers`` is not installed, or the weights are not available or not valid.
    """
    return ClipExtractor(*load_network(ARCHITECTURE, resources))


class ClipExtractor(VisionExtractor):
    """Projected image embeddings of length 1 (768 features for ViT-L/14), without logits.

    Images of any size are cropped to their center square and resized to the network's resolution by bicubic
    interpolation without rounding, as in CMMD's published code.

    Args:
        network: a ``CLIPVisionModelWithProjection`` in evaluation mode.
        sha256: of its weights.
    """

    def __init__(self, network: Any, sha256: str) -> None:
        super().__init__(network, sha256, network.config.projection_dim)

    def embedded(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, D) of uint8 images (B, 3, H, W)."""
        pixels = bicubic_square(images, self.network.config.image_size)  # (B, 3, 336, 336)
        embeddings = self.network(standardized(pixels, MEAN, DEVIATION)).image_embeds  # (B, D)
        return F.normalize(embeddings, dim=1)
