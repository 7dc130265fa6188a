"""Statistics files: mean and covariance of a set of images' features, as an ``.npz``.

Mean, covariance and n are the sums of the features and of their products about the mean, divided by n and
n - 1; so they are all that merging needs, and large means do not cancel. See docs/artifacts.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.config.protocols import EARLIER_NAMES, STANDARD
from maskgit_cli.errors import ArtifactError, InputError, counted
from maskgit_cli.formats.atomic import CREATED_BY, check_format, parent, replacing_file, sha256_file
from maskgit_cli.formats.claim import Found, OutputKind
from maskgit_cli.formats.npz import NPZ_ERRORS, npz_names, npz_reason, read_array

STATISTICS_FORMAT, STATISTICS_VERSION = "maskgit-statistics", 3
# Version 2 records no resolution: its images were not cropped. Version 1 contains exact sums, too, from which
# its mean and covariance are rounded.
FIRST_WITH_RESOLUTION = 3
# Names of mean and covariance in other projects' files: the first pair in ADM's and pytorch-fid's, the
# second in TTUR's.
MOMENT_NAMES = (("mu", "sigma"), ("m", "s"))
# Of the spatial features, in our files and ADM's.
SPATIAL_NAMES = ("mu_s", "sigma_s")
# How far from symmetric a covariance may be, relative to its largest entry.
ASYMMETRY = 1e-5


# --- sums -------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """First and second moments of n feature vectors, as float64 sums.

    Attributes:
        n: vectors.
        mean: float64 (D,); zeros of none.
        scatter: sum of (x - mean)(x - mean)ᵀ, float64 (D, D).
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    def covariance(self) -> np.ndarray:
        """Covariance (D, D) with the divisor n - 1.

        Raises:
            InputError: there are fewer than two vectors.
        """
        if self.n < 2:
            raise InputError(f"{counted(self.n, 'image')}: a covariance needs two or more")
        return self.scatter / (self.n - 1)


def moments_of(features: np.ndarray) -> Moments:
    """Moments of features (n, D).

    Raises:
        InputError: a feature is NaN or infinite.
    """
    if not np.isfinite(features).all():
        raise InputError("features are NaN or infinite: the weights of the feature extractor are unusable")
    features = features.astype(np.float64)
    mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
    centered = features - mean
    return Moments(len(features), mean, centered.T @ centered)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of both sets (Chan, Golub and LeVeque, 1979, equation 2.1): no large numbers cancel."""
    n = a.n + b.n
    if n == 0:
        return a
    difference = b.mean - a.mean
    between = np.outer(difference, difference) * (a.n * b.n / n)
    return Moments(n, a.mean + difference * (b.n / n), a.scatter + b.scatter + between)


# --- the file ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """The content of a statistics file.

    Attributes:
        mu: mean of the features, float64 (D,).
        sigma: their covariance with the divisor n - 1, float64 (D, D).
        n: images; None where another project's file does not record it.
        space: name of the feature space; None in other projects' files.
        space_sha256: of the feature extractor's weights.
        protocol: how images were prepared.
        resolution: side of the images in pixels; None where the file does not record it.
        features: float32 (n, D), in the order of the images.
        logits: float32 (n, C) of Inception's classifier, without bias.
        mu_s: mean of the spatial features, float64 (S,); None if the extractor has none.
        sigma_s: covariance of the spatial features, float64 (S, S).
        classes: readable name of each image's class (n,), empty text where it has none; None where it is not
            known.
        parents: records of the images, or of the files that were merged.
        sha256: of the file they were read from; None if they were computed.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None
    space: str | None = None
    space_sha256: str | None = None
    protocol: str = STANDARD
    resolution: int | None = None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None
    classes: list[str] | None = None
    parents: list[dict[str, str]] = field(default_factory=list)
    sha256: str | None = None

    @property
    def dimension(self) -> int:
        """D, features per image."""
        return len(self.mu)

    def moments(self, path: Path) -> Moments:
        """The sums behind the statistics.

        Args:
            path: of the file, for the message.

        Raises:
            InputError: the number of images is not recorded.
        """
        if self.n is None:
            raise InputError(
                f"{path}: does not record its number of images, so it cannot be merged; collect its "
                "statistics again with `maskgit fid-stats IMAGES`"
            )
        return Moments(self.n, self.mu, self.sigma * (self.n - 1))


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a statistics file atomically; equal statistics give equal bytes.

    Raises:
        OutputError: the file system refuses.
    """
    assert statistics.n is not None
    meta = {
        "format": STATISTICS_FORMAT,
        "version": STATISTICS_VERSION,
        "created_by": CREATED_BY,
        "space": statistics.space,
        "space_sha256": statistics.space_sha256,
        "protocol": statistics.protocol,
        "resolution": statistics.resolution,
        "parents": statistics.parents,
    }
    arrays: dict[str, Any] = {"mu": statistics.mu, "sigma": statistics.sigma, "n": np.int64(statistics.n)}
    for name in (*SPATIAL_NAMES, "features", "logits"):
        if getattr(statistics, name) is not None:
            arrays[name] = getattr(statistics, name)
    if statistics.features is not None and statistics.classes is not None:
        arrays["classes"] = np.array(statistics.classes)
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta, ensure_ascii=False)), **arrays)


def holds_statistics(path: Path) -> bool:
    """Whether an ``.npz`` contains a mean and a covariance, under any project's names."""
    return any(set(names) <= npz_names(path) for names in MOMENT_NAMES)


