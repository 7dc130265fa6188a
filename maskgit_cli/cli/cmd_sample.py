"""``maskgit sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config.stages import SampleConfig

EXAMPLES = """
maskgit sample --n 16 --labels cat,dog --cfg 3
maskgit sample runs/imagenet --n 50000 --range 0:25000 --format npz
"""


@options.command("sample", examples=EXAMPLES, parallel=True)
@options.path_argument("model", options.MODEL, required=False)
@options.path("--out", "Sample directory.", unset="samples/MODEL-DIGEST")
@options.settings_of(SampleConfig)
@options.part("Generate only images START to STOP-1.")
@click.option(
    "--trace", is_flag=True, help="Store every step: in tokens.h5, and as image strips and animations."
)
@options.plain_option(
    "--trace-as",
    type=click.Choice(["webp", "gif"]),
    help="Like --trace, with this format of animations.",
    unset="webp",
)
@sampler_options.sampler
@options.batch_size(64)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(
    model: Path | None,
    part: tuple[int, int | None],
    trace: bool,
    trace_as: str | None,
    preset: str | None,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Sample images from a trained model.

    Image i depends on the model, the settings, the seed and i only, so that parts of a sample directory can
    be generated on several machines. Run the same command again to resume an interrupted one.
    """
    if trace_as and values["format"] == "tokens":
        raise click.UsageError("--trace-as needs images, and --format tokens has none; use --trace")
    traced = {"start": part[0], "stop": part[1], "trace": trace_as or ("webp" if trace else None)}
    config = options.given(SampleConfig, values | traced)
    sampler = sampler_options.chosen(preset, values)
    shared = options.without(values, SampleConfig)
    from maskgit_cli.sampling.images import sample

    done = sample(model, config=config, sampler=sampler, reporter=console.reporter(quiet), **shared)
    record = {"path": str(done.path), "images": done.images, "model": str(done.model)}
    then = f"maskgit fid {console.quoted(done.path)} --ref IMAGES"
    look = done.path / "grid.png"
    console.summary(quiet, done.path, {"images": done.images}, resumed=done.resumed, look=look, then=then)
    console.result(done.path, {**record, "resumed": done.resumed, "settings": done.settings}, as_json)
