"""``maskgit sweep``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config.base import option
from maskgit_cli.config.samplers import PRESETS, SAMPLERS
from maskgit_cli.config.stages import SWEEP_METRICS, ScoreConfig, SweepConfig

F = TypeVar("F", bound=Callable[..., Any])
EXAMPLES = """
maskgit sweep runs/imagenet --steps 4,8,12 --cfg 0:6:1 --ref imagenet-val.npz
maskgit sweep builtin --schedule arccos,cosine --gumbel 0:9:3 --ref images/
maskgit sweep runs/a runs/b --cfg 3 --ref imagenet/val
"""

PANEL = "Swept settings"
# Settings of the scores that apply to every point.
SCORING = [name for name in options.fields_of(ScoreConfig) if name not in ScoreConfig.details]
# Names of points in a line.
MOST_LISTED = 4
# What can be swept: the help text and the values to complete, by name.
SWEPT: dict[str, tuple[str, Iterable[str]]] = {
    "sampler": (f"Samplers: {', '.join(SAMPLERS)}.", SAMPLERS),
    "preset": (f"Presets: {', '.join(PRESETS)}.", PRESETS),
    **{
        name: (options.text_of(field.metadata, "LIST"), options.choices_of(field.metadata))
        for name, (field, _) in sampler_options.sampler_fields().items()
    },
}
_ALIASES = {
    name: field.metadata["alias"]
    for name, (field, _) in sampler_options.sampler_fields().items()
    if field.metadata.get("alias")
}


def _swept(f: F) -> F:
    """An option that takes a list for everything that can be swept."""
    for name, (text, choices) in reversed(SWEPT.items()):
        flags = [option(name), *filter(None, [_ALIASES.get(name)]), f"swept_{name}"]
        complete = functools.partial(_complete, choices)
        f = click.option(*flags, metavar="LIST", help=text, panel=PANEL, shell_complete=complete)(f)
    return f


def _complete(choices: Iterable[str], _ctx: click.Context, _param: click.Parameter, incomplete: str) -> Any:
    return options.matching_last(choices, incomplete)


def _values(values: dict[str, Any]) -> dict[str, list[Any]]:
    """Take what is swept out of a command's values; raises ConfigError for an invalid list."""
    from maskgit_cli.reports.sweep_points import parse_values

    given = {name: values.pop(f"swept_{name}") for name in SWEPT}
    return {name: parse_values(name, text) for name, text in given.items() if text is not None}


def _show(record: Mapping[str, Any]) -> None:
    """Print the scores of all points, the best of each metric, and the commands that reproduce the first."""
    metrics = list(dict.fromkeys(name for point in record["points"] for name in point["metrics"]))
    rows = {point["name"]: [point["metrics"].get(name) for name in metrics] for point in record["points"]}
    console.columns(f"{record['settings']['n']} samples per point", metrics, rows)
    best = record["best"]
    console.log(*map(_best_line, best))
    console.log(*(f"  {command}" for b in best[:1] for command in b["commands"]))


def _best_line(best: Mapping[str, Any]) -> str:
    """The best point of a metric, or those that may be it."""
    if best["point"] is not None:
        return f"best {best['metric']}: {best['value']:.6g} with {best['point']}"
    close = best["within_spread"]
    shown = "; ".join(close[:MOST_LISTED]) + (
        f"; {len(close) - MOST_LISTED} more" * (len(close) > MOST_LISTED)
    )
    return f"no best {best['metric']}: {len(close)} points within the spread of the samples: {shown}"


@options.command("sweep", examples=EXAMPLES, parallel=True)
@options.path_argument("models", "Run, checkpoint or model directories; several are swept too.", nargs=-1)
@options.path("--ref", "Reference images or statistics, as in fid. [required]", required=True)
@options.path("--out", "Sweep directory.", default="sweep")
@_swept
@options.settings_of(SweepConfig)
@options.settings_of(ScoreConfig, only=SCORING, defaults={"metrics": SWEEP_METRICS})
@options.path("--inception", "Inception weights.", unset="the published ones, downloaded once")
@options.batch_size(64)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(models: tuple[Path, ...], ref: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Sample and score every combination of some settings.

    A LIST holds values and ranges START:STOP:STEP, separated by commas: 4,8,12 or 0:6:1. Scores are written
    to OUT/sweep.csv and OUT/sweep.json, plots to OUT/plots. The same command resumes an interrupted sweep.
    """
    config, scoring = options.given(SweepConfig, values), options.given(ScoreConfig, values)
    swept = _values(values)
    shared = options.without(values, SweepConfig, ScoreConfig)
    from maskgit_cli.reports.sweeping import sweep

    reporter = console.reporter(quiet)
    done = sweep(models, swept, ref, config=config, scoring=scoring, reporter=reporter, **shared)
    if not quiet:
        _show(done.record)
    console.summary(
        quiet,
        done.path,
        {"points": len(done.record["points"])},
        resumed=done.resumed,
        look=done.path / "plots",
    )
    console.result(done.path, {"path": str(done.path), "resumed": done.resumed, **done.record}, as_json)
