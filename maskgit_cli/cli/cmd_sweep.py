"""``maskgit sweep``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config.base import option
from maskgit_cli.config.samplers import PRESETS, SAMPLERS
from maskgit_cli.config.stages import SWEEP_METRICS, ScoreConfig, SweepConfig

F = TypeVar("F", bound=Callable[..., Any])

_FIELDS = sampler_options.sampler_fields()
# Help texts of the settings that can be swept.
SWEPT = {
    "sampler": f"Samplers: {', '.join(SAMPLERS)}.",
    "preset": f"Presets: {', '.join(PRESETS)}.",
    **{name: sampler_options.help_of(name) for name in _FIELDS},
}


def _swept(f: F) -> F:
    """An option that takes a list, for every setting that can be swept."""
    for name, text in reversed(SWEPT.items()):
        alias = _FIELDS[name][0].metadata["alias"] if name in _FIELDS else None
        flags = [option(name), *([alias] if alias else [])]
        f = click.option(*flags, f"swept_{name}", metavar="LIST", help=text, panel="Swept settings")(f)
    return f


def _values(values: dict[str, Any]) -> dict[str, list[Any]]:
    """Remove the swept settings from a command's values, and parse them; raises ConfigError."""
    from maskgit_cli.reports.sweep_points import parse_values

    given = {name: values.pop(f"swept_{name}") for name in SWEPT}
    return {name: parse_values(name, text) for name, text in given.items() if text is not None}


def _show(record: Mapping[str, Any]) -> None:
    """Show the scores of all points, the best of each score, and the commands that reproduce the first."""
    metrics = list(dict.fromkeys(name for point in record["points"] for name in point["metrics"]))
    rows = {point["name"]: [point["metrics"].get(name) for name in metrics] for point in record["points"]}
    console.columns(f"{record['settings']['n']} samples per point", metrics, rows)
    for best in record["best"]:
        click.echo(f"best {best['metric']}: {best['value']:.6g} with {best['point']}", err=True)
    for command in record["best"][0]["commands"] if record["best"] else ():
        click.echo(f"  {command}", err=True)


@click.command(
    "sweep",
    epilog="\b\nExamples:\n  maskgit sweep runs/imagenet --steps 4,8,12 --cfg 0:6:1 --ref imagenet-val.npz\n"
    "  maskgit sweep builtin --schedule arccos,cosine --gumbel 0:9:3 --ref images/ --features vqgan\n"
    "  maskgit sweep runs/a/checkpoints/step-00010000 runs/a/checkpoints/step-00020000 --cfg 3 --ref val/",
)
@options.path_argument("models", nargs=-1)
@options.path("--ref", "Reference images or statistics, as in fid.", required=True)
@options.path("--out", "Directory of the sweep.", default="sweep", show_default=True)
@_swept
@options.settings_of(SweepConfig)
@options.settings_of(ScoreConfig, defaults={"metrics": SWEEP_METRICS})
@options.path("--inception", "Inception weights.  [default: the published ones, downloaded once]")
@options.batch_size(64)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(models: tuple[Path, ...], ref: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Sample and score every combination of some settings.

    MODELS are runs, checkpoints (runs/NAME/checkpoints/step-N) or model directories; several are also swept
    over. A LIST contains values and ranges START:STOP:STEP, comma-separated: 4,8,12 or 0:6:1. Scores are
    written to OUT/sweep.csv and OUT/sweep.json, plots to OUT/plots. Run the same command again to resume.
    """
    config, scoring = options.given(SweepConfig, values), options.given(ScoreConfig, values)
    swept = _values(values)
    shared = options.without(values, SweepConfig, ScoreConfig)
    from maskgit_cli.reports.sweeping import sweep

    reporter = console.reporter(quiet)
    result = sweep(models, swept, ref, config=config, scoring=scoring, reporter=reporter, **shared)
    if reporter.speaks and not quiet:
        _show(result.record)
    record = {"path": str(result.path), "resumed": result.resumed, **result.record}
    console.result(result.path, record, as_json)
