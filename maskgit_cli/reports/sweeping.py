"""Stage ``sweep``: samples drawn and scored with every combination of some settings.

It is made of the stages ``sample`` and ``fid``, so it stands above them, and adds what joins them: which
combinations there are, what is done of them, and a table and plots of the scores.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.config.base import option, require
from maskgit_cli.config.samplers import PRESETS, SamplerConfig, changed
from maskgit_cli.config.stages import SWEEP_METRICS, SampleConfig, ScoreConfig, SweepConfig
from maskgit_cli.data.classes import labels_for
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import parent, remove_directory, sha256_bytes, sha256_file, write_bytes
from maskgit_cli.formats.feature_statistics import holds_statistics, read_statistics
from maskgit_cli.formats.models import builtin_model
from maskgit_cli.formats.sweeps import PLOTS, POINTS, REFERENCE_FILE, settle_sweep, sweep_record, write_sweep
from maskgit_cli.networks.loading import Model, load_model
from maskgit_cli.reports.sweep_plots import best_point, better, plot_files
from maskgit_cli.reports.sweep_points import points_of, show_value
from maskgit_cli.runtime.distributed import barrier, dtype_name, on_main, resolve_device
from maskgit_cli.runtime.progress import SILENT, Reporter, Task
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.model import choose_model, choose_sampler
from maskgit_cli.sampling.samplers.registry import step_counts
from maskgit_cli.scoring.features import INCEPTION, inception_weights
from maskgit_cli.scoring.stages import fid_stats, score


class Swept(NamedTuple):
    """What :func:`sweep` did.

    Attributes:
        path: the sweep's directory.
        record: what its ``sweep.json`` holds.
        resumed: whether an earlier call had scored some of the points, or all.
    """

    path: Path
    record: dict[str, Any]
    resumed: bool


class _Plan(NamedTuple):
    """One point, resolved: its name, swept values, model, and all settings of the sampler."""

    name: str
    values: dict[str, Any]
    model: Path
    sampler: SamplerConfig


class _Work(NamedTuple):
    """What every point is drawn and scored with."""

    out: Path
    config: SweepConfig
    scoring: ScoreConfig
    ref: Path
    inception: Path | None
    batch_size: int
    device: str
    dtype: str
    reporter: Reporter


def sweep(
    models: Sequence[Path],
    swept: Mapping[str, Sequence[Any]],
    ref: Path,
    out: Path = Path("sweep"),
    config: SweepConfig = SweepConfig(),  # noqa: B008 (frozen)
    scoring: ScoreConfig = ScoreConfig(metrics=SWEEP_METRICS),  # noqa: B008 (frozen)
    *,
    inception: Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Swept:
    """Draw and score samples with every combination, going on where an earlier, interrupted call stopped.

    Works in one process or in several that a launcher started.

    Args:
        models: run, checkpoint or model directories; none is what ``sample`` takes, several are swept over.
        swept: values by the name of any sampler's setting, or of ``sampler`` or ``preset``.
        ref: what samples are compared with, as in :func:`~maskgit_cli.scoring.stages.score`.
        out: directory of the sweep.
        config: how many images of which classes, and what is kept of them.
        scoring: settings of the scores.
        inception: Inception's weights; None takes the published ones.
        batch_size: images at a time by each process.
        device: where networks run.
        dtype: precision of the transformers' matrix products.
        overwrite: replace a complete sweep, and one with other settings.
        reporter: told of progress.

    Raises:
        ConfigError: there is nothing to sweep, or a combination is none that a model's sampler takes.
        InputError: a model or the reference is missing.
        ArtifactError: a model or the reference is damaged, or of another feature space.
        OutputError: the directory holds something else, or cannot be written.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    dtype = dtype_name(dtype, resolve_device(device))  # a sweep goes on with what it began with
    chosen = [choose_model(path, reporter) for path in models] or [choose_model(None, reporter)]
    plans, parents, labels_sha256 = _plan(chosen, swept, config, scoring)
    for path, word in ((ref, "--ref"), (inception, "--inception")):
        if path is not None and not path.exists():
            raise InputError(f"{word} {path}: no such folder or file")
    if ref.is_file():
        parents.append(parent("reference", ref, sha256_file(ref)))
    settings = _settings(plans, config, scoring)
    settings |= {"labels_sha256": labels_sha256, "ref": str(ref), "dtype": dtype}
    settings["inception"] = sha256_file(inception) if inception else None
    fresh = sweep_record(settings, _points(plans), parents)
    record = on_main(lambda: settle_sweep(out, fresh, overwrite))
    done = sum(point["metrics"] is not None for point in record["points"])
    if record["complete"]:
        reporter.info(f"{out} is complete already; pass --overwrite to draw it anew")
        return Swept(out, record, True)
    work = _Work(out, config, scoring, ref, inception, batch_size, device, dtype, reporter)
    _run(work._replace(ref=_reference(work, chosen[0])), plans, record, done)
    _finish(work, plans, record)
    return Swept(out, record, done > 0)


