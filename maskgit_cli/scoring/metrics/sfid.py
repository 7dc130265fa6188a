"""Fréchet distance of spatial features."""

from __future__ import annotations

import torch

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring.metrics import Scored
from maskgit_cli.scoring.metrics.frechet import frechet_distance


def sfid(samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device) -> Scored:
    """sFID (arXiv 2103.03841): the Fréchet distance of features that keep places.

    See :data:`~maskgit_cli.scoring.metrics.Metric`. Only moments of these features are kept, so it has no
    influences.
    """
    assert samples.mu_s is not None
    assert samples.sigma_s is not None
    assert reference.mu_s is not None
    assert reference.sigma_s is not None
    distance = frechet_distance(samples.mu_s, samples.sigma_s, reference.mu_s, reference.sigma_s)
    return Scored({"sfid": distance}, lambda: {})
