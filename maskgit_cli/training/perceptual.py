"""LPIPS (arXiv 1801.03924), the perceptual part of the tokenizer's loss, from torch-fidelity."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskgit_cli.errors import WeightsError
from maskgit_cli.runtime.pretrained import LPIPS_HEADS, VGG16, cache_folder, pretrained
from maskgit_cli.runtime.progress import SILENT, Reporter

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]


def lpips(device: torch.device, reporter: Reporter = SILENT) -> PerceptualLoss:
    """A function of two batches (B, 3, H, W) in -1..1 that gives their mean LPIPS distance (VGG16).

    The weights (VGG16 and the LPIPS heads, 528 MB) are downloaded once into torch's hub cache.

    Raises:
        WeightsError: they are not cached and cannot be downloaded, or are damaged.
    """
    # Downloaded and checked here, so that torch-fidelity finds both and downloads nothing by itself.
    for file in (LPIPS_HEADS, VGG16):
        pretrained(file, reporter)
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    try:
        network = SampleSimilarityLPIPS("lpips-vgg16").to(device)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"LPIPS cannot be built from the weights in {cache_folder()} ({reason})") from None

    def distance(images: Tensor, reconstructions: Tensor) -> Tensor:
        # The network was built for pixel values of 0..255.
        return network((images + 1) * 127.5, (reconstructions + 1) * 127.5).mean()

    return distance
