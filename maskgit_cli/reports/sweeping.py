"""Stage ``sweep``: samples and scores for every combination of some settings.

It runs the stages ``sample`` and ``fid`` at every point, and adds the points, their record, and a table and
plots of the scores.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.config.arguments import PathArgument, checked, optional_path, path_list
from maskgit_cli.config.base import option, require
from maskgit_cli.config.features import EXTRACTORS
from maskgit_cli.config.metrics import LOWER, METRICS, score_of
from maskgit_cli.config.samplers import PRESETS, SamplerConfig, changed
from maskgit_cli.config.stages import SWEEP_METRICS, SampleConfig, ScoreConfig, SweepConfig
from maskgit_cli.data.classes import labels_for
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import parent, remove_directory, sha256_bytes, sha256_file, write_bytes
from maskgit_cli.formats.claim import Outcome
from maskgit_cli.formats.feature_statistics import Statistics, holds_statistics
from maskgit_cli.formats.models import builtin_model
from maskgit_cli.formats.sweeps import (
    PLOTS,
    POINTS,
    REFERENCE_FILE,
    SWEEP,
    read_replicates,
    read_sweep,
    replicates_path,
    sweep_record,
    write_replicates,
    write_sweep,
)
from maskgit_cli.networks.loading import Model, load_model
from maskgit_cli.reports.sweep_plots import best_point, plot_files
from maskgit_cli.reports.sweep_points import points_of, show_value
from maskgit_cli.runtime.distributed import claim_on_main, dtype_name, on_main, resolve_device
from maskgit_cli.runtime.progress import SILENT, Reporter, Task
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.model import choose_model, choose_sampler
from maskgit_cli.sampling.samplers.registry import step_counts
from maskgit_cli.scoring.bootstrap import contenders, interval
from maskgit_cli.scoring.features import Resources, load_extractor
from maskgit_cli.scoring.sources import read_source
from maskgit_cli.scoring.stages import fid_stats, score_and_resample


class SweepResult(NamedTuple):
    """Result of :func:`sweep`.

    Attributes:
        path: the sweep's directory.
        record: content of its ``sweep.json``.
        resumed: whether an earlier call had scored some or all of the points.
    """

    path: Path
    record: dict[str, Any]
    resumed: bool


class _ModelPoint(NamedTuple):
    """A point with the model, all settings of the sampler, and the side of its images in pixels."""

    name: str
    values: dict[str, Any]
    model: Path
    sampler: SamplerConfig
    resolution: int


class _Settings(NamedTuple):
    """Settings that all points share; ``out`` may be a draft of the directory called ``name``."""

    out: Path
    name: str
    config: SweepConfig
    scoring: ScoreConfig
    ref: Path
    inception: Path | None
    batch_size: int
    device: str
    dtype: str


@checked
def sweep(
    models: PathArgument | Sequence[PathArgument],
    swept: Mapping[str, Sequence[Any]],
    ref: PathArgument,
    out: PathArgument = Path("sweep"),
    config: SweepConfig = SweepConfig(),  # noqa: B008 (frozen)
    scoring: ScoreConfig = ScoreConfig(metrics=SWEEP_METRICS),  # noqa: B008 (frozen)
    *,
    inception: PathArgument | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> SweepResult:
    """Sample and score every combination, resuming where an interrupted call stopped.

    Works in one process or in several that a launcher started.

    Args:
        models: run, checkpoint or model directories; several are swept over, none is ``sample``'s default.
        swept: values by the name of any sampler's setting, or of ``sampler`` or ``preset``.
        ref: reference of the scores, as in :func:`~maskgit_cli.scoring.stages.score`.
        out: directory of the sweep.
        config: number and classes of the images, and the samples to keep.
        scoring: settings of the scores.
        inception: Inception's weights; None is the published file.
        batch_size: images per batch on each rank.
        device: where networks run.
        dtype: precision of the transformers' matrix products.
        overwrite: replace a complete sweep, and one with other settings.
        reporter: receives progress and messages.

    Raises:
        ConfigError: nothing is swept, a model's sampler does not take a combination, or the reference is
            statistics of another extractor.
        InputError: a model or the reference does not exist.
        ArtifactError: a model or the reference is damaged, or of another feature space.
        OutputError: the directory contains something else, or cannot be written.
    """
    models, ref, out, inception = path_list(models), Path(ref), Path(out), optional_path(inception)
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    dtype = dtype_name(dtype, resolve_device(device))  # a sweep is resumed with the precision it started with
    paths = [choose_model(path, reporter) for path in models] or [choose_model(None, reporter)]
    points, parents, labels_sha256 = _resolve_points(paths, swept, config, scoring)
    for path, name in ((ref, "--ref"), (inception, "--inception")):
        if path is not None and not path.exists():
            raise InputError(f"{name} {path}: no such folder or file")
    _check_reference(ref, scoring, inception, paths[0])
    if ref.is_file():
        parents.append(parent("reference", ref, sha256_file(ref)))
    recorded = _recorded_settings(points, config, scoring)
    recorded |= {"labels_sha256": labels_sha256, "ref": str(ref), "dtype": dtype}
    recorded["inception"] = sha256_file(inception) if inception else None
    fresh = sweep_record(recorded, _recorded_points(points), parents)
    with claim_on_main(out, SWEEP, fresh, overwrite, reporter) as claimed:
        record = on_main(lambda: read_sweep(claimed.path))
        done = on_main(lambda: sum(_is_scored(claimed.path, row) for row in record["points"]))
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            return SweepResult(out, record, True)
        name = out.resolve().name
        shared = _Settings(claimed.path, name, config, scoring, ref, inception, batch_size, device, dtype)
        statistics = _reference_statistics(shared, paths[0], points[0].resolution, reporter)
        _run_points(shared, points, record, statistics, reporter)
        record["best"] = _best_points(shared, points, record["points"])
        record["complete"] = True
        on_main(lambda: _write_result(claimed.path, record))
        on_main(claimed.finish)
    return SweepResult(out, record, done > 0)


def _run_points(
    shared: _Settings,
    points: Sequence[_ModelPoint],
    record: dict[str, Any],
    reference: Path,
    reporter: Reporter,
) -> None:
    """Sample and score the points without scores, and write the record after each."""
    # An image counts twice, once sampled and once scored.
    images = 2 * shared.config.n
    scored = on_main(lambda: [_is_scored(shared.out, row) for row in record["points"]])
    with reporter.task(
        "sweep", images * len(points), images * sum(scored), "images sampled or scored"
    ) as task:
        progress = _PointReporter(reporter, task, images)
        for number, (point, row) in enumerate(zip(points, record["points"], strict=True), start=1):
            if not scored[number - 1]:
                with progress.point(number):
                    row |= _score_point(shared, point, reference, progress)
                record["warnings"] = list(dict.fromkeys([*record["warnings"], *row.pop("warnings")]))
                on_main(lambda: write_sweep(shared.out, record))
            if shared.config.keep == "none":
                on_main(partial(_remove, shared.out / POINTS / point.name))


def _is_scored(out: Path, row: Mapping[str, Any]) -> bool:
    """Whether a point has scores and their spread, which earlier versions of this package did not have."""
    return row["metrics"] is not None and replicates_path(out, row["name"]).exists()


# --- before sampling --------------------------------------------------------------------------------


def _resolve_points(
    models: Sequence[Path], swept: Mapping[str, Sequence[Any]], config: SweepConfig, scoring: ScoreConfig
) -> tuple[list[_ModelPoint], list[dict[str, str]], str]:
    """Resolve every point, so that an invalid combination is found before sampling.

    Returns:
        The points, the records of the models, and the sha256 of the class indices of all models' samples:
        a file of labels may change between two calls.

    Raises:
        ConfigError: a sampler has no such setting or does not take a value, there are more steps than
            tokens, or guidance is swept for a model without classes.
    """
    names = dict(zip(_model_names(models), models, strict=True))
    points = points_of({**({"model": list(names)} if len(names) > 1 else {}), **swept})
    resolved: dict[str, _ModelPoint] = {}
    parents, tokenizers, labels = [], set(), []
    for name, path in names.items():
        model = load_model(path, "cpu", config.weights)
        parents.append(parent("model", model.path.resolve(), model.sha256))
        tokenizers.add(model.tokenizer_sha256)
        classes = (model.config.classes, model.class_names, config.seed)
        labels.append(labels_for(config.labels, np.arange(config.n), *classes))
        for point in points:
            if point.values.get("model", name) == name:
                sampler = _resolve_sampler(point.values, model)
                resolved[point.name] = _ModelPoint(point.name, point.values, path, sampler, model.resolution)
        del model
    if EXTRACTORS[scoring.extractor].tokenizer and len(tokenizers) > 1:
        others = [entry.name for entry in EXTRACTORS.values() if not entry.tokenizer]
        raise ConfigError(
            f"--features {scoring.extractor}: the models have different tokenizers, so their distances would "
            f"be in different feature spaces; use --features {' or '.join(others)}"
        )
    sides = sorted({point.resolution for point in resolved.values()})
    if scoring.res is None and len(sides) > 1:
        raise ConfigError(
            f"the models have different resolutions, {' and '.join(map(str, sides))} px: give --res N, to "
            "which samples and reference images are resized"
        )
    digest = sha256_bytes(np.concatenate(labels).astype("<i4").tobytes())
    return [resolved[point.name] for point in points], parents, digest


def _model_names(models: Sequence[Path]) -> list[str]:
    """Names of the models: their directories' names, or whole paths where two names are equal."""
    short = [path.resolve().name for path in models]
    found = [name if short.count(name) == 1 else str(path) for name, path in zip(short, models, strict=True)]
    if len(set(found)) < len(found):
        raise ConfigError(f"a model is given twice: {', '.join(found)}")
    return found


