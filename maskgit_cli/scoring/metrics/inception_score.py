"""Inception Score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring.metrics import Scored


def inception_score(
    samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device
) -> Scored:
    """See :data:`~maskgit_cli.scoring.metrics.Metric`."""
    logits = samples.logits
    assert logits is not None
    mean, deviation = score_of_logits(logits, config.splits)
    return Scored(
        {"inception_score": mean, "inception_score_std": deviation},
        lambda: {"inception_score": score_influences(logits, config.splits)},
    )


def score_of_logits(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Inception Score (arXiv 1606.03498): exp of the mean divergence KL(p(y|x) ‖ p(y)).

    The images are split in the order given. (torch-fidelity shuffles them first unless asked not to; where
    images are sorted by class, the order given scores lower.)

    Args:
        logits: (N, C), without the classifier's bias as in the published protocol.
        splits: number of splits.

    Returns:
        Mean and standard deviation over the splits.

    Raises:
        ConfigError: there are fewer images than splits.
    """
    if len(logits) < splits:
        raise ConfigError(f"--splits {splits}: must be {len(logits)} or less, the number of images")
    scores = [float(divergences.mean().exp()) for divergences in _divergences(logits, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def score_influences(logits: np.ndarray, splits: int = 10) -> np.ndarray:
    """First-order change of the mean of :func:`score_of_logits` per image: float64 (N,), with mean zero.

    The mean divergence of a split changes by that of the image: p(y) minimizes the mean divergence, so its
    own change has no effect of first order.
    """
    found = []
    for divergences in _divergences(logits, splits):
        mean = divergences.mean()
        share = len(logits) / (splits * len(divergences))
        found.append((share * mean.exp() * (divergences - mean)).numpy())
    return np.concatenate(found)


def _divergences(logits: np.ndarray, splits: int) -> Iterator[torch.Tensor]:
    """KL(p(y|x) ‖ p(y)) of each image, float64, split by split."""
    n = len(logits)
    for i in range(splits):
        split = torch.from_numpy(logits[i * n // splits : (i + 1) * n // splits]).double()
        log_p = split.log_softmax(dim=1)  # (n/splits, C)
        log_q = torch.logsumexp(log_p, dim=0) - np.log(len(split))  # (C,), finite as log_p is
        yield (log_p.exp() * (log_p - log_q)).sum(dim=1)
