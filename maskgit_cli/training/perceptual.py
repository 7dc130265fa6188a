"""LPIPS (arXiv 1801.03924), the perceptual part of the tokenizer's loss, from torch-fidelity."""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.error import URLError

import torch
from torch import Tensor

from maskgit_cli.config.base import offline
from maskgit_cli.errors import WeightsError

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]


def lpips(device: torch.device) -> PerceptualLoss:
    """A function of two batches (B, 3, H, W) in -1..1 that gives their mean LPIPS distance (VGG16).

    The weights (VGG16 and the LPIPS heads, 528 MB) are fetched once into torch's hub cache.

    Raises:
        WeightsError: they are not there and cannot be fetched.
    """
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    forbidden = offline()
    if forbidden is not None:
        raise WeightsError(f"LPIPS needs weights to be fetched, and {forbidden} is set")
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    try:
        network = SampleSimilarityLPIPS("lpips-vgg16").to(device)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"LPIPS needs weights-vgg16-lpips.pth and vgg16-397923af.pth in {folder}, "
            f"and they could not be fetched: {error}"
        ) from None

    def distance(images: Tensor, reconstructions: Tensor) -> Tensor:
        # The network was built for pixel values of 0..255.
        return network((images + 1) * 127.5, (reconstructions + 1) * 127.5).mean()

    return distance