# --- before anything is drawn -----------------------------------------------------------------------


def _plan(
    models: Sequence[Path], swept: Mapping[str, Sequence[Any]], config: SweepConfig, scoring: ScoreConfig
) -> tuple[list[_Plan], list[dict[str, str]], str]:
    """Resolve every point, so that a combination that cannot be is found before the first is drawn.

    Returns:
        The points, the records of the models, and the sha256 of the class numbers that are drawn with
        each model: the lines of a file of labels may change between two calls.

    Raises:
        ConfigError: a sampler has no such setting or takes no such value, there are more steps than codes,
            or guidance is swept where there is none.
    """
    names = dict(zip(_model_names(models), models, strict=True))
    points = points_of({**({"model": list(names)} if len(names) > 1 else {}), **swept})
    plans: dict[str, _Plan] = {}
    parents, tokenizers, labels = [], set(), []
    for name, path in names.items():
        model = load_model(path, "cpu", config.weights)
        parents.append(parent("model", model.path.resolve(), model.sha256))
        tokenizers.add(model.tokenizer_sha256)
        known = (model.config.classes, model.class_names, config.seed)
        labels.append(labels_for(config.labels, np.arange(config.n), *known))
        for point in points:
            if point.values.get("model", name) == name:
                sampler = _sampler(point.values, model)
                plans[point.name] = _Plan(point.name, point.values, path, sampler)
        del model
    if scoring.features != "inception" and len(tokenizers) > 1:
        raise ConfigError(
            f"--features {scoring.features}: the models have different tokenizers, so their distances "
            "would be in different spaces; use --features inception"
        )
    digest = sha256_bytes(np.concatenate(labels).astype("<i4").tobytes())
    return [plans[point.name] for point in points], parents, digest


def _model_names(models: Sequence[Path]) -> list[str]:
    """What models are called: by their own name, or all of their path where two have the same."""
    short = [path.resolve().name for path in models]
    found = [name if short.count(name) == 1 else str(path) for name, path in zip(short, models, strict=True)]
    if len(set(found)) < len(found):
        raise ConfigError(f"a model is named twice: {', '.join(found)}")
    return found


def _sampler(values: Mapping[str, Any], model: Model) -> SamplerConfig:
    """All settings of a point's sampler.

    Raises:
        ConfigError: it has no such setting, takes no such value, or has too many steps for the model.
    """
    changes = {key: value for key, value in values.items() if key not in ("model", "preset", "sampler")}
    if "preset" in values:
        choice: Any = changed(PRESETS[values["preset"]], changes)
    else:
        choice = changes | ({"method": values["sampler"]} if "sampler" in values else {})
    sampler = choose_sampler(choice, model, model.config.classes > 0)
    for key, value in changes.items():
        if getattr(sampler, key) != value:  # a model without classes is not guided
            raise ConfigError(f"{option(key)} {show_value(value)}: {model.path} has no classes to guide by")
    step_counts(sampler, model.config.grid**2)
    return sampler


