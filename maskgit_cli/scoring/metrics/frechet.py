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
    return distance_of_roots(mu1, covariance_root(sigma1, "first"), mu2, covariance_root(sigma2, "second"))


def distance_of_roots(mu1: np.ndarray, root1: np.ndarray, mu2: np.ndarray, root2: np.ndarray) -> float:
    """:func:`frechet_distance` of Gaussians whose covariances are known by their roots.

    Args:
        mu1, mu2: means (D,).
        root1, root2: R (D, r) with R·Rᵀ the covariance, as of :func:`covariance_root`.
    """
    overlap = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
    difference = np.asarray(mu1, np.float64) - np.asarray(mu2, np.float64)
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
    root = covariance_root(sigma2, "second")  # (D, r)
    projected = centered @ root  # (n, r)
    values, vectors = np.linalg.eigh(projected.T @ projected / (len(features) - 1))  # M
    kept = values > np.finfo(np.float64).eps * len(values) * max(values[-1], 0.0)
    # Quadratic form of T, which needs neither T nor its root: (n, kept), scaled by M^-¼.
    transported = projected @ vectors[:, kept] / values[kept] ** 0.25
    quadratic = np.square(centered).sum(axis=1) - np.square(transported).sum(axis=1)
    found = 2 * centered @ (mu1 - np.asarray(mu2, np.float64)) + scale * quadratic
    return found - found.mean()


def features_root(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a root of the covariance of features (n, D), of which there are two or more.

    Of n <= D features the centered features are a root themselves, (D, n): no matrix of (D, D) is needed.
    """
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centered = (features - mean) / np.sqrt(len(features) - 1)
    return mean, centered.T if len(features) <= len(mean) else covariance_root(centered.T @ centered, "first")


def covariance_root(sigma: np.ndarray, which: str) -> np.ndarray:
    """R (D, rank) with R·Rᵀ = sigma (D, D).

    Args:
        sigma: a covariance.
        which: its name in the message.

    Raises:
        InputError: it is not positive semi-definite.
    """
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