def _resolve_sampler(values: Mapping[str, Any], model: Model) -> SamplerConfig:
    """All settings of a point's sampler.

    Raises:
        ConfigError: it has no such setting, does not take a value, or has too many steps for the model.
    """
    changes = {key: value for key, value in values.items() if key not in ("model", "preset", "sampler")}
    if "preset" in values:
        choice: Any = changed(PRESETS[values["preset"]], changes)
    else:
        choice = changes | ({"method": values["sampler"]} if "sampler" in values else {})
    sampler = choose_sampler(choice, model, model.config.classes > 0)
    settings = sampler.to_json()
    for key, value in changes.items():
        if settings[key] != _json(value):  # a model without classes has no guidance
            raise ConfigError(f"{option(key)} {show_value(value)}: {model.path} has no classes to guide by")
    step_counts(sampler, model.config.grid**2)
    return sampler


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _recorded_points(points: Sequence[_ModelPoint]) -> list[dict[str, Any]]:
    """The points as JSON values."""
    return [
        {
            "name": point.name,
            "values": {name: _json(value) for name, value in point.values.items()},
            "sampler": point.sampler.describe(),
        }
        for point in points
    ]


def _recorded_settings(
    points: Sequence[_ModelPoint], config: SweepConfig, scoring: ScoreConfig
) -> dict[str, Any]:
    """Swept values and settings as JSON values."""
    swept: dict[str, list[Any]] = {}
    for point in points:
        for name, value in point.values.items():
            if _json(value) not in swept.setdefault(name, []):
                swept[name].append(_json(value))
    return {"swept": swept, **config.to_json(), **scoring.of_sweep()}


