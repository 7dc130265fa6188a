"""Details of scores, on request: intervals, distances per class, and FID against the number of samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring.bootstrap import interval, replicates_of
from maskgit_cli.scoring.details.curve import distances_by_size, limit_of
from maskgit_cli.scoring.details.per_class import class_distances


@dataclass
class Details:
    """Further keys of the record of scores.

    Attributes:
        record: ``intervals``, ``per_class``, ``curve`` and ``fid_infinity``, of those that were asked for.
        left_out: reasons why something is missing, by setting.
        warnings: reasons to doubt what is there.
    """

    record: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def needed_features(config: ScoreConfig) -> tuple[bool, bool]:
    """Whether the details need every feature of the samples, and of the reference."""
    return config.interval or config.per_class or config.curve, config.per_class


def details_of(
    samples: Statistics,
    reference: Statistics,
    config: ScoreConfig,
    scores: dict[str, float],
    influences: Iterable[tuple[str, np.ndarray]],
    device: torch.device,
) -> Details:
    """The details that ``config`` asks for.

    Args:
        samples: statistics of the samples.
        reference: statistics of the reference.
        config: settings of the scores.
        scores: by name.
        influences: of the images on each score by its name, from which nothing is taken unless intervals are
            asked for.
        device: for large computations.
    """
    found = Details()
    sides = ("samples", samples), ("reference", reference)
    missing = [name for name, side in sides if side.features is None]
    for name, computes in (
        ("interval", lambda: _intervals(scores, influences)),
        ("per_class", lambda: _per_class(samples, reference, found.warnings)),
        ("curve", lambda: _curve(samples, reference, device)),
    ):
        of = missing if name == "per_class" else [side for side in missing if side == "samples"]
        if not getattr(config, name):
            continue
        if of:
            text = f"the statistics of the {of[0]} contain no features; collect them with --with-features"
            found.left_out[name] = text
            continue
        try:
            found.record |= computes()
        except ConfigError as error:  # too few images, or no classes; the scores are still useful
            found.left_out[name] = str(error)
    return found


def _intervals(scores: dict[str, float], influences: Iterable[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """The central 95 % of each score's bootstrap, see :mod:`maskgit_cli.scoring.bootstrap`."""
    return {"intervals": {n: list(interval(replicates_of(scores[n], values))) for n, values in influences}}


def _per_class(samples: Statistics, reference: Statistics, warnings: list[str]) -> dict[str, Any]:
    found = class_distances(samples, reference)
    few = sum(min(entry.n, entry.n_ref) <= samples.dimension for entry in found.values())
    if few:
        warnings.append(
            f"{few} of {len(found)} classes have {samples.dimension} images or fewer on a side, as many as "
            "features: their covariances are singular and the distances per class biased; compare them with "
            "distances at the same numbers of images only"
        )
    classes = set(filter(None, [*(samples.classes or ()), *(reference.classes or ())]))
    if len(classes) > len(found):
        warnings.append(
            f"{len(classes) - len(found)} of {len(classes)} classes have no distance per class: a side has "
            "fewer than two images of each"
        )
    return {"per_class": {name: entry._asdict() for name, entry in found.items()}}


def _curve(samples: Statistics, reference: Statistics, device: torch.device) -> dict[str, Any]:
    points = distances_by_size(samples, reference, device)
    return {"curve": [list(point) for point in points], "fid_infinity": limit_of(points)}
