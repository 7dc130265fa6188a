"""Scores as mathematics: features, logits, means and covariances in, numbers out.

Nothing here knows where images come from. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.errors import ConfigError, InputError

# Rows and columns of the part of a distance matrix that exists at one time: 128 MiB in float64.
BLOCK = 4096
# A covariance has no negative eigenvalue; rounding makes some, of this size relative to the largest.
# What is more negative comes from a file that holds something else.
NEGATIVE = 1e-6


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet distance between two Gaussians (arXiv 1706.08500, equation 6).

    |mu1 - mu2|² + tr(sigma1) + tr(sigma2) - 2·tr((sigma1·sigma2)^½). With sigma = R·Rᵀ, the last
    trace is the sum of the singular values of R1ᵀ·R2, so that no square root of a general matrix is
    needed. The eigenvalues that are rounding error alone are left out of R: their roots, some
    10⁻⁸ of the largest each, would add up wherever there are fewer images than features.

    Args:
        mu1, mu2: means (D,).
        sigma1, sigma2: covariances (D, D).

    Returns:
        The distance; 0 or more, but for rounding.

    Raises:
        InputError: a covariance isn't one.
    """
    mu1, mu2 = np.asarray(mu1, np.float64), np.asarray(mu2, np.float64)
    root1, root2 = _root(sigma1), _root(sigma2)
    overlap = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
    difference = mu1 - mu2
    # Traces of the roots, so that what was left out of them is left out everywhere.
    traces = np.square(root1).sum() + np.square(root2).sum()
    return float(difference @ difference + traces - 2 * overlap)


def _root(sigma: np.ndarray) -> np.ndarray:
    """R (D, rank) with R·Rᵀ = sigma (D, D)."""
    values, vectors = np.linalg.eigh(np.asarray(sigma, np.float64))
    if values[0] < -NEGATIVE * max(values[-1], 0.0):
        raise InputError(f"a covariance has the eigenvalue {values[0]:g}, so it is not one")
    rounding = np.finfo(np.float64).eps * len(values) * max(values[-1], 0.0)
    kept = values > rounding
    return vectors[:, kept] * np.sqrt(values[kept])


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Inception Score (arXiv 1606.03498): exp of the mean divergence KL(p(y|x) ‖ p(y)).

    The images are cut into ``splits`` parts in the order given. (torch-fidelity shuffles them first
    unless told not to; where images are sorted by class, the order given scores lower.)

    Args:
        logits: (N, C), without the classifier's bias as in the published protocol.
        splits: number of parts.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ConfigError: there are fewer images than parts.
    """
    n = len(logits)
    if n < splits:
        raise ConfigError(f"--splits {splits}: must be {n} or less, the number of images")
    scores = []
    for i in range(splits):
        part = torch.from_numpy(logits[i * n // splits : (i + 1) * n // splits]).double()
        log_p = part.log_softmax(dim=1)  # (n/splits, C)
        p = log_p.exp()
        # xlogy-like care isn't needed: log-softmax is finite, and so is the log of a mean of positives.
        log_q = torch.logsumexp(log_p, dim=0) - np.log(len(part))  # (C,)
        scores.append(float((p * (log_p - log_q)).sum(dim=1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


class PRDC(NamedTuple):
    """Improved precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797).

    Attributes:
        precision: part of the samples that lie near a real image.
        recall: part of the real images that lie near a sample.
        density: real images that a sample lies near, over what is expected; may exceed 1.
        coverage: part of the real images that have a sample nearby.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    real: np.ndarray, fake: np.ndarray, k: int = 3, device: torch.device | str = "cpu", block: int = BLOCK
) -> PRDC:
    """Precision, recall, density and coverage with neighborhoods that reach the k-th neighbor.

    Distances are computed ``block`` by ``block``: the whole matrix never exists.

    Args:
        real: features (N, D) of real images.
        fake: features (M, D) of samples.
        k: the neighbor, not counting the image itself, whose distance is a neighborhood's radius.
        device: where distances are computed; it has to know float64.
        block: rows and columns of a block.

    Raises:
        ConfigError: there are no more than ``k`` images on a side.
    """
    if min(len(real), len(fake)) <= k:
        rule = f"less than {min(len(real), len(fake))}, the number of images"
        raise ConfigError(f"--neighbors {k}: must be {rule}")
    # Distances don't change when both sides are shifted, and lose fewer digits near the origin.
    center = real.mean(axis=0, dtype=np.float64)
    a, b = (torch.from_numpy(x - center).to(device, torch.float64) for x in (real, fake))
    radius_a, radius_b = _radii(a, k, block), _radii(b, k, block)
    near_real = torch.zeros(len(b), dtype=torch.int64, device=a.device)  # real neighborhoods around a sample
    near_fake = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    closest = torch.full((len(a),), torch.inf, dtype=torch.float64, device=a.device)
    for rows in _blocks(len(a), block):
        for columns in _blocks(len(b), block):
            distance = _squared_distances(a[rows], b[columns])
            near_real[columns] += (distance < radius_a[rows, None]).sum(dim=0)
            near_fake[rows] |= (distance < radius_b[None, columns]).any(dim=1)
            closest[rows] = torch.minimum(closest[rows], distance.min(dim=1).values)
    return PRDC(
        precision=float((near_real > 0).double().mean()),
        recall=float(near_fake.double().mean()),
        density=float(near_real.double().mean() / k),
        coverage=float((closest < radius_a).double().mean()),
    )


def _blocks(n: int, block: int) -> Iterator[slice]:
    for start in range(0, n, block):
        yield slice(start, min(start + block, n))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) from (n, D) and (m, D). Squares order as distances do, and the roots aren't needed."""
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
