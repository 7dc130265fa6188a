"""``maskgit merge``."""

from __future__ import annotations

from pathlib import Path

from maskgit_cli.cli import console, options

EXAMPLES = """
maskgit merge part-0.h5 part-1.h5 part-2.h5 tokens.h5
"""


@options.command("merge", examples=EXAMPLES)
@options.path_argument(
    "parts",
    "Token files of `maskgit tokenize --range`, in any order.",
    nargs=-1,
    required=True,
    metavar="PART...",
)
@options.path_argument("tokens", "Token file to write.", metavar="TOKENS.h5")
@options.overwrite
@options.output
def command(parts: tuple[Path, ...], tokens: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Merge parts of a token file.

    The result is the same, byte for byte, as that of `maskgit tokenize` without --range. Run the same
    command again to resume an interrupted one.
    """
    from maskgit_cli.data.merging import merge

    done = merge(parts, tokens, overwrite=overwrite, reporter=console.reporter(quiet))
    record = {"path": str(done.path), "images": done.images, "skipped": dict(done.skipped)}
    then = f"maskgit train {console.quoted(done.path)}"
    console.summary(quiet, done.path, {"images": done.images}, resumed=done.resumed, then=then)
    console.result(done.path, {**record, "resumed": done.resumed}, as_json)