def read_statistics(path: Path) -> Statistics:
    """Read a statistics file, or mean and covariance as ADM, pytorch-fid and TTUR store them.

    Raises:
        InputError: the file is missing, is not an ``.npz``, or contains no mean and covariance.
        ArtifactError: it is damaged, of another version, or its arrays do not fit together.
    """
    names = npz_names(path)
    pair = next((pair for pair in MOMENT_NAMES if set(pair) <= names), None)
    if pair is None:
        raise InputError(f"{path}: contains no statistics (no mu and sigma, but {', '.join(sorted(names))})")
    arrays = _load(path, {"meta", "n", "features", "logits", "classes", *SPATIAL_NAMES, *pair} & names)
    mu, sigma = _checked_moments(path, arrays[pair[0]], arrays[pair[1]])
    mu_s, sigma_s = None, None
    if set(SPATIAL_NAMES) <= arrays.keys():
        mu_s, sigma_s = _checked_moments(path, *(arrays[name] for name in SPATIAL_NAMES))
    if "meta" not in arrays:
        return Statistics(mu, sigma, mu_s=mu_s, sigma_s=sigma_s, sha256=sha256_file(path))
    meta = _meta(path, arrays["meta"])
    n = _count(path, arrays.get("n"))
    for name, axes in (("features", 2), ("logits", 2), ("classes", 1)):
        if name in arrays and (arrays[name].ndim != axes or len(arrays[name]) != n):
            raise ArtifactError(f"{path}: {name} have shape {arrays[name].shape}, not {n} rows")
    classes = arrays.get("classes")
    return Statistics(
        mu,
        sigma,
        n,
        meta["space"],
        meta["space_sha256"],
        EARLIER_NAMES.get(meta["protocol"], meta["protocol"]),
        meta.get("resolution"),
        arrays.get("features"),
        arrays.get("logits"),
        mu_s,
        sigma_s,
        None if classes is None else list(map(str, classes)),
        parents=list(meta["parents"]),
        sha256=sha256_file(path),
    )


