"""``maskgit decode``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options


@click.command(
    "decode",
    epilog="\b\nExample:\n  maskgit decode tokens.h5 reconstructions/ --views all",
)
@options.path_argument("tokens", metavar="TOKENS.h5")
@options.path_argument("out")
@options.path("--tokenizer", "Tokenizer, run or model directory.  [default: the one the codes came from]")
@click.option(
    "--views", default="first", show_default=True, metavar="TEXT", help="first view of each image, or all."
)
@options.batch_size(32)
@options.device
@options.overwrite
@options.output
def command(tokens: Path, out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Turn a token file back into images.

    Writes a PNG a row into OUT, a new folder. Run the same command again to go on after an interruption.
    """
    from maskgit_cli.data.decoding import decode

    done = decode(tokens, out, reporter=console.reporter(quiet), **values)
    console.result(
        done.path, {"path": str(done.path), "images": done.images, "resumed": done.resumed}, as_json
    )
