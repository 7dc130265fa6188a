"""Stages ``fid`` and ``fid-stats``: scores of samples against a reference, and reference statistics.

Reference and score are separate steps: a set of images becomes statistics, and two of those become scores.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import option, require
from maskgit_cli.config.features import ExtractorEntry, FeatureSpace
from maskgit_cli.config.metrics import METRICS, MetricEntry, score_name
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.data.images import ImagesArgument
from maskgit_cli.data.sources.memory import path_or_images
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import CREATED_BY
from maskgit_cli.formats.claim import Outcome, check_output
from maskgit_cli.formats.feature_statistics import (
    STATISTICS,
    Statistics,
    merge_statistics,
    statistics_record,
    write_statistics,
)
from maskgit_cli.formats.records import Record
from maskgit_cli.formats.scores import SCORES, SCORES_FORMAT, SCORES_VERSION, read_scores, write_scores
from maskgit_cli.runtime.distributed import barrier, claim_on_main, on_main, resolve_device, world
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.bootstrap import replicates_of
from maskgit_cli.scoring.caveats import score_warnings
from maskgit_cli.scoring.details import details_of, needed_features
from maskgit_cli.scoring.extraction import remove_store
from maskgit_cli.scoring.features import Resources
from maskgit_cli.scoring.metrics import Scored, compute
from maskgit_cli.scoring.sources import (
    Source,
    SourceStatistics,
    common_space,
    extractor_entry,
    newest_samples,
    parents_of,
    read_source,
    scores_path,
    statistics_of,
)


class Scores(NamedTuple):
    """Result of :func:`score`.

    Attributes:
        path: the file that was written; None for images in memory without one.
        record: the object in it.
    """

    path: Path | None
    record: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The scores by name."""
        return dict(self.record["metrics"])

    def _repr_html_(self) -> str:
        """A table of the scores, which a notebook shows."""
        rows = "".join(
            f"<tr><td>{name}</td><td>{value:.6g}</td></tr>" for name, value in self.metrics.items()
        )
        sizes = f"{self.record['n']} samples, {self.record['n_ref']} reference images"
        return f"<table><caption>{sizes}</caption>{rows}</table>"