def _check_reference(ref: Path, scoring: ScoreConfig, inception: Path | None, model: Path) -> None:
    """Open the reference, so that one that cannot be used is refused before anything is created.

    Raises:
        ConfigError: it is statistics of another extractor, or Inception's weights would have no effect.
        As :func:`~maskgit_cli.scoring.sources.read_source`.
    """
    entry = EXTRACTORS[scoring.extractor]
    if inception is not None and entry.fid_sha256 is None:
        raise ConfigError(f"--inception {inception}: --features {entry.name} does not use it; leave it out")
    content = read_source(ref, Resources(tokenizer=model if entry.tokenizer else None)).content
    space = content.space or EXTRACTORS["inception"].space if isinstance(content, Statistics) else entry.space
    if space != entry.space:
        raise ConfigError(f"--ref {ref}: statistics of {space}, not of --features {scoring.extractor}")


def _reference_statistics(shared: _Settings, model: Path, resolution: int, reporter: Reporter) -> Path:
    """The statistics file of the reference: the reference itself, or statistics collected once.

    Photographs are resized and cropped to ``--res``, else to the resolution of the samples.

    Raises:
        As :func:`~maskgit_cli.scoring.stages.fid_stats`.
    """
    ref, scoring = shared.ref, shared.scoring
    entry = EXTRACTORS[scoring.extractor]
    tokenizer = model if entry.tokenizer else None
    stored = ref.suffix.lower() == ".npz" and holds_statistics(ref)
    found = ref if stored else shared.out / REFERENCE_FILE
    if on_main(found.exists):
        # Missing weights are an error, or are downloaded, before sampling.
        device = resolve_device(shared.device)
        load_extractor(entry.name, Resources(shared.inception, tokenizer, None, device, reporter))
        return found
    return fid_stats(
        [ref],
        found,
        replace(scoring, res=scoring.res or resolution),
        weights=shared.inception,
        tokenizer=tokenizer,
        with_features=any(METRICS[name].reference == "features" for name in scoring.metrics),
        device=shared.device,
        reporter=reporter,
    )


# --- points -----------------------------------------------------------------------------------------


