"""``maskgit train-vqgan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import VQGANTrainConfig


@click.command(
    "train-vqgan", epilog="\b\nExample:\n  maskgit train-vqgan photos/ --out tokenizers/photos --steps 20000"
)
@options.path_argument("images")
@options.path("--out", "Tokenizer directory to make.  [default: tokenizers/NAME]")
@options.path("--val", "Images on which PSNR and codebook usage are measured at every checkpoint.")
@options.settings_of(VQGANTrainConfig)
@options.device
@options.dtype
@options.workers(2)
@options.overwrite
@options.output
def command(
    images: Path,
    out: Path | None,
    val: Path | None,
    device: str,
    dtype: str,
    workers: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Train a tokenizer on images.

    Makes a tokenizer directory from IMAGES, a folder or CSV. Run the same command again to go on after
    an interruption.
    """
    config = options.given(VQGANTrainConfig, values)
    from maskgit_cli.training.vqgan import train_vqgan

    out = out or Path("tokenizers") / images.resolve().stem
    path = train_vqgan(
        images,
        out,
        config,
        val=val,
        device=device,
        dtype=dtype,
        workers=workers,
        overwrite=overwrite,
        reporter=console.reporter(quiet),
    )
    console.result(path, {"path": str(path)}, as_json)
