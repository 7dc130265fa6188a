"""Inception Score."""

from __future__ import annotations

import numpy as np
import torch

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics


def inception_score(
    samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device
) -> dict[str, float]:
    """See :data:`~maskgit_cli.scoring.metrics.Metric`."""
    assert samples.logits is not None
    mean, deviation = score_of_logits(samples.logits, config.splits)
    return {"inception_score": mean, "inception_score_std": deviation}


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
    n = len(logits)
    if n < splits:
        raise ConfigError(f"--splits {splits}: must be {n} or less, the number of images")
    scores = []
    for i in range(splits):
        split = torch.from_numpy(logits[i * n // splits : (i + 1) * n // splits]).double()
        log_p = split.log_softmax(dim=1)  # (n/splits, C)
        log_q = torch.logsumexp(log_p, dim=0) - np.log(len(split))  # (C,), finite as log_p is
        scores.append(float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
