"""Improved precision and recall, density and coverage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.runtime.distributed import float64_device
from maskgit_cli.scoring.metrics import Scored, row_blocks

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

    Distances are computed block by block, in float64: neither the whole matrix nor a copy of the features is
    in memory. A ball contains its surface in precision and recall (arXiv 1904.06991, equation 2), and does
    not in density and coverage, as in the code of arXiv 2002.09797. That matters for equal images only.

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
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (real, fake))
    # Squared norms of these features have rounding errors of this size, so smaller distances are 0: images
    # that are equal pixel for pixel have equal features, whose distance must not depend on the block.
    nothing = max(float(_norms(x, block).max()) for x in (a, b)) * a.shape[1] * np.finfo(np.float64).eps
    radius_a, radius_b = _radii(a, k, block, nothing), _radii(b, k, block, nothing)
    real_around = torch.zeros(len(b), dtype=torch.int64, device=a.device)  # real balls around each sample
    real_holds = torch.zeros(len(b), dtype=torch.bool, device=a.device)
    fake_holds = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    closest = torch.full((len(a),), torch.inf, dtype=torch.float64, device=a.device)
    for rows in row_blocks(len(a), block):
        for columns in row_blocks(len(b), block):
            distance = _squared_distances(a[rows], b[columns], nothing)
            real_holds[columns] |= (distance <= radius_a[rows, None]).any(dim=0)
            fake_holds[rows] |= (distance <= radius_b[None, columns]).any(dim=1)
            real_around[columns] += (distance < radius_a[rows, None]).sum(dim=0)
            closest[rows] = torch.minimum(closest[rows], distance.min(dim=1).values)
    found = (real_holds, fake_holds, real_around.double() / k, closest < radius_a)
    return Parts(*(part.double().cpu().numpy() for part in found))


def _norms(x: Tensor, block: int) -> Tensor:
    """Squared norm float64 (N,) of each row of x (N, D)."""
    return torch.cat([x[rows].double().square().sum(dim=1) for rows in row_blocks(len(x), block)])


def _squared_distances(a: Tensor, b: Tensor, nothing: float) -> Tensor:
    """Squared distances float64 (n, m) between the rows of (n, D) and (m, D), which sort as distances do.

    Those up to ``nothing`` are 0. Only the rows given are converted to float64, never a whole set.
    """
    a, b = a.double(), b.double()
    products = torch.addmm(a.square().sum(1)[:, None], a, b.T, alpha=-2).add_(b.square().sum(1)[None])
    return torch.threshold_(products, nothing, 0.0)


def _radii(x: Tensor, k: int, block: int, nothing: float) -> Tensor:
    """Squared distance float64 (N,) of each row of x (N, D) to its k-th nearest other row."""
    # The nearest of all is the row itself, or one that equals it.
    nearest = torch.full((len(x), k + 1), torch.inf, dtype=torch.float64, device=x.device)
    for rows in row_blocks(len(x), block):
        for columns in row_blocks(len(x), block):
            if columns.start < rows.start:
                continue  # the distances of this block are those of its mirror image
            distance = _squared_distances(x[rows], x[columns], nothing)
            nearest[rows] = _smallest(nearest[rows], distance)
            if columns != rows:
                nearest[columns] = _smallest(nearest[columns], distance.T)
    return nearest[:, k]


def _smallest(nearest: Tensor, distance: Tensor) -> Tensor:
    """The smallest values, ascending, of each row of (n, k + 1) and (n, m): (n, k + 1)."""
    count = nearest.shape[1]
    found = distance.topk(min(count, distance.shape[1]), dim=1, largest=False).values
    return torch.cat([nearest, found], dim=1).sort(dim=1).values[:, :count]
