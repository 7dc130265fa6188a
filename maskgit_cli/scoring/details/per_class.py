"""Fréchet distance of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring.metrics.frechet import distance_of_roots, features_root


class ClassDistance(NamedTuple):
    """Fréchet distance of the images of a class.

    Attributes:
        distance: between samples and reference images of the class.
        n: samples of the class.
        n_ref: reference images of the class.
    """

    distance: float
    n: int
    n_ref: int


def class_distances(samples: Statistics, reference: Statistics) -> dict[str, ClassDistance]:
    """Fréchet distance of each class with two or more images on both sides, by its name in order.

    Only one class is in float64 at a time. Of n samples and m reference images, both fewer than features, the
    distance takes the singular values of an (n, m) matrix, and no covariance.

    Args:
        samples: with features and classes.
        reference: with features and classes.

    Raises:
        ConfigError: a side has no classes, or there is no such class.
    """
    assert samples.features is not None
    assert reference.features is not None
    rows, columns = _rows_of(samples.classes), _rows_of(reference.classes)
    for name, side in (("samples", rows), ("reference", columns)):
        if not side:
            raise ConfigError(f"--per-class: the classes of the {name} are not known; give labeled images")
    shared = [name for name in sorted(rows) if min(len(rows[name]), len(columns.get(name, ()))) >= 2]
    if not shared:
        raise ConfigError("--per-class: samples and reference share no class with two or more images each")
    found = {}
    for name in shared:
        here, there = (
            features_root(side.features[chosen[name]])
            for side, chosen in ((samples, rows), (reference, columns))
            if side.features is not None
        )
        value = distance_of_roots(*here, *there)
        found[name] = ClassDistance(value, len(rows[name]), len(columns[name]))
    return found


def _rows_of(classes: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Numbers of the images of each class by its name; images without a class are left out."""
    if not classes:
        return {}
    names, numbers = np.unique(np.array(classes, dtype=np.str_), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    return {str(name): part for name, part in zip(names, parts, strict=True) if name}
