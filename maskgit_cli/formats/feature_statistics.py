"""Statistics files: the mean and covariance of a set of images' features, with the exact sums behind them.

The sums are whole numbers, and adding whole numbers gives the same result in any order. A feature is
read in units of 2⁻²⁴ (:data:`UNIT_BITS`), rounded to the nearest; this is exact for every float32
of magnitude 0.5 or more, and otherwise off by at most 2⁻²⁵ = 3·10⁻⁸, which is float32's own rounding at
0.5. That whole number is written in signed digits of 16 bits (:data:`DIGIT_BITS`), so that a matrix
product of digits in float64 stays below 2⁵³ and is exact whatever order a BLAS adds in. Two consequences:

- statistics of two halves merge into those of the whole bit for bit, as do the shares of several
  processes, given the same features (a network's float32 output may itself depend, in its last
  bits, on the batch it ran in);
- mean and covariance are the correctly rounded float64 values of the true ratios of the sums: there is
  no cancellation between large squares.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.errors import ArtifactError, InputError, counted
from maskgit_cli.formats.atomic import CREATED_BY, check_format, parent, replacing_file, sha256_file

STATISTICS_FORMAT, STATISTICS_VERSION = "maskgit-statistics", 1
UNIT_BITS = 24
DIGIT_BITS = 16
# Rows of features that go into one matrix product: 2¹⁶ products of two 15-bit digits stay below 2⁴⁶.
ROWS = 2**16
# Names that others give to mean and covariance: ADM and pytorch-fid use the first pair, TTUR both.
MOMENT_NAMES = (("mu", "sigma"), ("m", "s"))
# How far from symmetric a covariance may be, relative to its largest entry.
ASYMMETRY = 1e-5


# --- exact sums -------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """Exact sums over n feature vectors of D numbers, each written with K digits.

    Attributes:
        n: vectors.
        first: sums of each digit, int64 (K, D), lowest digit first.
        second: sums of products of digits, int64 (2K-1, D·(D+1)/2): row s holds, for every pair
            of features of the upper triangle, row by row, the products of digits i and j with i+j = s.
    """

    n: int
    first: np.ndarray
    second: np.ndarray

    @property
    def dimension(self) -> int:
        """D, features of an image."""
        return int(self.first.shape[1])


def sums_of(features: np.ndarray) -> Sums:
    """Exact sums of features (n, D), float32.

    Raises:
        InputError: a feature is NaN, infinite, or too large for a feature.
    """
    features = np.asarray(features, np.float32)
    dimension = features.shape[1]
    total = Sums(0, np.zeros((1, dimension), np.int64), np.zeros((1, _triangle(dimension)), np.int64))
    for start in range(0, len(features), ROWS):
        total = add_sums(total, _sums_of_block(features[start : start + ROWS]))
    return total


def _triangle(dimension: int) -> int:
    return dimension * (dimension + 1) // 2


def _digits(features: np.ndarray) -> list[np.ndarray]:
    """Signed digits, lowest first, each (n, D) in float64, of features (n, D)."""
    # Beyond 2³⁸ units would not fit int64; features of a working network are below 10³.
    if not np.all(np.abs(features) < 2.0**38):
        raise InputError("features are NaN, infinite or beyond 10¹¹: the network's weights are unusable")
    units = np.rint(features.astype(np.float64) * 2.0**UNIT_BITS).astype(np.int64)
    half = 1 << (DIGIT_BITS - 1)
    digits: list[np.ndarray] = []
    while not digits or units.any():
        digit = ((units + half) & (2 * half - 1)) - half  # in -half .. half-1
        units = (units - digit) >> DIGIT_BITS
        digits.append(digit.astype(np.float64))
    return digits


def _sums_of_block(features: np.ndarray) -> Sums:
    digits = _digits(features)
    upper = np.triu_indices(features.shape[1])
    first = np.stack([digit.sum(axis=0) for digit in digits]).astype(np.int64)
    second = np.zeros((2 * len(digits) - 1, len(upper[0])), np.int64)
    for i, low in enumerate(digits):
        for j, high in enumerate(digits[i:], start=i):
            product = low.T @ high  # (D, D), whole numbers
            if i != j:
                product += product.T.copy()
            second[i + j] += product[upper].astype(np.int64)
    return Sums(len(features), first, second)


def add_sums(a: Sums, b: Sums) -> Sums:
    """Sums over both sets; the order doesn't matter."""
    assert a.dimension == b.dimension, (a.dimension, b.dimension)
    return Sums(a.n + b.n, _add_padded(a.first, b.first), _add_padded(a.second, b.second))


