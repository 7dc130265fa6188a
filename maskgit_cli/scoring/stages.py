"""``fid`` and ``fid-stats``: how far samples are from real images, and reference statistics.

Reference and score are separate steps: a set of images becomes :class:`Statistics`, and two of those
become numbers. A number is only called FID where pixels, network and weights are those of the
published protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskgit_cli.config.base import require
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.data.sources import ImageSource, open_source
from maskgit_cli.data.sources.samples import is_sample_directory
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.formats.atomic import CREATED_BY, check_output, parent
from maskgit_cli.formats.feature_statistics import (
    Statistics,
    holds_statistics,
    merge_statistics,
    moments,
    read_statistics,
    write_statistics,
)
from maskgit_cli.formats.models import builtin_tokenizer, find_tokenizer
from maskgit_cli.formats.samples import SCORES_FILE, TOKENS_FILE, read_record
from maskgit_cli.formats.scores import SCORES_FORMAT, SCORES_VERSION, write_scores
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.runtime.distributed import broadcast_object, resolve_device, world
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.extraction import Extracted, extract
from maskgit_cli.scoring.features import (
    INCEPTION,
    INCEPTION_SHA256,
    FeatureSpace,
    Identity,
    InceptionSpace,
    TokenizerSpace,
    inception_weights,
    metric_name,
)
from maskgit_cli.scoring.metrics import frechet_distance, inception_score, prdc

# What the metrics that one can ask for are called in a sentence.
METRIC_TITLES = {
    "fid": "the Fréchet distance (fid)",
    "is": "the Inception Score (is)",
    "prdc": "precision, recall, density and coverage (prdc)",
}


class Scores(NamedTuple):
    """What :func:`score` made: the file it wrote, and the object in it."""

    path: Path
    record: dict[str, Any]


class _Means(NamedTuple):
    """How sources become statistics: the arguments that :func:`score` and :func:`fid_stats` share."""

    config: ScoreConfig
    weights: Path | None
    tokenizer: Path | None
    batch_size: int
    device: torch.device
    reporter: Reporter


class _Side(NamedTuple):
    """Samples, or what they are compared with: statistics, and how a record describes them."""

    statistics: Statistics
    record: dict[str, Any]
    sizes: Counter[tuple[int, int]]
    settings: dict[str, Any] | None = None


# --- the two stages ---------------------------------------------------------------------------------


def score(
    samples: Path | None,
    ref: Path,
    config: ScoreConfig = ScoreConfig(),  # noqa: B008 (frozen)
    *,
    out: Path | None = None,
    weights: Path | None = None,
    tokenizer: Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Scores:
    """Compare samples with a reference and write the scores.

    Either side is a sample directory, a folder of images or a CSV, a token file, an ``.npz`` of
    statistics, or an ``.npz`` with uint8 NHWC images ``arr_0``.

    Args:
        samples: what is scored; None takes the newest sample directory under ``samples/``.
        ref: what it is compared with.
        config: settings; where both sides are statistics, these decide feature space and protocol.
        out: the file to write; None is :func:`scores_path`.
        weights: Inception's weights; None takes the published ones.
        tokenizer: decodes tokens, and is the feature space of ``vqgan``; None finds it.
        batch_size: images a forward pass.
        device: where networks run.
        overwrite: replace scores that are there.
        reporter: is told of progress and warnings.

    Raises:
        ConfigError: a setting is out of range.
        InputError: a source is missing, or holds an image that can't be read.
        ArtifactError: a source is unfinished or damaged, or its statistics are of another space.
        WeightsError: Inception's weights can't be had.
        OutputError: there are scores already, or they can't be written.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    if samples is None:
        samples = newest_samples()
        reporter.info(f"scoring the newest samples: {samples}")
    out = out or scores_path(samples)
    check_output(out, overwrite)
    means = _Means(config, weights, tokenizer, batch_size, resolve_device(device), reporter)
    (ours, theirs), identity = _sides([samples, ref], means, config.metrics)
    record = None
    if world().main:
        record = _record(ours, theirs, config, identity, means)
        write_scores(out, record)
    return Scores(out, broadcast_object(record))


