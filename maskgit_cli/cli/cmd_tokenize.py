"""``maskgit tokenize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import TokenizeConfig
from maskgit_cli.errors import counted

EXAMPLES = """
maskgit tokenize imagenet/ tokens.h5
maskgit tokenize photos.csv tokens.h5 --res 256 --views ten-crop
maskgit tokenize shards/ tokens.h5
maskgit tokenize photos/ tokens.h5 --views random:8 --val-split 0.05
maskgit tokenize imagenet/ part-3.h5 --range 300000:400000
"""


@options.command("tokenize", examples=EXAMPLES, parallel=True)
@options.path_argument(
    "images", "Folder (ImageFolder, flat, or Kaggle's ImageNet), .zip, .tar shards, or CSV."
)
@options.path_argument("tokens", "Token file to write.", metavar="TOKENS.h5")
@options.path("--tokenizer", "Tokenizer, run or model directory.", unset="the paper's, downloaded if needed")
@options.settings_of(TokenizeConfig)
@options.part("Tokenize only images START to STOP-1, for `maskgit merge`; STOP may exceed their number.")
@options.batch_size(32)
@options.workers(4)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(
    images: Path,
    tokens: Path,
    tokenizer: Path | None,
    part: tuple[int, int | None],
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Turn images into a token file.

    With --val-split there are two: TOKENS.h5, and TOKENS-val.h5 for `maskgit train --val`. Run the same
    command again to resume an interrupted one.
    """
    config = options.given(TokenizeConfig, values | {"start": part[0], "stop": part[1]})
    shared = options.without(values, TokenizeConfig)
    from maskgit_cli.data.tokenizing import Tokenized, tokenize
    from maskgit_cli.runtime.distributed import on_main
    from maskgit_cli.weights.default_tokenizer import default_tokenizer

    def record(done: Tokenized) -> dict[str, Any]:
        facts = {"path": str(done.path), "images": done.images, "skipped": dict(done.skipped)}
        return {**facts, "resumed": done.resumed}

    reporter = console.reporter(quiet)

    def default() -> Path:
        return on_main(lambda: default_tokenizer(console.confirm, reporter))

    done = tokenize(images, tokens, tokenizer, config, default_tokenizer=default, reporter=reporter, **shared)
    held_out = {"val": record(done.val)} if done.val else {}
    if done.val:
        reporter.info(f"{counted(done.val.images, 'image')} held out in {done.val.path}")
    facts = {
        "images": done.images,
        "skipped": len(done.skipped) or None,
        "tokens per image": done.meta.grid**2,
        "PSNR in dB": done.meta.psnr,
    }
    val = f" --val {console.quoted(done.val.path)}" if done.val else ""
    then = f"maskgit train {console.quoted(done.path)}{val}"
    console.summary(quiet, done.path, facts, resumed=done.resumed, then=then)
    console.result(done.path, record(done) | held_out, as_json)
