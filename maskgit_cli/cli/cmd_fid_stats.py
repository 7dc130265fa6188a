"""``maskgit fid-stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import ScoreConfig


@click.command(
    "fid-stats",
    epilog="\b\nExamples:\n  maskgit fid-stats imagenet/train imagenet-256.npz\n"
    "  maskgit fid-stats first-half.npz second-half.npz whole.npz",
)
@options.path_argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.path_argument("out", metavar="REF.npz")
@options.settings_of(ScoreConfig, only=("features", "protocol"))
@click.option("--with-features", is_flag=True, help="Also keep the features and logits of every image.")
@options.feature_space
@options.overwrite
@options.output
def command(sources: tuple[Path, ...], out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Collect, or merge, reference statistics.

    Each SOURCE is images, as in fid, or statistics by this command: those of two halves merge into those of
    the whole.
    """
    config = options.given(ScoreConfig, values)
    shared = options.without(values, ScoreConfig)
    from maskgit_cli.scoring.stages import fid_stats

    path = fid_stats(sources, out, config, reporter=console.reporter(quiet), **shared)
    console.result(path, {"path": str(path)}, as_json)
