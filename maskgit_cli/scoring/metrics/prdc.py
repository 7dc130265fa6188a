"""Improved precision and recall, density and coverage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.runtime.distributed import float64_device
from maskgit_cli.scoring.metrics import Scored

# Rows and columns of the block of a distance matrix that is in memory: 128 MiB in float64.
BLOCK = 4096


class PRDC(NamedTuple):
    """Improved precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797).

    Attributes:
        precision: fraction of samples inside the manifold of real images.
        recall: fraction of real images inside the manifold of samples.
        density: mean number of real neighborhoods around a sample, divided by k; may exceed 1.
        coverage: fraction of real neighborhoods that contain a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device) -> Scored:
    """See :data:`~maskgit_cli.scoring.metrics.Metric`.

    Recall and coverage are fractions of reference images, so their influences are of those. A resample of the
    samples has some of them twice, whose neighborhoods would shrink to nothing.
    """
    assert samples.features is not None
    assert reference.features is not None
    place = float64_device(device)
    parts = parts_of_features(reference.features, samples.features, config.neighbors, place)
    values = {name: float(part.mean()) for name, part in parts._asdict().items()}
    return Scored(values, lambda: {name: part - part.mean() for name, part in parts._asdict().items()})


class Parts(NamedTuple):
    """Scores of :class:`PRDC` of single images, whose means they are, float64.

    Attributes:
        precision: of samples (M,), 0 or 1.
        recall: of real images (N,), 0 or 1.
        density: of samples (M,).
        coverage: of real images (N,), 0 or 1.
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def prdc_of_features(
    real: np.ndarray, fake: np.ndarray, k: int = 3, device: torch.device | str = "cpu", block: int = BLOCK
) -> PRDC:
    """Means of :func:`parts_of_features`."""
    return PRDC(*(float(part.mean()) for part in parts_of_features(real, fake, k, device, block)))


def parts_of_features(
    real: np.ndarray, fake: np.ndarray, k: int = 3, device: torch.device | str = "cpu", block: int = BLOCK
) -> Parts:
    """Precision, recall, density and coverage of each image, with balls that reach the k-th nearest neighbor.

    Distances are computed block by block; the whole matrix is never in memory.

    Args:
        real: features (N, D) of real images.
        fake: features (M, D) of samples.
        k: the neighbor, not counting the image itself, whose distance is a ball's radius.
        device: where distances are computed; it must support float64.
        block: rows and columns of a block.

    Raises:
        ConfigError: one of the sets has ``k`` images or fewer.
    """
    if min(len(real), len(fake)) <= k:
        rule = f"less than {min(len(real), len(fake))}, the number of images"
        raise ConfigError(f"--neighbors {k}: must be {rule}")
    # Distances are invariant under shifts, and lose fewer digits near the origin.
    center = real.mean(axis=0, dtype=np.float64)
    a, b = (torch.from_numpy(x - center).to(device, torch.float64) for x in (real, fake))
    radius_a, radius_b = _radii(a, k, block), _radii(b, k, block)
    real_around = torch.zeros(len(b), dtype=torch.int64, device=a.device)  # real balls around each sample
    fake_around = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    closest = torch.full((len(a),), torch.inf, dtype=torch.float64, device=a.device)
    for rows in _blocks(len(a), block):
        for columns in _blocks(len(b), block):
            distance = _squared_distances(a[rows], b[columns])
            real_around[columns] += (distance < radius_a[rows, None]).sum(dim=0)
            fake_around[rows] |= (distance < radius_b[None, columns]).any(dim=1)
            closest[rows] = torch.minimum(closest[rows], distance.min(dim=1).values)
    found = (real_around > 0, fake_around, real_around.double() / k, closest < radius_a)
    return Parts(*(part.double().cpu().numpy() for part in found))


def _blocks(n: int, block: int) -> Iterator[slice]:
    for start in range(0, n, block):
        yield slice(start, min(start + block, n))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (n, m) between the rows of (n, D) and (m, D); they sort as distances do."""
    products = torch.addmm(a.square().sum(1)[:, None], a, b.T, alpha=-2)
    return products.add_(b.square().sum(1)[None]).clamp_(min=0)


def _radii(x: Tensor, k: int, block: int) -> Tensor:
    """Squared distance (N,) of each row of x (N, D) to its k-th nearest other row."""
    radii = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for rows in _blocks(len(x), block):
        nearest = torch.empty(rows.stop - rows.start, 0, dtype=x.dtype, device=x.device)
        for columns in _blocks(len(x), block):
            distance = _squared_distances(x[rows], x[columns])
            candidates = torch.cat([nearest, distance], dim=1)
            nearest = candidates.topk(min(k + 1, candidates.shape[1]), dim=1, largest=False).values
        radii[rows] = nearest[:, k]  # the nearest of all is the row itself
    return radii
