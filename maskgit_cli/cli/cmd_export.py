"""``maskgit export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options

EXAMPLES = """
maskgit export runs/tokens-base-256 models/mine --half
maskgit export runs/tokens-base-256 models/mine --steps 12 --cfg 2
maskgit export models/mine shared/mine --push user/mine --license mit
maskgit export models/mine v1/mine --to v1
"""


@options.command("export", examples=EXAMPLES)
@options.path_argument("run", "Run, model or tokenizer directory.")
@options.path_argument("out", "Directory to write, of the same kind.")
@options.weights
@click.option("--half", is_flag=True, help="Store float16, half the size.")
@options.plain_option(
    "--to",
    type=click.Choice(["native", "v1"]),
    default="native",
    help="File format: native, or that of the paper's release (v1).",
)
@sampler_options.sampler
@click.option("--push", metavar="USER/NAME", help="Upload OUT to this repository of the Hugging Face hub.")
@click.option("--license", metavar="TEXT", help="License of the weights for the model card, such as mit.")
@options.overwrite
@options.output
def command(run: Path, out: Path, preset: str | None, as_json: bool, quiet: bool, **values: Any) -> None:
    """Export a run's weights as a model directory.

    Sampler options are stored as OUT's default sampling settings.
    """
    sampler = sampler_options.chosen(preset, values)
    from maskgit_cli.weights.exporting import export

    path = export(run, out, sampler=sampler, reporter=console.reporter(quiet), **values)
    console.summary(quiet, path, {}, then=console.next_with(path))
    console.result(path, {"path": str(path)}, as_json)
