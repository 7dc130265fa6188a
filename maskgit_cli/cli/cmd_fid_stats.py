"""``maskgit fid-stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import ScoreConfig

EXAMPLES = """
maskgit fid-stats imagenet/train imagenet-256.npz --res 256
maskgit fid-stats first-half.npz second-half.npz whole.npz
"""


@options.command("fid-stats", examples=EXAMPLES, parallel=True)
@options.path_argument(
    "sources", "Images, as for fid, or statistics to merge.", nargs=-1, required=True, metavar="SOURCE..."
)
@options.path_argument("out", "Statistics file to write.", metavar="REF.npz")
@options.settings_of(ScoreConfig, only=("features", "protocol", "res"))
@click.option("--with-features", is_flag=True, help="Store each image's features, which prdc and kid need.")
@options.feature_space
@options.overwrite
@options.output
def command(sources: tuple[Path, ...], out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Compute or merge reference statistics.

    Statistics of two halves of a data set merge into those of the whole.
    """
    config = options.given(ScoreConfig, values)
    shared = options.without(values, ScoreConfig)
    from maskgit_cli.scoring.stages import fid_stats

    path = fid_stats(sources, out, config, reporter=console.reporter(quiet), **shared)
    console.summary(quiet, path, {}, then=f"maskgit fid SAMPLES --ref {console.quoted(path)}")
    console.result(path, {"path": str(path)}, as_json)
