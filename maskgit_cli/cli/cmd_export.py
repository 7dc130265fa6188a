"""``maskgit export``."""

from __future__ import annotations

from pathlib import Path

import click

from maskgit_cli.cli import console, options


@click.command(epilog="\b\nExample:\n  maskgit export runs/tokens-base-256 models/mine --half")
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
@options.overwrite
@options.output
def command(
    run: Path, out: Path, weights: str, half: bool, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Write a run's weights as a model directory to share.

    RUN may be a model or a tokenizer directory too; OUT is then one of the same kind.
    """
    from maskgit_cli.exporting import export

    path = export(run, out, weights=weights, half=half, overwrite=overwrite)
    console.result(path, {"path": str(path)}, as_json)
