"""``maskgit decode``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options


@options.command("decode", examples="maskgit decode tokens.h5 reconstructions/ --views all", parallel=True)
@options.path_argument("tokens", "Token file.", metavar="TOKENS.h5")
@options.path_argument("out", "Folder to create, with a PNG for each image.")
@options.path("--tokenizer", "Tokenizer, run or model directory.", unset="the one that TOKENS names")
@options.plain_option(
    "--views", type=click.Choice(["first", "all"]), default="first", help="First view of each image, or all."
)
@options.batch_size(32)
@options.device
@options.overwrite
@options.output
def command(tokens: Path, out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Turn a token file back into images.

    Images keep their class and name, OUT/CLASS/NAME.png, so that compare pairs them with the originals.
    Samples are numbered. OUT/files.csv lists all of them.

    Run the same command again to resume an interrupted one.
    """
    from maskgit_cli.data.decoding import decode

    done = decode(tokens, out, reporter=console.reporter(quiet), **values)
    record = {"path": str(done.path), "images": done.images, "resumed": done.resumed}
    then = f"maskgit compare ORIGINALS {console.quoted(done.path)}"
    console.summary(quiet, done.path, {"images": done.images}, resumed=done.resumed, then=then)
    console.result(done.path, record, as_json)
