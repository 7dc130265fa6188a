"""``maskgit fid``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import ScoreConfig

EXAMPLES = """
maskgit fid --ref imagenet/val
maskgit fid samples/mine --ref imagenet-256.npz --metrics fid,is
"""


@options.command("fid", examples=EXAMPLES, parallel=True)
@options.path_argument(
    "samples", "Samples to score. [default: the newest directory under samples/]", required=False
)
@options.path("--ref", "Reference images or statistics. [required]", required=True)
@options.path("--out", "File to write.", unset="scores.json in a sample directory, else next to SAMPLES")
@options.settings_of(ScoreConfig)
@options.feature_space
@options.overwrite
@options.output
def command(samples: Path | None, ref: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Score samples against reference images or statistics.

    SAMPLES and --ref are each a sample directory, a folder of images, a .zip, .tar shards, a CSV, a token
    file, an .npz of images, or an .npz of statistics (from fid-stats, ADM or pytorch-fid).
    """
    config = options.given(ScoreConfig, values)
    shared = options.without(values, ScoreConfig)
    from maskgit_cli.scoring.stages import score

    path, record = score(samples, ref, config, reporter=console.reporter(quiet), **shared)
    if not quiet:
        scores = {name: f"{value:.6g}" for name, value in record["metrics"].items()}
        console.table(f"{record['n']} samples, {record['n_ref']} reference images", scores)
    console.summary(quiet, path, {"warnings": len(record.get("warnings", [])) or None})
    console.result(path, {"path": str(path), **record}, as_json)
