"""Fréchet distance."""

from __future__ import annotations

import numpy as np
import torch

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import InputError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring.metrics import Scored

# Smallest eigenvalue of a covariance relative to its largest. Rounding makes some slightly negative; a
# matrix with smaller ones is not a covariance.
NEGATIVE = 1e-6


def fid(samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device) -> Scored:
    """See :data:`~maskgit_cli.scoring.metrics.Metric`."""

    def influences() -> dict[str, np.ndarray]:
        assert samples.features is not None
        return {"fid": frechet_influences(samples.features, reference.mu, reference.sigma)}

    distance = frechet_distance(samples.mu, samples.sigma, reference.mu, reference.sigma)
    return Scored({"fid": distance}, influences)


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet distance between two Gaussians (arXiv 1706.08500, equation 6).

    |mu1 - mu2|² + tr(sigma1) + tr(sigma2) - 2·tr((sigma1·sigma2)^½). With sigma = R·Rᵀ, the last trace is
    the sum of the singular values of R1ᵀ·R2, which needs no square root of a general matrix.

    Args:
        mu1, mu2: means (D,).
        sigma1, sigma2: covariances (D, D).

    Returns:
        The distance; 0 or more, except for rounding.

    Raises:
        InputError: a covariance is not positive semi-definite.
    """
    mu1, mu2 = np.asarray(mu1, np.float64), np.asarray(mu2, np.float64)
    root1, root2 = _root(sigma1, "first"), _root(sigma2, "second")
    overlap = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
    difference = mu1 - mu2
    # Traces of the roots, so that the eigenvalues left out of them are left out of every term.
    traces = np.square(root1).sum() + np.square(root2).sum()
    return float(difference @ difference + traces - 2 * overlap)


def frechet_influences(features: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> np.ndarray:
    """First-order change of :func:`frechet_distance` per sample: float64 (n,), with mean zero.

    With sigma2 = R·Rᵀ and M = Rᵀ·sigma1·R, the derivative of tr(sigma1) - 2·tr(M^½) by sigma1 is I - T, with
    T = R·M^-½·Rᵀ, the map that transports the first Gaussian to the second. Where there are fewer samples
    than features, sigma1 is singular, and M is inverted on its range, which no resample leaves.

    Args:
        features: of the samples (n, D).
        mu2, sigma2: mean (D,) and covariance (D, D) of the reference.
    """
    features = features.astype(np.float64)
    mu1 = features.mean(axis=0)
    centered = features - mu1  # (n, D)
    scale = len(features) / (len(features) - 1)
    root = _root(sigma2, "second")  # (D, r)
    projected = centered @ root  # (n, r)
    values, vectors = np.linalg.eigh(projected.T @ projected / (len(features) - 1))  # M
    kept = values > np.finfo(np.float64).eps * len(values) * max(values[-1], 0.0)
    # Quadratic form of T, which needs neither T nor its root: (n, kept), scaled by M^-¼.
    transported = projected @ vectors[:, kept] / values[kept] ** 0.25
    quadratic = np.square(centered).sum(axis=1) - np.square(transported).sum(axis=1)
    found = 2 * centered @ (mu1 - np.asarray(mu2, np.float64)) + scale * quadratic
    return found - found.mean()


def _root(sigma: np.ndarray, which: str) -> np.ndarray:
    """R (D, rank) with R·Rᵀ = sigma (D, D)."""
    values, vectors = np.linalg.eigh(np.asarray(sigma, np.float64))
    if values[0] < -NEGATIVE * max(values[-1], 0.0):
        raise InputError(
            f"the {which} covariance is not positive semi-definite: it has the eigenvalue {values[0]:g}"
        )
    # Eigenvalues of this size are rounding errors. Their roots, some 1e-8 of the largest each, would add up
    # wherever there are fewer images than features.
    rounding = np.finfo(np.float64).eps * len(values) * max(values[-1], 0.0)
    kept = values > rounding
    return vectors[:, kept] * np.sqrt(values[kept])