def fid_stats(
    sources: Sequence[Path],
    out: Path,
    config: ScoreConfig = ScoreConfig(),  # noqa: B008 (frozen)
    *,
    weights: Path | None = None,
    tokenizer: Path | None = None,
    with_features: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Collect statistics of all images of several sources, merged with those of files that hold some.

    Args:
        sources: images or statistics, as :func:`score` takes them.
        out: the statistics file to write.
        config: settings, of which ``features`` and ``protocol`` matter here.
        weights: Inception's weights; None takes the published ones.
        tokenizer: decodes tokens, and is the feature space of ``vqgan``; None finds it.
        with_features: keep every image's features (and logits), which PRDC needs of a reference.
        batch_size: images a forward pass.
        device: where networks run.
        overwrite: replace a file that is there.
        reporter: is told of progress and warnings.

    Returns:
        ``out``.

    Raises:
        As :func:`score`; besides, InputError for statistics without sums, which can't be merged.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    if not sources:
        raise InputError("no source given; name images or statistics files")
    check_output(out, overwrite)
    means = _Means(config, weights, tokenizer, batch_size, resolve_device(device), reporter)
    sides, _ = _sides(sources, means, ("prdc", "is") if with_features else ())
    if world().main:
        merged = merge_statistics(
            [(path, side.statistics) for path, side in zip(sources, sides, strict=True)]
        )
        if with_features and merged.features is None:
            reporter.warn("one of the merged files holds no features, so the result holds none")
        write_statistics(out, merged)
    broadcast_object(None)  # nobody leaves before the file stands
    return out


def newest_samples(root: Path = Path("samples")) -> Path:
    """What ``sample`` finished last: ``root`` itself or a directory below it, by its tokens' age.

    Inpainted pictures are no samples of a distribution, so their directories are passed over.

    Raises:
        InputError: there is none.
    """
    files = [file for pattern in (TOKENS_FILE, f"*/{TOKENS_FILE}") for file in root.glob(pattern)]
    found = [file for file in files if read_record(file.parent).get("stage") == "sample"]
    if not found:
        raise InputError(f"no sample directory under {root}/; name one, or make one with `maskgit sample`")
    return max(found, key=lambda file: (file.stat().st_mtime_ns, file)).parent


def scores_path(samples: Path) -> Path:
    """Where scores go: into a sample directory, else beside what was scored, never among images."""
    if is_sample_directory(samples):
        return samples / SCORES_FILE
    whole = samples if samples.name not in ("", "..") else samples.resolve()
    return whole.parent / f"{whole.name if whole.is_dir() else whole.stem}.{SCORES_FILE}"


# --- sources to statistics --------------------------------------------------------------------------


def _sides(paths: Sequence[Path], means: _Means, metrics: Sequence[str]) -> tuple[list[_Side], Identity]:
    """Statistics of every source in one feature space.

    Whatever can be wrong with a source is found before the first image goes through a network, and
    no network is loaded where every source holds statistics.
    """
    opened = [_open(path, means) for path in paths]
    stored = [source for source in opened if isinstance(source, Statistics)]
    # Of a comparison's two sides, the reference decides whose tokenizer's space it is, and comes last.
    space = None if len(stored) == len(opened) else _feature_space(means, _tokenizer_behind(opened[::-1]))
    identity = _identity_of(stored[0]) if space is None else _identity(space, means.config.protocol)
    for path, source in zip(paths, opened, strict=True):
        if isinstance(source, Statistics):
            _check_identity(path, source, identity, means.reporter)
    sides = []
    for path, source in zip(paths, opened, strict=True):
        if isinstance(source, Statistics):
            sides.append(_side_of_statistics(path, source))
        else:
            assert space is not None
            sides.append(_side_of_images(source, space, identity, metrics, means))
    return sides, identity


def _open(path: Path, means: _Means) -> Statistics | ImageSource:
    """Statistics where a file holds them, else images."""
    if path.suffix.lower() == ".npz" and not path.is_dir() and holds_statistics(path):
        return read_statistics(path)
    return open_source(path, means.tokenizer, means.device)


def _side_of_statistics(path: Path, statistics: Statistics) -> _Side:
    record = {"kind": "statistics", "name": path.name, "sha256": statistics.sha256, "n": statistics.n}
    return _Side(statistics, record, Counter())


def _side_of_images(
    images: ImageSource, space: FeatureSpace, identity: Identity, metrics: Sequence[str], means: _Means
) -> _Side:
    """Statistics of images; these are known by their pixels, and by their file if they are in one."""
    origin = images.origin
    if len(images) < 2:
        raise InputError(f"{origin.path}: holds one image; a covariance needs two or more")
    found: Extracted = extract(
        images,
        space,
        identity.protocol,
        keep_features="prdc" in metrics,
        keep_logits="is" in metrics,
        batch_size=means.batch_size,
        reporter=means.reporter,
    )
    source = parent(origin.kind, origin.path, origin.sha256 or found.sha256)
    statistics = Statistics(
        *moments(found.sums),
        n=found.sums.n,
        space=identity.space,
        space_sha256=identity.sha256,
        protocol=identity.protocol,
        sums=found.sums,
        features=found.features,
        logits=found.logits,
        parents=[source],
    )
    record = {**source, "pixels_sha256": found.sha256, "n": found.sums.n}
    return _Side(statistics, record, found.sizes, origin.settings)


# --- feature spaces ---------------------------------------------------------------------------------


def _feature_space(means: _Means, tokenizer_sha256: str | None) -> FeatureSpace:
    """Load the feature space that the settings ask for.

    Args:
        means: settings and where weights are.
        tokenizer_sha256: the tokenizer to find if none is named; None takes the built-in one.

    Raises:
        ConfigError: ``legacy-v1`` is asked of another space than Inception.
        WeightsError: Inception's weights can't be had.
        InputError: the tokenizer isn't there.
    """
    config, reporter = means.config, means.reporter
    if config.features == "vqgan":
        if config.protocol != "standard":
            raise ConfigError(f"--protocol {config.protocol}: needs --features inception")
        tokenizer = means.tokenizer
        if tokenizer is None and tokenizer_sha256 is not None:
            tokenizer = find_tokenizer(tokenizer_sha256)
        if tokenizer is None:
            tokenizer = builtin_tokenizer()
            reporter.info("features are those of the built-in tokenizer; --tokenizer names another")
        return TokenizerSpace(load_tokenizer(tokenizer, means.device))
    space = InceptionSpace(inception_weights(means.weights, reporter), means.device)
    if not space.published:
        name = metric_name("fid", _identity(space, config.protocol))
        reporter.warn(
            f"{means.weights} is not the published file (its sha256 is {space.sha256}, not "
            f"{INCEPTION_SHA256}): the distance is called {name} and is not FID"
        )
    return space


def _tokenizer_behind(opened: Sequence[Statistics | ImageSource]) -> str | None:
    """Digest of the tokenizer in whose space sources are compared: of the first source that has one."""
    for source in opened:
        if not isinstance(source, Statistics):
            digest = source.origin.tokenizer_sha256
        else:
            digest = source.space_sha256 if source.space == TokenizerSpace.name else None
        if digest is not None:
            return digest
    return None


def _identity(space: FeatureSpace, protocol: str) -> Identity:
    return Identity(space.name, space.sha256, space.dimension, protocol)


def _identity_of(statistics: Statistics) -> Identity:
    """Other projects' files don't name their feature space; theirs is the published one."""
    space = statistics.space or INCEPTION
    sha256 = statistics.space_sha256 or INCEPTION_SHA256
    return Identity(space, sha256, statistics.dimension, statistics.protocol)


def _check_identity(path: Path, statistics: Statistics, identity: Identity, reporter: Reporter) -> None:
    """Hold a statistics file to the feature space and protocol of a comparison.

    Raises:
        ArtifactError: it is of another.
    """
    found = _identity_of(statistics)
    for key in Identity._fields:
        theirs, ours = getattr(found, key), getattr(identity, key)
        if theirs != ours:
            raise ArtifactError(
                f"{path}: its {key.replace('sha256', 'weights')} is {theirs}, that of the comparison {ours}; "
                "give --features, --weights, --tokenizer and --protocol as they were when it was made"
            )
    if statistics.space is None:
        reporter.warn(f"{path} does not name its features; they are taken for the published Inception's")


# --- scores -----------------------------------------------------------------------------------------


def _record(
    ours: _Side, theirs: _Side, config: ScoreConfig, identity: Identity, means: _Means
) -> dict[str, Any]:
    """The object of scores.json; docs/artifacts.md specifies it."""
    scores, left_out = _metrics(ours.statistics, theirs.statistics, config, identity, means.device)
    for name, reason in left_out.items():
        means.reporter.info(f"left out {METRIC_TITLES[name]}: {reason}")
    warnings = _warnings(ours, theirs, identity)
    for text in warnings:
        means.reporter.warn(text)
    return {
        "format": SCORES_FORMAT,
        "version": SCORES_VERSION,
        "created_by": CREATED_BY,
        "n": ours.statistics.n,
        "n_ref": theirs.statistics.n,
        "protocol": identity.protocol,
        "features": {"space": identity.space, "sha256": identity.sha256, "dimension": identity.dimension},
        "metrics": scores,
        "left_out": left_out,
        "warnings": warnings,
        "samples": ours.record,
        "reference": theirs.record,
        "settings": config.to_json(),
        "sample_settings": ours.settings,
        "parents": [{key: side.record[key] for key in ("kind", "name", "sha256")} for side in (ours, theirs)],
    }


def _metrics(
    ours: Statistics, theirs: Statistics, config: ScoreConfig, identity: Identity, device: torch.device
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores by name, and why a metric that was asked for is left out."""
    compute: dict[str, Callable[[], dict[str, float]]] = {
        "fid": lambda: {"fid": frechet_distance(ours.mu, ours.sigma, theirs.mu, theirs.sigma)},
        "is": lambda: _inception_score(ours, identity, config.splits),
        "prdc": lambda: _prdc(ours, theirs, config.neighbors, device),
    }
    scores: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for metric in config.metrics:
        try:
            values = compute[metric]()
        except _LeftOut as reason:
            left_out[metric] = str(reason)
        except ConfigError as error:  # too few images for it: the other metrics are worth having
            left_out[metric] = str(error)
        else:
            scores |= {metric_name(name, identity, ours.n): value for name, value in values.items()}
    return scores, left_out


class _LeftOut(Exception):
    """A metric can't be had from what the sources hold."""


def _inception_score(ours: Statistics, identity: Identity, splits: int) -> dict[str, float]:
    if identity.space != INCEPTION:
        raise _LeftOut(f"the space {identity.space} has no classifier")
    if ours.logits is None:
        raise _LeftOut("the samples' statistics hold no logits (fid-stats --with-features keeps them)")
    mean, deviation = inception_score(ours.logits, splits)
    return {"inception_score": mean, "inception_score_std": deviation}


def _prdc(ours: Statistics, theirs: Statistics, k: int, device: torch.device) -> dict[str, float]:
    for name, side in (("samples", ours), ("reference", theirs)):
        if side.features is None:
            raise _LeftOut(f"the {name}' statistics hold no features (fid-stats --with-features keeps them)")
    assert ours.features is not None
    assert theirs.features is not None
    # Apple's GPUs know no float64.
    place = torch.device("cpu") if device.type == "mps" else device
    return prdc(theirs.features, ours.features, k, place)._asdict()


def _warnings(ours: _Side, theirs: _Side, identity: Identity) -> list[str]:
    """What a reader of the scores must know."""
    found = []
    for name, side in (("samples", ours), ("reference images", theirs)):
        n = side.statistics.n
        if n is not None and n <= identity.dimension:
            found.append(
                f"{n} {name} for {identity.dimension} features: the covariance is singular and the distance "
                "biased; compare it with distances at the same numbers of images only"
            )
        if len(side.sizes) > 1:
            found.append(f"the {name} have {len(side.sizes)} different sizes")
    if len(ours.sizes) == len(theirs.sizes) == 1 and ours.sizes.keys() != theirs.sizes.keys():
        ((height, width),), ((ref_height, ref_width),) = ours.sizes, theirs.sizes
        found.append(
            f"samples have {width}×{height} pixels, reference images {ref_width}×{ref_height}: a part of the "
            "distance comes from resizing"
        )
    if np.array_equal(ours.statistics.sigma, theirs.statistics.sigma):
        found.append("samples and reference have the same statistics: are they the same images?")
    return found
