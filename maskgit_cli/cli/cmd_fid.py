"""``maskgit fid``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import ScoreConfig

EXAMPLES = """
maskgit fid --ref imagenet/val
maskgit fid samples/mine --ref imagenet-256.npz --metrics fid,is
maskgit fid samples/mine --ref imagenet/val --interval --per-class --curve
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
        console.table(f"{record['n']} samples, {record['n_ref']} reference images", _rows(record))
    plot = _plot(path, record) if config.curve else None
    console.summary(quiet, path, {"warnings": len(record.get("warnings", [])) or None}, look=plot)
    console.result(path, {"path": str(path), **record}, as_json)


def _rows(record: Mapping[str, Any]) -> dict[str, str]:
    """The scores by name, with their intervals, and the limit of the curve."""
    rows = {name: f"{value:.6g}" for name, value in record["metrics"].items()}
    for name, (low, high) in record.get("intervals", {}).items():
        rows[name] += f" ({low:.6g} to {high:.6g})"
    if "fid_infinity" in record:
        rows["fid_infinity"] = f"{record['fid_infinity']:.6g}"
    return rows


def _plot(path: Path | None, record: Mapping[str, Any]) -> Path | None:
    """Write the plot of the curve next to the scores, on rank 0; None if there is no curve."""
    if path is None or "curve" not in record:
        return None
    from maskgit_cli.formats.atomic import write_bytes
    from maskgit_cli.reports.score_plots import curve_plot
    from maskgit_cli.runtime.distributed import on_main

    plot = path.with_name(f"{path.stem}-curve.png")
    on_main(lambda: write_bytes(plot, curve_plot(record)))
    return plot