def _add_padded(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of arrays that may have a different number of rows; the shorter one's others are 0."""
    if len(a) < len(b):
        a, b = b, a
    total = a.copy()
    total[: len(b)] += b
    return total


def moments(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) with the divisor n-1: the true values, rounded once to float64.

    Raises:
        InputError: there are fewer than two vectors.
    """
    n, dimension = sums.n, sums.dimension
    if n < 2:
        raise InputError(f"{counted(n, 'image')}: a covariance needs two or more")
    first = _whole_numbers(sums.first)
    mu = (first / (n << UNIT_BITS)).astype(np.float64)
    sigma = np.empty((dimension, dimension))
    divisor = (n * (n - 1)) << (2 * UNIT_BITS)
    start = 0
    for i in range(dimension):  # a row at a time: Python's whole numbers take some memory
        stop = start + dimension - i
        row = n * _whole_numbers(sums.second[:, start:stop]) - first[i] * first[i:]
        # Python divides whole numbers of any length with one rounding.
        sigma[i, i:] = sigma[i:, i] = (row / divisor).astype(np.float64)
        start = stop
    return mu, sigma


def _whole_numbers(digits: np.ndarray) -> np.ndarray:
    """Python integers (M,) from digits int64 (K, M), lowest first."""
    total = digits[-1].astype(object)
    for digit in digits[-2::-1]:
        total = total * (1 << DIGIT_BITS) + digit.astype(object)
    return total


# --- the file ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """What a statistics file holds.

    Attributes:
        mu: mean of the features, float64 (D,).
        sigma: their covariance, float64 (D, D).
        n: images; None where the file of another project doesn't say.
        space: name of the feature space; None in files of other projects.
        space_sha256: of the weights that define it.
        protocol: how images were prepared.
        sums: exact sums, which merging needs.
        features: float32 (n, D), in the order of the images.
        logits: float32 (n, C) of Inception's classifier, without bias.
        parents: what the statistics were made from.
        sha256: of the file they were read from; None if they were computed just now.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None
    space: str | None = None
    space_sha256: str | None = None
    protocol: str = "standard"
    sums: Sums | None = None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    parents: list[dict[str, str]] = field(default_factory=list)
    sha256: str | None = None

    @property
    def dimension(self) -> int:
        """D, features of an image."""
        return len(self.mu)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a statistics file whole; equal statistics give equal bytes.

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
        "unit_bits": UNIT_BITS,
        "digit_bits": DIGIT_BITS,
        "parents": statistics.parents,
    }
    arrays: dict[str, Any] = {
        "mu": statistics.mu,
        "sigma": statistics.sigma,
        "n": np.int64(statistics.n),
    }
    if statistics.sums is not None:
        arrays |= {"sum_digits": statistics.sums.first, "product_digits": statistics.sums.second}
    if statistics.features is not None:
        arrays["features"] = statistics.features
    if statistics.logits is not None:
        arrays["logits"] = statistics.logits
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta, ensure_ascii=False)), **arrays)


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an ``.npz``, without reading them.

    Raises:
        InputError: the file is missing or is no ``.npz``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npz ({error})") from error


def holds_statistics(path: Path) -> bool:
    """Whether an ``.npz`` holds a mean and a covariance, under anybody's names."""
    return any(set(names) <= npz_names(path) for names in MOMENT_NAMES)


def read_statistics(path: Path) -> Statistics:
    """Read a statistics file of ours, or mean and covariance as ADM, pytorch-fid and TTUR store them.

    Raises:
        InputError: the file is missing, is no ``.npz``, or holds no mean and covariance.
        ArtifactError: it is damaged, of another version, or its arrays don't fit together.
    """
    names = npz_names(path)
    pair = next((pair for pair in MOMENT_NAMES if set(pair) <= names), None)
    if pair is None:
        raise InputError(f"{path}: holds no statistics (no mu and sigma, but {', '.join(sorted(names))})")
    wanted = {"meta", "n", "sum_digits", "product_digits", "features", "logits", *pair} & names
    arrays = _load(path, wanted)
    mu, sigma = _checked_moments(path, arrays[pair[0]], arrays[pair[1]])
    if "meta" not in arrays:
        return Statistics(mu, sigma, sha256=sha256_file(path))
    meta = _meta(path, arrays["meta"])
    n = _count(path, arrays.get("n"))
    sums = _checked_sums(path, n, arrays, mu) if "sum_digits" in arrays else None
    for name in ("features", "logits"):
        if name in arrays and (arrays[name].ndim != 2 or len(arrays[name]) != n):
            raise ArtifactError(f"{path}: {name} have shape {arrays[name].shape}, not {n} rows")
    return Statistics(
        mu,
        sigma,
        n,
        meta["space"],
        meta["space_sha256"],
        meta["protocol"],
        sums,
        arrays.get("features"),
        arrays.get("logits"),
        list(meta["parents"]),
        sha256_file(path),
    )


