"""``maskgit train-vqgan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maskgit_cli.cli import console, options
from maskgit_cli.config.networks import TOKENIZER_SIZES
from maskgit_cli.config.stages import VQGANTrainConfig

TEXTS = {
    "size": f"Network: {', '.join(TOKENIZER_SIZES)} (f16 is the paper's).",
    "res": "Side in pixels of the training images.",
    "codebook_size": "Number of codebook vectors.",
    "steps": "Generator steps in all.",
    "batch_size": "Images a step, over all processes.",
    "lr": "Peak learning rate of both Adam optimizers.",
    "beta1": "Decay of Adam's first moment.",
    "beta2": "Decay of Adam's second moment.",
    "warmup": "Steps of linear warm-up.",
    "lr_floor": "Learning rate at the end of the cosine decay, as a part of the peak.",
    "commitment_weight": "Weight of the commitment loss.",
    "smoothness_weight": "Weight of how much latents differ from their neighbors.",
    "perceptual_weight": "Weight of LPIPS, where its weights can be had.",
    "adversarial_weight": "Weight of the adversarial loss before the adaptive factor.",
    "adversarial_start": "Step at which the discriminator joins.",
    "discriminator_channels": "Features of the discriminator's first layer.",
    "revive_after": "Steps without use after which a code is replaced; 0 is never.",
    "flip": "Mirror half of the training images.",
    "ema": "Decay of the averaged weights, which are what is exported.",
    "seed": "Of everything random.",
    "checkpoint_every": "Steps between checkpoints.",
    "keep": "Checkpoints kept.",
    "preview_every": "Steps between preview grids; 0 draws none.",
    "log_every": "Steps between lines of metrics.jsonl.",
}
SHOWN = {"res": "the size's own", "codebook_size": "the size's own", "adversarial_start": "half of the steps"}


@click.command(
    "train-vqgan", epilog="\b\nExample:\n  maskgit train-vqgan photos/ --out tokenizers/photos --steps 20000"
)
@options.path_argument("images")
@options.path("--out", "Tokenizer directory to make.  [default: tokenizers/NAME]")
@options.path("--val", "Images on which PSNR and codebook usage are measured at every checkpoint.")
@options.settings_of(VQGANTrainConfig, TEXTS, SHOWN)
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