@checked
def score(
    samples: ImagesArgument | None,
    ref: ImagesArgument,
    config: ScoreConfig = ScoreConfig(),  # noqa: B008 (frozen)
    *,
    out: PathArgument | None = None,
    weights: PathArgument | None = None,
    tokenizer: PathArgument | None = None,
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Scores:
    """Compare samples with a reference and write the scores.

    Either source is a sample directory, a folder of images or a CSV, a token file, an ``.npz`` of
    statistics, an ``.npz`` with uint8 NHWC images ``arr_0``, or images in memory: a list of PIL images, an
    array (N, H, W, 3) or a tensor (N, 3, H, W).

    Args:
        samples: source to score; None is the newest sample directory under ``samples/``.
        ref: source to compare with.
        config: settings; where both sources are statistics, these determine feature space and protocol.
        out: the file to write; None is :func:`~maskgit_cli.scoring.sources.scores_path`, and no file for
            samples in memory.
        weights: of the feature extractor; None is the published ones.
        tokenizer: decodes tokens, and extracts the features of ``vqgan``; None finds it.
        batch_size: images per forward pass.
        device: where networks run.
        overwrite: replace existing scores.
        reporter: receives progress and warnings.

    Raises:
        ConfigError: a setting is out of range, or a file is given that nothing is computed with.
        InputError: a source does not exist, or contains an image that cannot be read.
        ArtifactError: a source is unfinished or damaged, or its statistics are of another feature space.
        WeightsError: the weights of the feature extractor are not available.
        OutputError: scores exist already, or cannot be written.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    if samples is None:
        samples = newest_samples()
        reporter.info(f"scoring the newest samples: {samples}")
    given = [path_or_images(samples, "samples"), path_or_images(ref, "ref")]
    out = optional_path(out) or (scores_path(given[0]) if isinstance(given[0], Path) else None)
    files = optional_path(weights), optional_path(tokenizer)
    resources = Resources(*files, None, resolve_device(device), reporter)
    return _score(given, config, out, resources, batch_size, overwrite, False)[0]


def score_and_resample(
    samples: Path, ref: Path, config: ScoreConfig, resources: Resources
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Scores as of :func:`score`, and how they spread; existing scores are replaced.

    The features of all samples are kept in memory.

    Returns:
        The scores; and bootstrap replicates float64 (B,) of each score that is better higher or lower, by its
        name, see :mod:`maskgit_cli.scoring.bootstrap`.

    Raises:
        As :func:`score`.
    """
    return _score([samples, ref], config, scores_path(samples), resources, 32, True, True)


def _score(
    given: Sequence[Any],
    config: ScoreConfig,
    out: Path | None,
    resources: Resources,
    batch_size: int,
    overwrite: bool,
    replicates: bool,
) -> tuple[Scores, dict[str, np.ndarray]]:
    """The scores, and their replicates if they are asked for."""
    reporter = resources.reporter
    if out is not None:
        check_output(out, SCORES)
    # Both sources are opened before the first image goes through a network.
    sources = [read_source(source, resources) for source in given]
    used = extractor_entry(sources, config)
    metrics = [METRICS[name] for name in config.metrics if _defined(METRICS[name], used)]
    keep = {entry.samples for entry in metrics}, {entry.reference for entry in metrics if entry.reference}
    for kept, needed in zip(keep, needed_features(config), strict=True):
        kept.update(["features"] if needed else [])
    if replicates:
        keep[0].add("features")
    sources = [_with_images(source, kept) for source, kept in zip(sources, keep, strict=True)]
    extracts = any(source.images is not None for source in sources)
    space, extractor, exact = common_space(sources, config, resources, extracts)
    store = None if out is None else out.with_name(f".{out.name}.features")

    def wanted() -> Record:
        return _inputs(config, space) | {"parents": parents_of(sources, batch_size)}

    def scored() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The record, and the spread of every score by its name."""
        began = time.monotonic()
        sampled, reference = (
            statistics_of(
                source, space, extractor, kept, batch_size, reporter,
                exact=exact and name == "samples",
                store=store and store / name,
            )
            for name, source, kept in zip(("samples", "reference"), sources, keep, strict=True)
        )  # fmt: skip
        record, spread = on_main(lambda: _record(sampled, reference, config, space, resources, replicates))
        # A sweep's points are the same bytes whenever and wherever they are computed.
        measured = {} if replicates else {"seconds": round(time.monotonic() - began, 3)}
        return record | measured, spread

    if out is None:
        record, spread = scored()
        return Scores(None, record), spread
    with claim_on_main(out, SCORES, wanted, overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            remove_store(store)
            record = read_scores(out)
            _show_warnings(record.get("warnings", []), reporter)
            return Scores(out, record), {}
        record, spread = scored()
        on_main(lambda: write_scores(out, record))
        remove_store(store)
    return Scores(out, record), spread


def _with_images(source: Source, keep: Collection[str]) -> Source:
    """The source without the images next to its statistics, unless a metric needs every image's features."""
    assert source.images is None or isinstance(source.content, Statistics)
    needed = {"features", "logits"} & set(keep) and getattr(source.content, "features", None) is None
    return source if needed else source._replace(images=None)


@checked
def fid_stats(
    sources: Sequence[ImagesArgument],
    out: PathArgument,
    config: ScoreConfig = ScoreConfig(),  # noqa: B008 (frozen)
    *,
    weights: PathArgument | None = None,
    tokenizer: PathArgument | None = None,
    with_features: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Collect statistics of all images of several sources, merged with those of statistics files.

    Args:
        sources: images or statistics, as in :func:`score`.
        out: the statistics file to write.
        config: settings, of which ``features``, ``protocol`` and ``res`` matter here.
        weights: of the feature extractor; None is the published ones.
        tokenizer: decodes tokens, and extracts the features of ``vqgan``; None finds it.
        with_features: keep every image's features (and logits), which PRDC needs of a reference.
        batch_size: images per forward pass.
        device: where networks run.
        overwrite: replace an existing file.
        reporter: receives progress and warnings.

    Returns:
        ``out``.

    Raises:
        As :func:`score`; also InputError for statistics without a number of images, which cannot be merged.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    if not sources:
        raise InputError("no source given; name images or statistics files")
    out, weights, tokenizer = Path(out), optional_path(weights), optional_path(tokenizer)
    check_output(out, STATISTICS)
    resources = Resources(weights, tokenizer, None, resolve_device(device), reporter)
    given = [path_or_images(images, f"sources[{i}]") for i, images in enumerate(sources)]
    opened = [read_source(source, resources) for source in given]
    opened = [source._replace(images=None) for source in opened]
    stored = [(s.path, s.content) for s in opened if isinstance(s.content, Statistics)]
    for path, content in stored:
        content.moments(path)  # statistics that cannot be merged are refused before any extraction
    space, extractor, exact = common_space(opened, config, resources)
    keep = ("spatial", "features", "logits") if with_features else ("spatial",)
    store = out.with_name(f".{out.name}.features")
    kept = with_features and all(content.features is not None for _, content in stored)

    def wanted() -> Record:
        parents = parents_of(opened, batch_size)
        identity = (space.name, space.sha256, space.protocol, space.resolution)
        return statistics_record(*identity, parents, kept)

    with claim_on_main(out, STATISTICS, wanted, overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            remove_store(store)
            return out
        found = [
            statistics_of(
                x, space, extractor, keep, batch_size, reporter,
                exact=exact, store=store / str(i),
            ).statistics
            for i, x in enumerate(opened)
        ]  # fmt: skip
        if world().main:
            merged = merge_statistics([*zip([source.path for source in opened], found, strict=True)])
            if with_features and merged.features is None:
                reporter.warn("a merged file contains no features, so the result contains none")
            write_statistics(out, merged)
        remove_store(store)
        barrier()
    return out


# --- the record -------------------------------------------------------------------------------------


def _inputs(config: ScoreConfig, space: FeatureSpace) -> dict[str, Any]:
    """What scores depend on, besides their sources."""
    features = {"space": space.name, "sha256": space.sha256, "dimension": space.dimension}
    return {
        "protocol": space.protocol,
        "resolution": space.resolution,
        "features": features,
        "settings": config.to_json(),
    }


def _record(
    samples: SourceStatistics,
    reference: SourceStatistics,
    config: ScoreConfig,
    space: FeatureSpace,
    resources: Resources,
    replicates: bool,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The object of ``scores.json``, see docs/artifacts.md, and replicates of the scores if asked for."""
    statistics = samples.statistics, reference.statistics
    try:
        scores, left_out, influences = _scores(*statistics, config, space, resources.device)
        spread = {name: replicates_of(scores[name], influence) for name, influence in influences(replicates)}
        details = details_of(*statistics, config, scores, influences(config.interval), resources.device)
    except InputError as error:
        raise InputError(f"{samples.record['name']} with {reference.record['name']}: {error}") from None
    left_out |= details.left_out
    for name, reason in left_out.items():
        title = f"{METRICS[name].title} ({name})" if name in METRICS else option(name)
        resources.reporter.info(f"{title} not computed: {reason}")
    warnings = [*score_warnings(samples, reference, config, space, scores), *details.warnings]
    _show_warnings(warnings, resources.reporter)
    sides = (samples.record, reference.record)
    record = {
        "format": SCORES_FORMAT,
        "version": SCORES_VERSION,
        "created_by": CREATED_BY,
        "n": samples.statistics.n,
        "n_ref": reference.statistics.n,
        **_inputs(config, space),
        "metrics": scores,
        **details.record,
        "left_out": left_out,
        "warnings": warnings,
        "samples": samples.record,
        "reference": reference.record,
        "sample_settings": samples.settings,
        "class_balance": {
            name: _balance(side.classes)
            for name, side in (("samples", samples), ("reference", reference))
            if side.classes
        },
        "environment": _environment(resources.device),
        "parents": [{key: side[key] for key in ("kind", "name", "sha256")} for side in sides],
    }
    return record, spread


def _balance(classes: Mapping[str, int]) -> dict[str, int]:
    """Number of classes, and of images of the smallest and the largest."""
    sizes = classes.values()
    return {"classes": len(sizes), "smallest": min(sizes), "largest": max(sizes)}


def _environment(device: torch.device) -> dict[str, str]:
    """Versions of what computes, and the device."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "pillow", "torch-fidelity"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def _show_warnings(warnings: Sequence[str], reporter: Reporter) -> None:
    for text in warnings:
        reporter.warn(str(text))


# Influences of the images on each score by its name, if they are wanted.
_Influences = Callable[[bool], Iterator[tuple[str, np.ndarray]]]


def _scores(
    samples: Statistics,
    reference: Statistics,
    config: ScoreConfig,
    space: FeatureSpace,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, str], _Influences]:
    """Scores by name, the reasons why metrics of the settings are not computed, by metric, and influences."""
    scores: dict[str, float] = {}
    left_out: dict[str, str] = {}
    computed: list[Scored] = []
    names: dict[str, str] = {}
    for name in config.metrics:
        entry = METRICS[name]
        reason = _missing_input(entry, samples, reference, space)
        if reason is not None:
            left_out[name] = reason
            continue
        try:
            scored = compute(entry, samples, reference, config, device)
        except ConfigError as error:  # too few images for this metric; the others are still useful
            left_out[name] = str(error)
            continue
        computed.append(scored)
        for score in entry.scores:
            names[score.name] = score_name(score, space, samples.n)
            scores[names[score.name]] = scored.values[score.name]

    def influences(wanted: bool) -> Iterator[tuple[str, np.ndarray]]:
        for scored in computed if wanted else ():
            yield from ((names[name], values) for name, values in scored.influences().items())

    return scores, left_out, influences


def _defined(entry: MetricEntry, extractor: ExtractorEntry) -> bool:
    return entry.spaces is None or extractor.name in entry.spaces


def _missing_input(
    entry: MetricEntry, samples: Statistics, reference: Statistics, space: FeatureSpace
) -> str | None:
    """The reason why a metric cannot be computed from these statistics; None if it can."""
    if not _defined(entry, space.entry):
        return f"it is of other features than {space.name}; use --features {' or '.join(entry.spaces or ())}"
    for name, statistics, need in (
        ("samples", samples, entry.samples),
        ("reference", reference, entry.reference),
    ):
        if need == "logits" and not space.entry.logits:
            return f"{space.name} features have no classifier logits"
        if need == "spatial" and not space.entry.spatial:
            return f"{space.name} features keep no places"
        if need == "spatial" and statistics.mu_s is None:
            return f"the statistics of the {name} contain no moments of spatial features; collect them again"
        if need in ("features", "logits") and getattr(statistics, need) is None:
            return f"the statistics of the {name} contain no {need}; collect them with --with-features"
    return None