def _points(plans: Sequence[_Plan]) -> list[dict[str, Any]]:
    """The points as the record holds them, JSON values throughout."""
    return [
        {
            "name": plan.name,
            "values": {k: list(v) if isinstance(v, tuple) else v for k, v in plan.values.items()},
            "sampler": plan.sampler.describe(),
        }
        for plan in plans
    ]


def _settings(plans: Sequence[_Plan], config: SweepConfig, scoring: ScoreConfig) -> dict[str, Any]:
    """What is swept, drawn and scored, as JSON values."""
    swept: dict[str, list[Any]] = {}
    for plan in plans:
        for name, value in plan.values.items():
            plain = list(value) if isinstance(value, tuple) else value
            if plain not in swept.setdefault(name, []):
                swept[name].append(plain)
    return {"swept": swept, **config.to_json(), **scoring.to_json()}


def _reference(work: _Work, model: Path) -> Path:
    """Statistics to compare every point with: the reference itself, or what is collected of it once.

    Raises:
        ConfigError: it holds statistics of another feature space than the one asked for.
        As :func:`~maskgit_cli.scoring.stages.fid_stats`.
    """
    scoring, ref = work.scoring, work.ref
    if scoring.features == "inception":
        inception_weights(work.inception, work.reporter)  # fetched, or found missing, before drawing
    if ref.suffix.lower() == ".npz" and holds_statistics(ref):
        space = read_statistics(ref).space or INCEPTION
        if (space == INCEPTION) != (scoring.features == "inception"):
            raise ConfigError(
                f"--ref {ref}: holds statistics of {space}, not of --features {scoring.features}"
            )
        return ref
    found = work.out / REFERENCE_FILE
    if not on_main(found.exists):
        fid_stats(
            [ref],
            found,
            scoring,
            weights=work.inception,
            tokenizer=None if scoring.features == "inception" else model,
            with_features="prdc" in scoring.metrics,
            device=work.device,
            reporter=work.reporter,
        )
    return found


# --- the points -------------------------------------------------------------------------------------


def _run(work: _Work, plans: Sequence[_Plan], record: dict[str, Any], done: int) -> None:
    """Draw and score every point that has no scores, and write the record after each."""
    passes = 2 * work.config.n  # each image is drawn and scored
    unit = "images drawn or scored"
    with work.reporter.task("sweep", passes * len(plans), passes * done, unit) as task:
        inner = _Inner(work.reporter, task)
        for number, (plan, point) in enumerate(zip(plans, record["points"], strict=True), start=1):
            if point["metrics"] is not None:
                _drop(work, plan)
                continue
            inner.begin(number, passes)
            point |= _point(work._replace(reporter=inner), plan)
            inner.end()
            record["warnings"] = list(dict.fromkeys([*record["warnings"], *point.pop("warnings")]))
            on_main(lambda: write_sweep(work.out, record))
            _drop(work, plan)


def _drop(work: _Work, plan: _Plan) -> None:
    """Remove the samples of a point whose scores are in the record, where none are to be kept."""
    place = work.out / POINTS / plan.name

    def remove() -> None:
        if work.config.keep == "none" and place.exists():
            remove_directory(place)

    on_main(remove)


def _point(work: _Work, plan: _Plan) -> dict[str, Any]:
    """Draw and score one point, or what is left of it: n, metrics, left_out, seconds and warnings."""
    began = time.perf_counter()
    config, place = work.config, work.out / POINTS / plan.name
    sample(
        plan.model,
        place,
        SampleConfig(
            n=config.n,
            labels=config.labels,
            weights=config.weights,
            seed=config.seed,
            format="png" if config.keep == "images" else "tokens",
        ),
        plan.sampler,
        batch_size=work.batch_size,
        device=work.device,
        dtype=work.dtype,
        reporter=work.reporter,
    )
    scores = score(
        place,
        work.ref,
        work.scoring,
        weights=work.inception,
        tokenizer=plan.model,
        device=work.device,
        overwrite=True,  # a call that was killed may have left the very same scores
        reporter=work.reporter,
    ).record
    seconds = round(time.perf_counter() - began, 3)
    return {key: scores[key] for key in ("n", "metrics", "left_out", "warnings")} | {"seconds": seconds}