def _load(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def _meta(path: Path, value: np.ndarray) -> dict[str, Any]:
    try:
        meta = json.loads(str(value))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is damaged: its meta is not JSON ({error})") from None
    if not isinstance(meta, dict):
        raise ArtifactError(f"{path} is damaged: its meta is not a JSON object")
    check_format(meta, path, STATISTICS_FORMAT, STATISTICS_VERSION)
    missing = {"space", "space_sha256", "protocol", "parents"} - meta.keys()
    if missing:
        raise ArtifactError(f"{path} is damaged: its meta has no {sorted(missing)[0]!r}")
    return meta


def _checked_moments(path: Path, mu: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise ArtifactError(f"{path}: mean {mu.shape} and covariance {sigma.shape} do not fit together")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ArtifactError(f"{path}: mean or covariance holds NaN or infinity")
    if np.abs(sigma - sigma.T).max(initial=0) > ASYMMETRY * np.abs(sigma).max(initial=0):
        raise ArtifactError(f"{path}: the covariance is not symmetric")
    return mu, sigma


def _count(path: Path, n: np.ndarray | None) -> int:
    if n is None or n.shape != () or n.dtype.kind not in "iu" or n < 2:
        raise ArtifactError(f"{path} is damaged: it does not say how many images it is of")
    return int(n)


def _checked_sums(path: Path, n: int, arrays: Mapping[str, np.ndarray], mu: np.ndarray) -> Sums:
    sums = Sums(n, arrays["sum_digits"], arrays.get("product_digits", np.empty((0, 0))))
    dimension, digits = len(mu), len(sums.first)
    shapes = (digits, dimension), (2 * digits - 1, _triangle(dimension))
    whole = sums.first.dtype == sums.second.dtype == np.int64
    if (sums.first.shape, sums.second.shape) != shapes or not whole:
        raise ArtifactError(f"{path}: its sums do not fit a mean of {dimension} numbers")
    if not np.array_equal((_whole_numbers(sums.first) / (sums.n << UNIT_BITS)).astype(np.float64), mu):
        raise ArtifactError(f"{path}: its sums are not those of its mean")
    return sums


def merge_statistics(parts: Sequence[tuple[Path, Statistics]]) -> Statistics:
    """Statistics of all images of several files: bit for bit those of the whole.

    Features and logits are joined, in the order given, if every part has them.

    Raises:
        InputError: a file has no sums (other projects' have not).
        ArtifactError: the files are of different feature spaces or protocols.
    """
    (first_path, first), *others = parts
    for path, part in parts:
        if part.sums is None:
            raise InputError(f"{path}: holds mean and covariance but no sums, so it cannot be merged exactly")
        for key in ("space", "space_sha256", "protocol", "dimension"):
            if getattr(part, key) != getattr(first, key):
                ours, theirs = getattr(part, key), getattr(first, key)
                raise ArtifactError(
                    f"{path} has {key} {ours}, but {first_path} {theirs}: they cannot be merged"
                )
    assert first.sums is not None
    sums = first.sums
    for _, part in others:
        assert part.sums is not None
        sums = add_sums(sums, part.sums)
    mu, sigma = moments(sums)
    return Statistics(
        mu,
        sigma,
        sums.n,
        first.space,
        first.space_sha256,
        first.protocol,
        sums,
        _joined([part.features for _, part in parts]),
        _joined([part.logits for _, part in parts]),
        [record for path, part in parts for record in _as_parents(path, part)],
    )


def _as_parents(path: Path, part: Statistics) -> list[dict[str, str]]:
    """A file is a parent itself; what was computed just now hands on its own parents."""
    return part.parents if part.sha256 is None else [parent("statistics", path, part.sha256)]


def _joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if len(present) == len(arrays) else None
