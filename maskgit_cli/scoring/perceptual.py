"""Perceptual distances of images: LPIPS, and ST-LPIPS, whose weights are in a package of PyPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from maskgit_cli.errors import ConfigError, InputError, WeightsError
from maskgit_cli.formats.torch_files import read_checkpoint
from maskgit_cli.networks.st_lpips import SMALLEST_SIDE, STLPIPS
from maskgit_cli.runtime.pretrained import (
    LPIPS_HEADS,
    ST_LPIPS,
    VGG16,
    cache_folder,
    packaged,
    pretrained,
)
from maskgit_cli.runtime.progress import SILENT, Reporter

# Distances (B,) of two batches (B, 3, H, W) in -1..1.
Distance = Callable[[Tensor, Tensor], Tensor]


class Perceptual(NamedTuple):
    """A perceptual distance.

    Attributes:
        name: of its network, a value of ``--perceptual``.
        distance: the distances (B,) of two batches of images (B, 3, H, W) in -1..1.
    """

    name: str
    distance: Distance

    @property
    def key(self) -> str:
        """Its name in logs and records."""
        return self.name.replace("-", "_")


def lpips(device: torch.device, reporter: Reporter = SILENT, download: bool = True) -> Distance:
    """LPIPS (arXiv 1801.03924) with VGG16, by torch-fidelity's network.

    The weights (VGG16 and the LPIPS heads, 528 MB) are downloaded once into torch's hub cache.

    Raises:
        WeightsError: they are not cached and cannot be downloaded, or are damaged.
    """
    # Downloaded and checked here, so that torch-fidelity finds both and downloads nothing by itself.
    for file in (LPIPS_HEADS, VGG16):
        pretrained(file, reporter, download)
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    try:
        network = SampleSimilarityLPIPS("lpips-vgg16").to(device)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"LPIPS cannot be built from the weights in {cache_folder()} ({reason})") from None

    def distance(images: Tensor, others: Tensor) -> Tensor:
        # The network was built for pixel values of 0..255.
        return network((images + 1) * 127.5, (others + 1) * 127.5).flatten()

    return distance


def st_lpips(device: torch.device, reporter: Reporter = SILENT, download: bool = True) -> Distance:
    """ST-LPIPS (arXiv 2207.13686) with VGG16; nothing is downloaded.

    Raises:
        WeightsError: the package with the weights is not installed, or its file is not the published one.
    """
    path = packaged(ST_LPIPS)
    network = STLPIPS()
    try:
        network.load_state_dict(read_checkpoint(path))
    except (InputError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path}: not the weights of ST-LPIPS ({reason})") from None
    # In channels-last, forward and backward of 8 images of 64 px take a CPU core 1.5 s instead of 2.1 s.
    network = network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)

    def distance(images: Tensor, others: Tensor) -> Tensor:
        return network(*(x.to(memory_format=torch.channels_last) for x in (images, others)))

    return distance


class _Network(NamedTuple):
    """A network's loader, and the side in pixels of its smallest images."""

    load: Callable[[torch.device, Reporter, bool], Distance]
    smallest: int


# In the order in which ``auto`` tries them. VGG16 halves images four times.
NETWORKS = {"lpips": _Network(lpips, 16), "st-lpips": _Network(st_lpips, SMALLEST_SIDE)}


def load_perceptual(
    name: str, side: int, device: torch.device, reporter: Reporter = SILENT, download: bool = True
) -> Perceptual:
    """Load a perceptual distance.

    Args:
        name: ``lpips``, ``st-lpips``, or ``auto`` for the first of the two that is available.
        side: side of the images in pixels.
        device: where the network runs.
        reporter: receives progress.
        download: whether missing weights may be downloaded.

    Raises:
        WeightsError: the weights are not available; of ``auto``, those of neither, with both reasons.
        ConfigError: the images are too small for the network.
    """
    if name == "auto":
        return _first_available(side, device, reporter, download)
    network = NETWORKS[name]
    if side < network.smallest:
        raise ConfigError(
            f"--perceptual {name}: images of {side} px are too small, it needs {network.smallest} or more"
        )
    return Perceptual(name, network.load(device, reporter, download))


def _first_available(side: int, device: torch.device, reporter: Reporter, download: bool) -> Perceptual:
    reasons = []
    for name in NETWORKS:
        try:
            return load_perceptual(name, side, device, reporter, download)
        except (WeightsError, ConfigError) as error:
            reasons.append(f"{name}: {error}")
    raise WeightsError("; ".join(reasons))
