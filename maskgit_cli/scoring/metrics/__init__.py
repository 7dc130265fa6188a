"""Metrics: one file per metric, found by its entry in :mod:`maskgit_cli.config.metrics`."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable

import torch

from maskgit_cli.config.metrics import MetricEntry
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.formats.feature_statistics import Statistics

# metric(samples, reference, config, device) -> value of each of the entry's scores, by name. It may raise
# ConfigError where there are too few images for the settings.
Metric = Callable[[Statistics, Statistics, ScoreConfig, torch.device], dict[str, float]]


def compute(
    entry: MetricEntry, samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device
) -> dict[str, float]:
    """The scores of a metric by their names, computed in float64.

    Args:
        entry: the metric.
        samples: statistics that contain what ``entry.samples`` names.
        reference: statistics that contain what ``entry.reference`` names.
        config: settings of the metrics.
        device: for large computations.

    Raises:
        ConfigError: there are too few images for the settings.
        InputError: the statistics are not valid.
    """
    metric: Metric = pkgutil.resolve_name(f"{__name__}.{entry.function}")
    scores = metric(samples, reference, config, device)
    assert scores.keys() == {score.name for score in entry.scores}, (entry.name, scores)
    return scores
