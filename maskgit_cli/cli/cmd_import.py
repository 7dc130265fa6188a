"""``maskgit import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options

EXAMPLES = """
maskgit import MaskGIT_ImageNet_256.pth models/v1 --tokenizer last.ckpt
maskgit import vq_ds16_c2i.pt tokenizers/llamagen
"""


@options.command("import", examples=EXAMPLES)
@options.path_argument("files", "Published weights, and their configuration.", nargs=-1, required=True)
@options.path_argument("out", "Model or tokenizer directory to write.")
@options.path(
    "--tokenizer", "Published file, configuration or directory of the tokenizer; repeatable.", multiple=True
)
@options.plain_option(
    "--heads", type=int, metavar="N", help="Number of attention heads.", unset="as published"
)
@options.weights
@options.overwrite
@options.output
def command(files: tuple[Path, ...], out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Convert published weights to a model directory.

    The architecture is inferred from the parameter names. A tokenizer alone becomes a tokenizer directory.
    No code in a file is executed.
    """
    from maskgit_cli.weights.importing import import_weights

    path = import_weights(files, out, reporter=console.reporter(quiet), **values)
    console.summary(quiet, path, {}, then=console.next_with(path))
    console.result(path, {"path": str(path)}, as_json)
