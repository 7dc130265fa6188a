"""``maskgit fid``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import ScoreConfig


@click.command(
    "fid",
    epilog="\b\nExamples:\n  maskgit fid --ref imagenet/val\n"
    "  maskgit fid samples/mine --ref imagenet-256.npz --metrics fid,is",
)
@options.path_argument("samples", required=False)
@options.path("--ref", "Reference images or statistics.", required=True)
@options.path("--out", "File to write.  [default: SAMPLES/scores.json, or NAME.scores.json next to images]")
@options.settings_of(ScoreConfig)
@options.feature_space
@options.overwrite
@options.output
def command(samples: Path | None, ref: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Score samples against reference images or statistics.

    SAMPLES and --ref are each a sample directory, a folder of images, a CSV, a token file, an .npz of
    statistics (by fid-stats, ADM or pytorch-fid), or an .npz of images. Without SAMPLES, the newest sample
    directory under samples/ is scored.
    """
    config = options.given(ScoreConfig, values)
    shared = options.without(values, ScoreConfig)
    from maskgit_cli.scoring.stages import score

    reporter = console.reporter(quiet)
    path, record = score(samples, ref, config, reporter=reporter, **shared)
    if reporter.speaks and not quiet:
        scores = {name: f"{value:.6g}" for name, value in record["metrics"].items()}
        console.table(f"{record['n']} samples, {record['n_ref']} reference images", scores)
    console.result(path, {"path": str(path), **record}, as_json)
