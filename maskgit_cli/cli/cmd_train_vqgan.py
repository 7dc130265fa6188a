"""``maskgit train-vqgan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.sizes import TOKENIZER_NOTE, tokenizer_table
from maskgit_cli.config.training import VQGANTrainConfig

EXAMPLES = """
maskgit train-vqgan photos/ --out tokenizers/photos --steps 20000
maskgit train-vqgan photos/ --init-from builtin --val held-out/
"""


@options.command(
    "train-vqgan",
    examples=EXAMPLES,
    parallel=True,
    appendix=lambda: options.sizes(tokenizer_table(), TOKENIZER_NOTE),
)
@options.path_argument("images", "Folder of images, .zip, .tar shards, or CSV of paths.")
@options.path("--out", "Tokenizer directory.", unset="tokenizers/IMAGES")
@options.path("--init-from", "Tokenizer to fine-tune: a directory, `builtin`, or a name under models/.")
@options.path("--val", "Images whose reconstructions are measured at every checkpoint.")
@options.settings_of(VQGANTrainConfig)
@options.workers(2)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(images: Path, out: Path | None, as_json: bool, quiet: bool, **values: Any) -> None:
    """Train a tokenizer on images.

    Writes a tokenizer directory. Run the same command again to resume an interrupted training, or with more
    --steps to extend it.
    """
    config = options.given(VQGANTrainConfig, values)
    shared = options.without(values, VQGANTrainConfig)
    from maskgit_cli.training.vqgan import train_vqgan

    out = out or Path("tokenizers") / images.resolve().stem
    path = train_vqgan(images, out, config, reporter=console.reporter(quiet), **shared)
    facts = console.final_metrics(path, ("step", "l1", "val_psnr", "val_ssim", "usage", "perplexity"))
    previews = sorted(path.glob("previews/*.png"))
    then = f"maskgit tokenize {console.quoted(images)} tokens.h5 --tokenizer {console.quoted(path)}"
    console.summary(quiet, path, facts, look=previews[-1] if previews else None, then=then)
    console.result(path, {"path": str(path)}, as_json)