class _Inner:
    """What a point's stages say: their progress is the sweep's, and a warning is said once.

    Args:
        reporter: of the sweep.
        task: of the sweep, in images drawn or scored.
    """

    def __init__(self, reporter: Reporter, task: Task) -> None:
        self.reporter, self.outer = reporter, task
        self.warned: set[str] = set()
        self.left = self.number = 0

    def begin(self, number: int, units: int) -> None:
        """Begin a point of so many units."""
        self.number, self.left = number, units

    def end(self) -> None:
        """Count what an earlier call had done of a point, or rounding has lost."""
        self.advance(self.left)

    def advance(self, n: int = 1, **_stats: Any) -> None:
        """Count units of the point, never more than it has."""
        n = min(n, self.left)
        self.left -= n
        self.outer.advance(n, point=self.number)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Task]:
        """See :class:`~maskgit_cli.runtime.progress.Reporter`."""
        self.advance(done)
        yield self

    def info(self, text: str) -> None:
        """Nothing: the sweep says what there is to say."""

    def warn(self, text: str) -> None:
        """Say a warning that was not said before."""
        if text not in self.warned:
            self.warned.add(text)
            self.reporter.warn(text)


# --- when all points are scored ---------------------------------------------------------------------


def _finish(work: _Work, plans: Sequence[_Plan], record: dict[str, Any]) -> None:
    """Name the best points, draw the plots, and say that the sweep is complete."""
    by_name = {plan.name: plan for plan in plans}
    record["best"] = []
    metrics = dict.fromkeys(name for point in record["points"] for name in point["metrics"])
    for metric in [name for name in metrics if better(name)]:
        best = best_point(record["points"], metric)
        commands = repeat_commands(work, by_name[best["name"]])
        value = best["metrics"][metric]
        record["best"].append({"metric": metric, "point": best["name"], "value": value, "commands": commands})
    record["complete"] = True

    def write() -> None:
        for name, data in plot_files(record["points"]).items():
            write_bytes(work.out / PLOTS / f"{name}.png", data)
        write_sweep(work.out, record)

    on_main(write)
    barrier()


def repeat_commands(work: _Work, plan: _Plan) -> list[str]:
    """The commands that draw and score a point again by themselves, every setting spelt out."""
    config, scoring = work.config, work.scoring
    place = Path("samples") / f"{work.out.resolve().name}-{plan.name}"
    model = "builtin" if plan.model == builtin_model() else str(plan.model)
    words = ["maskgit", "sample", model, "--out", str(place), "--n", str(config.n)]
    words += ["--labels", config.labels, "--seed", str(config.seed), "--weights", config.weights]
    words += ["--dtype", work.dtype, "--sampler", plan.sampler.method]
    for name, value in plan.sampler.to_json().items():
        if isinstance(value, bool):
            words.append(option(name) if value else f"--no-{option(name)[2:]}")
        else:
            words += [option(name), show_value(value)]
    fid = ["maskgit", "fid", str(place), "--ref", str(work.ref), "--features", scoring.features]
    fid += ["--metrics", ",".join(scoring.metrics), "--protocol", scoring.protocol]
    fid += ["--neighbors", str(scoring.neighbors), "--splits", str(scoring.splits)]
    if scoring.features != "inception":
        fid += ["--tokenizer", model]
    if work.inception is not None:
        fid += ["--weights", str(work.inception)]
    return [shlex.join(words), shlex.join(fid)]
