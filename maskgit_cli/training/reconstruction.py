"""How much of a set of images a tokenizer's codes keep."""

from __future__ import annotations

import torch
from torch import Tensor

from maskgit_cli.data.loading import ImageDataset, collate_images
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.errors import InputError, counted
from maskgit_cli.networks.pixels import to_model, to_pixels
from maskgit_cli.networks.vqgan import VQGAN


@torch.no_grad()
def reconstruction_quality(network: VQGAN, source: ImageSource, batch_size: int = 32) -> dict[str, float]:
    """How much of a set of images the codes keep.

    Args:
        network: the tokenizer, in evaluation mode.
        source: the images, fitted to the tokenizer's resolution; unreadable ones are left out.
        batch_size: images at a time.

    Returns:
        ``psnr``: mean over the images of 10·log10(255²/mean squared error) of their uint8 pixels, in dB;
        ``usage``: share of the codebook that occurs; ``perplexity``: exp of the entropy of the codes.

    Raises:
        InputError: none of the images can be read.
    """
    device = network.quantize.embedding.weight.device
    dataset = ImageDataset(source, network.config.resolution)
    counts = torch.zeros(network.config.codebook_size, dtype=torch.int64)
    psnr: list[Tensor] = []
    for first in range(0, len(dataset), batch_size):
        last = min(first + batch_size, len(dataset))
        batch = collate_images([dataset[i] for i in range(first, last)])
        if batch.images is None:
            continue
        images = batch.images[:, 0].to(device)
        codes = network.encode(to_model(images))
        counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
        decoded = to_pixels(network.decode(codes)).cpu().double()  # Apple's GPUs have no float64
        error = (decoded - images.cpu().double()).pow(2).mean((1, 2, 3))
        psnr.append(10 * torch.log10(255**2 / error.clamp(min=1e-10)))
    if not psnr:
        raise InputError(_unreadable(source))
    usage, perplexity = codebook_use(counts)
    return {"psnr": round(float(torch.cat(psnr).mean()), 3), "usage": usage, "perplexity": perplexity}


def check_readable(source: ImageSource) -> None:
    """Make sure, before anything is done for them, that at least one of the images can be read.

    Raises:
        InputError: none can.
    """
    dataset = ImageDataset(source, 8)
    if all(dataset[i][1] is None for i in range(len(dataset))):
        raise InputError(_unreadable(source))


def _unreadable(source: ImageSource) -> str:
    """What to say of a source that has no readable image."""
    found = counted(len(source), "image")
    return f"no image can be read, of {found} found; the first: {source.location(0)}"


def codebook_use(counts: Tensor) -> tuple[float, float]:
    """Share of codes that occur, and the perplexity exp(H), of counts (K,)."""
    counts = counts.cpu()  # Apple's GPUs have no float64
    p = counts.double() / counts.sum()
    usage = float((counts > 0).double().mean())
    return round(usage, 4), round(float(torch.exp(-torch.xlogy(p, p).sum())), 2)