def _score_point(
    shared: _Settings, point: _ModelPoint, reference: Path, reporter: Reporter
) -> dict[str, Any]:
    """Sample and score a point, or what is left of it: n, scores, their spread, seconds and warnings."""
    start = time.perf_counter()
    config, folder = shared.config, shared.out / POINTS / point.name
    format = "png" if config.keep == "images" else "tokens"
    sample(
        point.model,
        folder,
        SampleConfig(
            n=config.n,
            labels=config.labels,
            weights=config.weights,
            seed=config.seed,
            format=format,
        ),
        point.sampler,
        batch_size=shared.batch_size,
        device=shared.device,
        dtype=shared.dtype,
        reporter=reporter,
    )
    decodes = format == "tokens" or EXTRACTORS[shared.scoring.extractor].tokenizer
    tokenizer = point.model if decodes else None
    resources = Resources(shared.inception, tokenizer, None, resolve_device(shared.device), reporter)
    # An interrupted call may have written the same scores, which are replaced.
    (_, scores), replicates = score_and_resample(folder, reference, shared.scoring, resources)
    on_main(lambda: write_replicates(shared.out, point.name, replicates))
    seconds = round(time.perf_counter() - start, 3)
    kept = {key: scores[key] for key in ("n", "metrics", "left_out", "warnings")}
    spread = {name: list(interval(values)) for name, values in replicates.items()}
    return kept | {"spread": spread, "seconds": seconds}


def _remove(folder: Path) -> None:
    if folder.exists():
        remove_directory(folder)


class _PointReporter:
    """Reporter of the stages at a point: their progress is the sweep's, and a warning is shown once.

    Args:
        reporter: of the sweep.
        task: of the sweep.
        units: of the task, per point.
    """

    def __init__(self, reporter: Reporter, task: Task, units: int) -> None:
        self.reporter, self.sweep_task, self.units = reporter, task, units
        self.warned: set[str] = set()
        self.remaining = self.number = 0

    @contextmanager
    def point(self, number: int) -> Iterator[None]:
        """Report one point; in the end all its units are counted, also those of an earlier call."""
        self.number, self.remaining = number, self.units
        yield
        self.advance(self.remaining)

    def advance(self, n: int = 1, **_stats: Any) -> None:
        """Count units of the point, at most as many as it has."""
        n = min(n, self.remaining)
        self.remaining -= n
        self.sweep_task.advance(n, point=self.number)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Task]:
        """See :class:`~maskgit_cli.runtime.progress.Reporter`."""
        self.advance(done)
        yield self

    def info(self, text: str) -> None:
        """Suppress messages of the stages."""

    def warn(self, text: str) -> None:
        """Show a warning unless it was shown before."""
        if text not in self.warned:
            self.warned.add(text)
            self.reporter.warn(text)


# --- results ----------------------------------------------------------------------------------------


def _best_points(
    shared: _Settings, points: Sequence[_ModelPoint], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The best point of each score that has a direction, with the commands that reproduce it.

    None is named where several may be the best: the differences are within the spread of the samples.
    """
    by_name = {point.name: point for point in points}
    scores = dict.fromkeys(name for row in rows for name in row["spread"])
    replicates = {row["name"]: read_replicates(shared.out, row["name"]) for row in rows}
    found = []
    for name in scores:
        of_points = {point: values[name] for point, values in replicates.items() if name in values}
        best = best_point(rows, name)
        close = contenders(of_points, score_of(name).better == LOWER)
        named = close == [best["name"]]
        entry = {
            "metric": name,
            "point": best["name"] if named else None,
            "value": best["metrics"][name] if named else None,
            "within_spread": [] if named else list(dict.fromkeys([best["name"], *close])),
            "commands": reproducing_commands(shared, by_name[best["name"]]) if named else [],
        }
        found.append(entry)
    return found


def reproducing_commands(shared: _Settings, point: _ModelPoint) -> list[str]:
    """The commands that sample and score a point by themselves, with every setting given."""
    config = shared.config
    folder = Path("samples") / f"{shared.name}-{point.name}"
    model = "builtin" if point.model == builtin_model() else str(point.model)
    sampling = ["maskgit", "sample", model, "--out", str(folder), "--n", str(config.n)]
    sampling += ["--labels", str(config.labels), "--seed", str(config.seed), "--weights", config.weights]
    sampling += ["--dtype", shared.dtype, "--sampler", point.sampler.method]
    for name, value in point.sampler.to_json().items():
        if isinstance(value, bool):
            sampling.append(option(name) if value else f"--no-{option(name)[2:]}")
        else:
            sampling += [option(name), show_value(value)]
    scoring = ["maskgit", "fid", str(folder), "--ref", str(shared.ref)]
    for name, value in shared.scoring.of_sweep().items():
        if value is None:
            continue
        scoring += [option(name), ",".join(value) if isinstance(value, list) else str(value)]
    if EXTRACTORS[shared.scoring.extractor].tokenizer:
        scoring += ["--tokenizer", model]
    if shared.inception is not None:
        scoring += ["--weights", str(shared.inception)]
    return [shlex.join(sampling), shlex.join(scoring)]


def _write_result(out: Path, record: Mapping[str, Any]) -> None:
    unnamed = [best["metric"] for best in record["best"] if best["point"] is None]
    for name, data in plot_files(record["points"], unnamed).items():
        write_bytes(out / PLOTS / f"{name}.png", data)
    write_sweep(out, record)
