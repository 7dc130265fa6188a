"""``maskgit tokenize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import TokenizeConfig


@click.command(
    "tokenize",
    epilog="\b\nExamples:\n  maskgit tokenize imagenet/ tokens.h5\n"
    "  maskgit tokenize photos.csv tokens.h5 --res 256 --views ten-crop",
)
@options.path_argument("images")
@options.path_argument("tokens", metavar="TOKENS.h5")
@options.path("--tokenizer", "Tokenizer, run or model directory.  [default: the built-in tokenizer]")
@options.settings_of(TokenizeConfig)
@options.batch_size(32)
@options.workers(4)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(
    images: Path, tokens: Path, tokenizer: Path | None, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Turn images into a token file.

    IMAGES is a folder with a folder for each class, a folder of images, a copy of ImageNet as Kaggle has
    it, or a CSV with lines of path,label. Run the same command again to go on after an interruption.
    """
    config = options.given(TokenizeConfig, values)
    shared = options.without(values, TokenizeConfig)
    from maskgit_cli.data.tokenizing import tokenize

    done = tokenize(images, tokens, tokenizer, config, reporter=console.reporter(quiet), **shared)
    record = {"path": str(done.path), "images": done.images, "skipped": dict(done.skipped)}
    console.result(done.path, {**record, "resumed": done.resumed}, as_json)
