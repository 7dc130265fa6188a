"""``maskgit sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config.stages import SampleConfig


def _range(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read START:STOP."""
    if text is None:
        return None
    try:
        start, stop = text.split(":")
        return int(start), int(stop)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not START:STOP, two numbers") from None


@click.command(
    "sample",
    epilog="\b\nExamples:\n  maskgit sample --n 16 --labels cat,dog --cfg 3\n"
    "  maskgit sample runs/imagenet --n 50000 --range 0:25000 --format npz",
)
@options.path_argument("model", required=False)
@options.path("--out", "Sample directory.  [default: samples/MODEL-DIGEST]")
@options.settings_of(SampleConfig)
@click.option(
    "--range", "part", callback=_range, metavar="START:STOP", help="Draw only these of the N images."
)
@click.option("--trace", is_flag=True, help="Keep every step: in tokens.h5, and as strips and animations.")
@click.option(
    "--trace-as",
    type=click.Choice(["webp", "gif"]),
    help="The same, with animations in this format.  [default: webp]",
)
@sampler_options.sampler
@options.batch_size(64)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(
    model: Path | None,
    part: tuple[int, int] | None,
    trace: bool,
    trace_as: str | None,
    preset: str | None,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Draw images from a run or model.

    MODEL is a run or model directory, or `builtin`; without it, the newest run under runs/ is taken, or
    else the built-in model. Run the same command again to go on after an interruption.
    """
    start, stop = part or (0, None)
    if trace_as and values["format"] == "tokens":
        raise click.UsageError("--trace-as needs pictures, and --format tokens makes none; take --trace")
    steps = trace_as or ("webp" if trace else None)
    config = options.given(SampleConfig, {**values, "start": start, "stop": stop, "trace": steps})
    sampler = sampler_options.chosen(preset, values)
    shared = options.without(values, SampleConfig)
    from maskgit_cli.sampling.images import sample

    done = sample(model, config=config, sampler=sampler, reporter=console.reporter(quiet), **shared)
    record = {"path": str(done.path), "images": done.images, "model": str(done.model)}
    console.result(done.path, {**record, "resumed": done.resumed, "settings": done.settings}, as_json)
