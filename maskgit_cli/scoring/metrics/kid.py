"""Kernel Inception Distance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.runtime.distributed import float64_device
from maskgit_cli.scoring.metrics import Scored, row_blocks

# Of the subsets: torch-fidelity's default, so that the two draw the same ones.
SEED = 2020
# Rows and columns of the block of a kernel matrix that is in memory: 128 MiB in float64.
BLOCK = 4096


def kid(samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device) -> Scored:
    """See :data:`~maskgit_cli.scoring.metrics.Metric`."""
    fake, real = samples.features, reference.features
    assert fake is not None
    assert real is not None
    place = float64_device(device)
    values = subset_distances(fake, real, config.kid_subsets, config.kid_subset_size, place)
    return Scored(
        {"kid": float(values.mean()), "kid_std": float(values.std())},
        lambda: {"kid": kernel_influences(fake, real, place)},
    )


def subset_distances(
    fake: np.ndarray,
    real: np.ndarray,
    subsets: int = 100,
    size: int = 1000,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Unbiased squared MMD (arXiv 1801.01401, equation 4) of random subsets, whose mean is KID.

    The subsets are those of torch-fidelity, which has the kernels in float32 where the features are.

    Args:
        fake: features (M, D) of samples.
        real: features (N, D) of real images.
        subsets: number of subsets of each side.
        size: images per subset, without repetition.
        device: where kernels are computed; it must support float64.

    Returns:
        float64 (subsets,); around 0, and negative too, for equal distributions.

    Raises:
        ConfigError: one of the sets has fewer images than a subset.
    """
    fewest = min(len(fake), len(real))
    if fewest < size:
        raise ConfigError(
            f"--kid-subset-size {size}: must be {fewest} or less, the number of images; "
            "KIDs of other sizes have the same expectation and another spread"
        )
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (fake, real))
    rng = np.random.RandomState(SEED)
    found = np.empty(subsets)
    for i in range(subsets):
        rows, columns = (torch.from_numpy(rng.choice(len(x), size, replace=False)) for x in (a, b))
        found[i] = _unbiased_mmd(a[rows.to(a.device)].double(), b[columns.to(b.device)].double())
    return found


def kernel_influences(
    fake: np.ndarray, real: np.ndarray, device: torch.device | str = "cpu", block: int = BLOCK
) -> np.ndarray:
    """First-order change per sample of the squared MMD of all images: float64 (M,), with mean zero.

    That of sample i is twice the mean kernel with the other samples less that with the real images, less the
    mean of this over the samples (Serfling, Approximation Theorems of Mathematical Statistics, section 5.3).

    Args:
        fake: features (M, D) of samples, two or more.
        real: features (N, D) of real images.
        device: where kernels are computed; it must support float64.
        block: rows and columns of a block.
    """
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (fake, real))
    itself = torch.cat(
        [_cubic(a[rows].double().square().sum(dim=1), a.shape[1]) for rows in row_blocks(len(a), block)]
    )
    near_fake = (_kernel_sums(a, a, block) - itself) / (len(a) - 1)
    found = 2 * (near_fake - _kernel_sums(a, b, block) / len(b))
    return (found - found.mean()).cpu().numpy()


def _unbiased_mmd(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD of float64 (n, D) and (n, D): the kernel of an image with itself is left out."""
    n = len(a)
    within = sum(float(k.sum() - k.diagonal().sum()) for k in (_kernel(a, a), _kernel(b, b)))
    return within / (n * (n - 1)) - 2 * float(_kernel(a, b).mean())


def _kernel_sums(a: Tensor, b: Tensor, block: int) -> Tensor:
    """Sum of the kernel of each row of (M, D) with all rows of (N, D): float64 (M,)."""
    return torch.cat(
        [
            torch.stack(
                [_kernel(a[i].double(), b[j].double()).sum(dim=1) for j in row_blocks(len(b), block)]
            ).sum(0)
            for i in row_blocks(len(a), block)
        ]
    )


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """The polynomial kernel (x·y / D + 1)³ of arXiv 1801.01401, section 3: (n, m) of (n, D) and (m, D)."""
    return _cubic(a @ b.T, a.shape[1])


def _cubic(products: Tensor, dimension: int) -> Tensor:
    return (products / dimension + 1) ** 3
