"""``maskgit train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import TrainConfig

EXAMPLE = """\b
Example:
  maskgit train tokens.h5 --size base --res 256
  maskgit train tokens512.h5 --init-from maskgit-256
  maskgit --procs 8 train tokens.h5
"""


@click.command(epilog=EXAMPLE)
@options.path_argument("tokens", metavar="TOKENS.h5")
@options.path("--out", "Run directory.  [default: runs/TOKENS-SIZE-RES]")
@click.option("--res", type=int, metavar="N", help="Resolution that TOKENS must have.  [default: its own]")
@options.path("--val", "Token file whose loss is measured at every checkpoint.")
@options.path("--tokenizer", "Tokenizer the codes came from, where it isn't found by itself.")
@options.path("--init-from", "Model whose weights to start from: a directory, or a name under models/.")
@options.settings_of(TrainConfig)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(tokens: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Train a transformer on a token file.

    Makes a run directory from TOKENS, which `maskgit tokenize` wrote; the defaults are the paper's
    recipe. Run the same command again to go on after an interruption.
    """
    config = options.given(TrainConfig, values)
    from maskgit_cli.training.transformer import train

    names = ("out", "res", "val", "tokenizer", "init_from", "device", "dtype", "overwrite")
    path = train(tokens, config=config, reporter=console.reporter(quiet), **{k: values[k] for k in names})
    console.result(path, {"path": str(path)}, as_json)
