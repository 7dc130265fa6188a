"""``maskgit compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import CompareConfig


@click.command(
    "compare",
    epilog="\b\nExamples:\n  maskgit compare samples/cfg0 samples/cfg3 samples/cfg9 --out guidance.png\n"
    "  maskgit compare mine/ theirs/ --name ours --name theirs --classes goldfish,otter --per-class 4",
)
@options.path_argument("sources", nargs=-1, required=True)
@options.path("--out", "PNG to write.", default="comparison.png", show_default=True)
@click.option("--name", "names", multiple=True, metavar="TEXT", help="What a row is called; once a source.")
@options.settings_of(CompareConfig)
@options.path("--tokenizer", "Decodes tokens.  [default: the one tokens name]")
@options.device
@options.overwrite
@options.output
def command(sources: tuple[Path, ...], as_json: bool, quiet: bool, **values: Any) -> None:
    """Set several sets of samples side by side, the same class and number in each column.

    SOURCES are sample directories, or folders of images, CSVs, token files, .npz of images. Each is a row
    of the sheet. Settings in which sample directories differ are shown on stderr.
    """
    config = options.given(CompareConfig, values)
    shared = options.without(values, CompareConfig)
    from maskgit_cli.reports.comparing import compare

    reporter = console.reporter(quiet)
    done = compare(sources, config=config, reporter=reporter, **shared)
    if not quiet and done.differences:
        console.columns("settings that differ", done.names, done.differences)
    record = {"path": str(done.path), "names": done.names, "common": done.common}
    shown = [{"class": kind, "name": name} for kind, name in done.columns]
    console.result(done.path, {**record, "columns": shown, "differences": done.differences}, as_json)
