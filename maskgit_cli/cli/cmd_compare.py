"""``maskgit compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import CompareConfig

EXAMPLES = """
maskgit compare samples/cfg0 samples/cfg3 samples/cfg9 --out guidance.png
maskgit compare mine/ theirs/ --name A --name B --classes goldfish,otter
"""


@options.command("compare", examples=EXAMPLES)
@options.path_argument(
    "sources", "Sample directories, token files, or other image sources.", nargs=-1, required=True
)
@options.path("--out", "PNG to write.", default="comparison.png")
@options.plain_option(
    "--name",
    "names",
    multiple=True,
    metavar="TEXT",
    help="Name of a row, given once per source.",
    unset="from the paths",
)
@options.settings_of(CompareConfig)
@options.path("--tokenizer", "Tokenizer that decodes tokens.", unset="the one that the tokens name")
@options.device
@options.overwrite
@options.output
def command(sources: tuple[Path, ...], as_json: bool, quiet: bool, **values: Any) -> None:
    """Compare samples from several models side by side.

    Writes a grid with one row per source; each column shows the images of one class and number. Settings in
    which sample directories differ are printed on stderr.
    """
    config = options.given(CompareConfig, values)
    shared = options.without(values, CompareConfig)
    from maskgit_cli.reports.comparing import compare

    done = compare(sources, config=config, reporter=console.reporter(quiet), **shared)
    if not quiet and done.differences:
        console.columns("settings that differ", done.names, done.differences)
    record = {"path": str(done.path), "names": done.names, "common": done.common}
    shown = [{"class": kind, "name": name} for kind, name in done.columns]
    console.result(done.path, {**record, "columns": shown, "differences": done.differences}, as_json)
