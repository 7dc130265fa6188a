"""Reconstruction quality of a tokenizer on a set of images."""

from __future__ import annotations

import torch
from torch import Tensor

from maskgit_cli.data.loading import ImageDataset, collate_images
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.errors import InputError, counted
from maskgit_cli.networks.base import ImageTokenizer
from maskgit_cli.networks.pixels import to_model, to_pixels
from maskgit_cli.runtime.distributed import gather_objects, world
from maskgit_cli.scoring.perceptual import Perceptual
from maskgit_cli.scoring.reconstruction import ReconstructionFeatures, ReconstructionMeter


@torch.no_grad()
def reconstruction_quality(
    network: ImageTokenizer,
    source: ImageSource,
    batch_size: int = 32,
    perceptual: Perceptual | None = None,
    features: ReconstructionFeatures | None = None,
) -> dict[str, float]:
    """Measures of reconstructions, and codebook use, on a set of images, which all ranks share.

    Args:
        network: the tokenizer, in evaluation mode.
        source: the images, fitted to the tokenizer's resolution; unreadable ones are left out.
        batch_size: batch size.
        perceptual: a perceptual distance to measure, on the tokenizer's device.
        features: features for the Fréchet distance between images and reconstructions.

    Returns:
        ``psnr``: mean over the images of 10·log10(255²/mean squared error) of their uint8 pixels, in dB;
        ``ssim``: mean structural similarity, of images of 11 px and more; ``lpips`` or ``st_lpips``: mean
        perceptual distance; ``rfid`` or ``frechet_NAME``: Fréchet distance, of two images and more;
        ``usage``: fraction of the codebook in use; ``perplexity``: exp of the entropy of the indices. The
        same on all ranks.

    Raises:
        InputError: none of the images can be read.
    """
    device = network.quantize.embedding.weight.device
    dataset = ImageDataset(source, network.config.resolution)
    counts = torch.zeros(network.config.codebook_size, dtype=torch.int64)
    meter = ReconstructionMeter(device, perceptual, features)
    mine = range(
        world().rank, len(dataset), world().size
    )  # in turns, as folders may differ in what they cost
    for first in range(0, len(mine), batch_size):
        batch = collate_images([dataset[i] for i in mine[first : first + batch_size]])
        if batch.images is None:
            continue
        images = batch.images[:, 0].to(device)
        indices = network.encode(to_model(images))  # (B, h, w)
        counts += torch.bincount(indices.flatten().cpu(), minlength=len(counts))
        meter.add(images, to_pixels(network.decode(indices)))
    meters, shares = zip(*gather_objects((meter.sums(), counts)), strict=True)
    measured, counts = meter.result(meters), torch.stack(shares).sum(0)
    if not measured:
        raise InputError(_unreadable(source))
    usage, perplexity = codebook_use(counts)
    rounded = {name: round(value, 3 if name == "psnr" else 5) for name, value in measured.items()}
    return {**rounded, "usage": usage, "perplexity": perplexity}


def check_readable(source: ImageSource) -> None:
    """Check that at least one of the images can be read.

    Raises:
        InputError: none of them can.
    """
    dataset = ImageDataset(source, 8)
    if all(dataset[i][1] is None for i in range(len(dataset))):
        raise InputError(_unreadable(source))


def _unreadable(source: ImageSource) -> str:
    found = counted(len(source), "image")
    return f"no image can be read, of {found} found; the first: {source.location(0)}"


def codebook_use(counts: Tensor) -> tuple[float, float]:
    """Fraction of indices that occur, and perplexity exp(H), of counts (K,)."""
    counts = counts.cpu()  # Apple GPUs have no float64
    p = counts.double() / counts.sum()
    usage = float((counts > 0).double().mean())
    return round(usage, 4), round(float(torch.exp(-torch.xlogy(p, p).sum())), 2)