def _load(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    try:
        return {name: read_array(path, name) for name in names}
    except NPZ_ERRORS as error:
        raise ArtifactError(f"{path} is damaged: {npz_reason(error)}") from error


def _meta(path: Path, value: np.ndarray) -> dict[str, Any]:
    try:
        meta = json.loads(str(value))
    except RecursionError:
        raise ArtifactError(f"{path} is damaged: its meta is nested too deeply") from None
    except ValueError as error:  # bad JSON, or an endless integer
        raise ArtifactError(f"{path} is damaged: its meta is not JSON ({error})") from None
    if not isinstance(meta, dict):
        raise ArtifactError(f"{path} is damaged: its meta is not a JSON object")
    check_format(meta, path, STATISTICS_FORMAT, STATISTICS_VERSION)
    needed = {"space", "space_sha256", "protocol", "parents"}
    missing = (needed | {"resolution"} if meta["version"] >= FIRST_WITH_RESOLUTION else needed) - meta.keys()
    if missing:
        raise ArtifactError(f"{path} is damaged: its meta has no {sorted(missing)[0]!r}")
    for key in ("space", "space_sha256", "protocol"):
        if not isinstance(meta[key], str):
            raise ArtifactError(f"{path} is damaged: {key} in its meta is not text")
    resolution = meta.get("resolution")
    if resolution is not None and (type(resolution) is not int or resolution < 1):
        raise ArtifactError(f"{path} is damaged: resolution in its meta is {resolution!r}")
    if not isinstance(meta["parents"], list) or not all(map(_is_parent, meta["parents"])):
        raise ArtifactError(f"{path} is damaged: its meta lists no parents with kind, name and sha256")
    return meta


def _is_parent(value: Any) -> bool:
    keys = {"kind", "name", "sha256"}
    return (
        isinstance(value, dict) and value.keys() == keys and all(isinstance(v, str) for v in value.values())
    )


def _checked_moments(path: Path, mu: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise ArtifactError(f"{path}: mean {mu.shape} and covariance {sigma.shape} do not fit together")
    if np.float16 in (mu.dtype, sigma.dtype):
        raise ArtifactError(
            f"{path}: its statistics are float16, whose rounding changes distances; use float32 or float64"
        )
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ArtifactError(f"{path}: mean or covariance is NaN or infinite")
    if np.abs(sigma - sigma.T).max(initial=0) > ASYMMETRY * np.abs(sigma).max(initial=0):
        raise ArtifactError(f"{path}: the covariance is not symmetric")
    return mu, sigma


def _count(path: Path, n: np.ndarray | None) -> int:
    if n is None or n.shape != () or n.dtype.kind not in "iu" or n < 2:
        raise ArtifactError(f"{path} is damaged: its number of images n is missing or invalid")
    return int(n)


def merge_statistics(parts: Sequence[tuple[Path, Statistics]]) -> Statistics:
    """Statistics of all images of several files; equal to those of the whole to 1e-12 relative.

    Features, logits and classes are concatenated, in the order given, if every part has them.

    Raises:
        InputError: a file does not record its number of images (other projects' files do not).
        ArtifactError: the files are of different feature spaces or protocols.
    """
    (first_path, first), *_ = parts
    for path, part in parts:
        for key in ("space", "space_sha256", "protocol", "resolution", "dimension"):
            if getattr(part, key) != getattr(first, key):
                raise ArtifactError(
                    f"{path} has {key} {getattr(part, key)}, but {first_path} {getattr(first, key)}: "
                    "they cannot be merged"
                )
    total = reduce(merge_moments, [part.moments(path) for path, part in parts])
    spatial = _merged_spatial([part for _, part in parts])
    return Statistics(
        total.mean,
        total.covariance(),
        total.n,
        first.space,
        first.space_sha256,
        first.protocol,
        first.resolution,
        _concatenated([part.features for _, part in parts]),
        _concatenated([part.logits for _, part in parts]),
        None if spatial is None else spatial.mean,
        None if spatial is None else spatial.covariance(),
        _listed([part.classes for _, part in parts]),
        parents=[record for path, part in parts for record in _parents(path, part)],
    )


def _parents(path: Path, part: Statistics) -> list[dict[str, str]]:
    """A file is itself a parent; statistics that were computed pass on their parents."""
    return part.parents if part.sha256 is None else [parent("statistics", path, part.sha256)]


def _concatenated(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if len(present) == len(arrays) else None


def _merged_spatial(parts: Sequence[Statistics]) -> Moments | None:
    """The sums of the spatial features; None unless every part has them."""
    found = []
    for part in parts:
        if part.mu_s is None or part.sigma_s is None or part.n is None:
            return None
        found.append(Moments(part.n, part.mu_s, part.sigma_s * (part.n - 1)))
    return reduce(merge_moments, found)


def _listed(lists: Sequence[list[str] | None]) -> list[str] | None:
    present = [names for names in lists if names is not None]
    return [name for names in present for name in names] if len(present) == len(lists) else None


# --- claiming a statistics file ---------------------------------------------------------------------


def statistics_record(
    space: str | None,
    space_sha256: str | None,
    protocol: str,
    resolution: int | None,
    parents: Sequence[dict[str, str]],
    with_features: bool,
) -> dict[str, Any]:
    """What equal statistics files have in common."""
    settings = {"with_features": with_features}
    common = {"space": space, "space_sha256": space_sha256, "protocol": protocol, "resolution": resolution}
    return {"settings": settings, "parents": list(parents), **common}


def _find(path: Path) -> Found | None:
    try:
        found = read_statistics(path) if holds_statistics(path) else None
    except InputError as error:
        raise ArtifactError(str(error)) from error
    if found is None:
        return None
    kept = found.features is not None
    identity = (found.space, found.space_sha256, found.protocol, found.resolution)
    return Found(statistics_record(*identity, found.parents, kept), True)


STATISTICS = OutputKind("a statistics file", _find, folder=False, suffix=".npz")
