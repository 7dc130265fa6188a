"""CMMD: the maximum mean discrepancy between CLIP embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.runtime.distributed import float64_device
from maskgit_cli.scoring.metrics import Scored

# Bandwidth of the kernel and factor of the score (arXiv 2401.09603, section 4).
SIGMA, SCALE = 10.0, 1000.0
# Rows and columns of the block of a kernel matrix that is in memory: 128 MiB in float64.
BLOCK = 4096


class KernelMeans(NamedTuple):
    """Means of kernel values of n samples and m reference images, float64.

    Attributes:
        samples: of each sample with all samples, itself included, (n,).
        across: of each sample with all reference images, (n,).
        reference: of all pairs of reference images, each with itself included.
    """

    samples: np.ndarray
    across: np.ndarray
    reference: float


def cmmd(samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device) -> Scored:
    """See :data:`~maskgit_cli.scoring.metrics.Metric`."""
    assert samples.features is not None
    assert reference.features is not None
    means = kernel_means(samples.features, reference.features, float64_device(device))
    return Scored({"cmmd": discrepancy(means)}, lambda: {"cmmd": discrepancy_influences(means)})


def discrepancy(means: KernelMeans) -> float:
    """1000 times the squared maximum mean discrepancy (arXiv 2401.09603, equation 3).

    As in the paper's code, the pairs of an image with itself count: the estimate of minimum variance, which
    is biased upward, and 0 or more except for rounding.
    """
    return float(SCALE * (means.samples.mean() + means.reference - 2 * means.across.mean()))


def discrepancy_influences(means: KernelMeans) -> np.ndarray:
    """First-order change of :func:`discrepancy` per sample: float64 (n,), with mean zero.

    For weights w that sum to n, the score is w·K·w/n² - 2·w·(means across)/n and a constant, whose derivative
    by w_i at w = 1 is 1/n of twice the difference of the sample's two means.
    """
    found = 2 * SCALE * (means.samples - means.across)
    return found - found.mean()


def kernel_means(
    samples: np.ndarray, reference: np.ndarray, device: torch.device | str = "cpu", block: int = BLOCK
) -> KernelMeans:
    """Means of the kernel exp(-|x - y|²/(2·10²)), computed block by block.

    Args:
        samples: features (n, D).
        reference: features (m, D).
        device: where kernels are computed; it must support float64.
        block: rows and columns of a block.
    """
    x, y = (torch.from_numpy(features).to(device, torch.float64) for features in (samples, reference))
    within, across = _row_means(x, x, block), _row_means(x, y, block)
    return KernelMeans(within.cpu().numpy(), across.cpu().numpy(), float(_row_means(y, y, block).mean()))


def _row_means(x: Tensor, y: Tensor, block: int) -> Tensor:
    """Mean kernel value (n,) of each row of x (n, D) with all rows of y (m, D)."""
    sums = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for rows in _blocks(len(x), block):
        for columns in _blocks(len(y), block):
            a, b = x[rows], y[columns]
            products = torch.addmm(a.square().sum(1)[:, None], a, b.T, alpha=-2)
            distances = products.add_(b.square().sum(1)[None])  # squared, (rows, columns)
            sums[rows] += distances.mul_(-1 / (2 * SIGMA**2)).exp_().sum(dim=1)
    return sums / len(y)


def _blocks(n: int, block: int) -> Iterator[slice]:
    for start in range(0, n, block):
        yield slice(start, min(start + block, n))
