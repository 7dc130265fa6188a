"""``maskgit tokenize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import TokenizeConfig

EXAMPLES = """
maskgit tokenize imagenet/ tokens.h5
maskgit tokenize photos.csv tokens.h5 --res 256 --views ten-crop
maskgit tokenize shards/ tokens.h5
"""


@options.command("tokenize", examples=EXAMPLES, parallel=True)
@options.path_argument(
    "images", "Folder (ImageFolder, flat, or Kaggle's ImageNet), .zip, .tar shards, or CSV."
)
@options.path_argument("tokens", "Token file to write.", metavar="TOKENS.h5")
@options.path("--tokenizer", "Tokenizer, run or model directory.", unset="the paper's, downloaded if needed")
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

    Run the same command again to resume an interrupted one.
    """
    config = options.given(TokenizeConfig, values)
    shared = options.without(values, TokenizeConfig)
    from maskgit_cli.data.tokenizing import tokenize
    from maskgit_cli.runtime.distributed import on_main
    from maskgit_cli.weights.default_tokenizer import default_tokenizer

    reporter = console.reporter(quiet)
    tokenizer = tokenizer or on_main(lambda: default_tokenizer(console.confirm, reporter))
    done = tokenize(images, tokens, tokenizer, config, reporter=reporter, **shared)
    record = {"path": str(done.path), "images": done.images, "skipped": dict(done.skipped)}
    console.result(done.path, {**record, "resumed": done.resumed}, as_json)
