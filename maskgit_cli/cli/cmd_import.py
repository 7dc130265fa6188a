"""``maskgit import``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from maskgit_cli.cli import console, options


@click.command(
    epilog="\b\nExample:\n"
    "  maskgit import MaskGIT_ImageNet_256.pth models/v1 --tokenizer last.ckpt --tokenizer model.yaml\n"
    "  maskgit import vq_ds16_c2i.pt tokenizers/llamagen"
)
@options.path_argument("files", nargs=-1, required=True)
@options.path_argument("out")
@options.path("--tokenizer", "Its tokenizer: published file, model.yaml, or directory.", multiple=True)
@click.option("--heads", type=int, metavar="N", help="Attention heads.  [default: as published]")
@click.option(
    "--weights",
    type=click.Choice(["ema", "raw"]),
    default="ema",
    show_default=True,
    help="Averaged weights, or those of the last step, where a file has both.",
)
@options.overwrite
@options.output
def command(
    files: tuple[Path, ...],
    out: Path,
    tokenizer: tuple[Path, ...],
    heads: int | None,
    weights: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn published weights into a model directory.

    FILES are what their authors published; the network is told by its tensors' names. A tokenizer
    alone becomes a tokenizer directory. Nothing in a file is ever run.
    """
    from maskgit_cli.weights.importing import import_weights

    path = import_weights(
        files,
        out,
        tokenizer=tokenizer,
        heads=heads,
        weights=weights,
        overwrite=overwrite,
        reporter=console.reporter(quiet),
    )
    console.result(path, {"path": str(path)}, as_json)
