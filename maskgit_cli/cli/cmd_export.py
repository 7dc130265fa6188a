"""``maskgit export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options

EXAMPLE = """\b
Example:
  maskgit export runs/tokens-base-256 models/mine --half
  maskgit export runs/tokens-base-256 models/mine --steps 12 --cfg 2
  maskgit export models/mine shared/mine --push user/mine --license mit
  maskgit export models/mine v1/mine --to v1
"""


@click.command(epilog=EXAMPLE)
@options.path_argument("run")
@options.path_argument("out")
@click.option(
    "--weights",
    type=click.Choice(["ema", "raw"]),
    default="ema",
    show_default=True,
    help="Averaged weights, or those of the last step.",
)
@click.option("--half", is_flag=True, help="Store float16: half the size.")
@click.option(
    "--to",
    type=click.Choice(["native", "v1"]),
    default="native",
    show_default=True,
    help="Our own files, or those of the paper's release (v1.0).",
)
@sampler_options.sampler
@click.option("--push", metavar="USER/NAME", help="Upload OUT to this repository of the Hugging Face hub.")
@click.option("--license", metavar="TEXT", help="License of the weights, for the page there: mit ...")
@options.overwrite
@options.output
def command(run: Path, out: Path, preset: str | None, as_json: bool, quiet: bool, **values: Any) -> None:
    """Write a run's weights as a model directory to share.

    RUN may be a model or a tokenizer directory too; OUT is then one of the same kind. Settings of the sampler
    become what OUT is drawn with unless told otherwise.
    """
    sampler = sampler_options.chosen(preset, values)
    from maskgit_cli.weights.exporting import export

    path = export(run, out, sampler=sampler, reporter=console.reporter(quiet), **values)
    console.result(path, {"path": str(path)}, as_json)
