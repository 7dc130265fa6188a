"""FID against the number of samples, and its limit FID∞ (arXiv 1911.07023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.runtime.distributed import float64_device
from maskgit_cli.runtime.rng import SUBSET, uniform
from maskgit_cli.scoring.metrics import row_blocks
from maskgit_cli.scoring.metrics.frechet import covariance_root, distance_of_roots

# Numbers of samples, evenly spaced from a tenth of all samples to all: 15 from 5,000 to 50,000 in the paper.
POINTS = 15
SMALLEST = 0.1
# The distance is linear in 1/n only where covariances are far from singular, and a line takes a range of n.
IMAGES_PER_FEATURE, RANGE = 2, 2
SEED = 0
# Features that are in float64 at a time.
BLOCK = 4096


def distances_by_size(
    samples: Statistics, reference: Statistics, device: torch.device | str = "cpu", seed: int = SEED
) -> list[tuple[int, float]]:
    """Fréchet distances of random subsets of the samples, with their sizes; the last is that of all samples.

    The reference is decomposed once.

    Args:
        samples: with features.
        reference: moments are enough.
        device: where covariances are computed, if it supports float64.
        seed: of the random subsets, one for each size.

    Raises:
        ConfigError: there are too few samples for the line.
    """
    features = samples.features
    assert features is not None
    n, dimension = features.shape
    smallest = max(round(SMALLEST * n), IMAGES_PER_FEATURE * dimension)
    if n < RANGE * smallest or n < POINTS:
        least = max(POINTS, RANGE * IMAGES_PER_FEATURE * dimension)
        raise ConfigError(
            f"--curve: {n} samples are too few for its line, which takes {least} with {dimension} features"
        )
    root = covariance_root(reference.sigma, "second")
    place = float64_device(torch.device(device))
    points = []
    for i, size in enumerate(np.linspace(smallest, n, POINTS).round().astype(int).tolist()):
        order = np.argsort(uniform(seed, [i], 0, n, SUBSET)[0].numpy(), kind="stable")
        mean, covariance = _moments(features, np.sort(order[:size]), place)
        own = covariance_root(covariance, "first")
        points.append((size, distance_of_roots(mean, own, reference.mu, root)))
    return points


def limit_of(points: Sequence[tuple[int, float]]) -> float:
    """The distance that infinitely many samples would have: the least-squares line against 1/n, at 0.

    Args:
        points: sizes and distances, two or more.
    """
    sizes, distances = np.array(points, np.float64).T
    _slope, limit = np.polyfit(1 / sizes, distances, 1)
    return float(limit)


def _moments(features: np.ndarray, rows: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of some rows, float64, of which a block is in memory at a time."""
    parts = [rows[part] for part in row_blocks(len(rows), BLOCK)]
    mean = sum(features[part].sum(axis=0, dtype=np.float64) for part in parts) / len(rows)
    center = torch.from_numpy(np.asarray(mean)).to(device)
    scatter = torch.zeros(len(center), len(center), dtype=torch.float64, device=device)
    for part in parts:
        centered = torch.from_numpy(features[part]).to(device, torch.float64) - center
        scatter.addmm_(centered.T, centered)
    return np.asarray(mean), (scatter / (len(rows) - 1)).cpu().numpy()
