"""Metrics: one file per metric, found by its entry in :mod:`maskgit_cli.config.metrics`."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from maskgit_cli.config.metrics import MetricEntry
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.formats.feature_statistics import Statistics


class Scored(NamedTuple):
    """Result of a metric.

    Attributes:
        values: of each of the entry's scores, by name.
        influences: returns, for each score that is better higher or lower, its first-order change per image,
            float64 (n,) with mean zero: for weights w that sum to n, the score is about
            value + w·influences / n. The images are the samples, or the reference images where the score is a
            fraction of those. Where the score needs moments of the samples, this needs their features; scores
            of spatial features have none, since those are not kept.
    """

    values: dict[str, float]
    influences: Callable[[], dict[str, np.ndarray]]


# metric(samples, reference, config, device) -> scores. It may raise ConfigError where there are too few
# images for the settings.
Metric = Callable[[Statistics, Statistics, ScoreConfig, torch.device], Scored]


def compute(
    entry: MetricEntry, samples: Statistics, reference: Statistics, config: ScoreConfig, device: torch.device
) -> Scored:
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
    scored = metric(samples, reference, config, device)
    assert scored.values.keys() == {score.name for score in entry.scores}, (entry.name, scored.values)
    return scored


def row_blocks(n: int, block: int) -> Iterator[slice]:
    """Slices of ``block`` rows, the last one of what is left, that cover ``n`` rows."""
    for start in range(0, n, block):
        yield slice(start, min(start + block, n))
