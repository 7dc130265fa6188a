"""``maskgit train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maskgit_cli.cli import console, options
from maskgit_cli.config.networks import SIZES
from maskgit_cli.config.samplers import SCHEDULES
from maskgit_cli.config.stages import TrainConfig

TEXTS = {
    "size": f"Network: {', '.join(SIZES)} (base is the paper's).",
    "epochs": "Passes over the images, unless --steps is given.",
    "steps": "Optimizer steps in all.",
    "batch_size": "Images an optimizer step, over all processes.",
    "accumulate": "Micro-batches a process splits its share of a batch into, to save memory.",
    "lr": "Peak learning rate of AdamW.",
    "beta1": "Decay of AdamW's first moment.",
    "beta2": "Decay of AdamW's second moment.",
    "weight_decay": "AdamW's weight decay.",
    "warmup": "Steps of linear warm-up.",
    "lr_floor": "Learning rate at the end of a cosine decay, as a part of the peak; 1 is no decay.",
    "clip": "Largest gradient norm.",
    "dropout": "Of the network.",
    "drop_label": "Probability of hiding a label, for classifier-free guidance.",
    "label_smoothing": "Of the cross-entropy.",
    "mask_schedule": f"Distribution of the masking ratio: {', '.join(SCHEDULES)}.",
    "loss_on": "all positions (the paper), or the masked ones only (Google, Halton).",
    "ema": "Decay of the averaged weights.",
    "seed": "Of initialization, order, masks and dropout.",
    "checkpoint_every": "Steps between checkpoints.",
    "keep": "Checkpoints kept.",
    "preview_every": "Steps between preview grids; 0 draws none.",
    "log_every": "Steps between lines of metrics.jsonl.",
}
SHOWN = {
    "size": "base, or that of --init-from",
    "steps": "from --epochs",
    "batch_size": "512 up to 256 px, 128 above",
    "drop_label": "0.1; 0 where the network knows no dropped class",
}


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
@options.settings_of(TrainConfig, TEXTS, SHOWN)
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
