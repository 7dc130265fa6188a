"""``maskgit doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import DoctorConfig

EXAMPLES = """
maskgit doctor tokens.h5
maskgit doctor tokens.h5 --n 1000 --out reconstructions.png --json
maskgit doctor tokens.h5 --n 1000 --perceptual st-lpips --features vqgan
"""


@options.command("doctor", examples=EXAMPLES)
@options.path_argument("tokens", "Token file.", metavar="TOKENS.h5")
@options.path("--out", "PNG to write.", unset="TOKENS-doctor.png")
@options.settings_of(DoctorConfig)
@options.path("--images", "Images that were tokenized.", unset="where they were then")
@options.path("--tokenizer", "Tokenizer that decodes the tokens.", unset="the one that they name")
@options.batch_size(32)
@options.device
@options.overwrite
@options.output
def command(tokens: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Diagnose a token file before a training.

    Reports codebook use, entropy, duplicates, class sizes and measures of the reconstructions (PSNR, SSIM,
    a perceptual distance), and writes a sheet of originals with their reconstructions below them: what a
    model that learns from these tokens can reach at best. Warnings name what promises poor samples.
    """
    config = options.given(DoctorConfig, values)
    shared = options.without(values, DoctorConfig)
    from maskgit_cli.reports.doctoring import diagnose

    done = diagnose(tokens, config=config, reporter=console.reporter(quiet), **shared)
    if not quiet:
        console.table(str(tokens), done.lines())
    console.summary(quiet, done.path, {"warnings": len(done.warnings) or None}, look=done.path)
    console.result(done.path, {"path": str(done.path), **done.record()}, as_json)
