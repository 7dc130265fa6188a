"""``maskgit bench``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.benchmarks import BenchConfig


def _show(record: Mapping[str, Any]) -> None:
    """Print the machine, its peak throughput, and one line per stage."""
    machine = dict(record["machine"])
    peak = machine.pop("gemm_tflops")
    click.echo(", ".join(f"{key} {value}" for key, value in machine.items()))
    click.echo(f"large matrix product: {peak:.4g} TFLOP/s")
    click.echo(f"{'stage':<10} {'throughput':>19} {'compute':>17} {'MFU':>7}")
    for stage, row in record["stages"].items():
        rate, flops, mfu = row["images_per_second"], row["tflops"], 100 * row["mfu"]
        click.echo(f"{stage:<10} {rate:>10.3f} images/s {flops:>9.3f} TFLOP/s {mfu:>6.1f}%")


@options.command("bench", examples="maskgit bench --size tiny --tokenizer small --res 64")
@options.settings_of(BenchConfig)
@options.device
@options.dtype
@options.output
def command(device: str, dtype: str, as_json: bool, quiet: bool, **values: Any) -> None:
    """Benchmark the throughput of each stage (random weights).

    Also reports utilization relative to a large matrix product on the same machine (MFU).
    """
    config = options.given(BenchConfig, values)
    from maskgit_cli.reports.benching import bench

    record = bench(config, device=device, dtype=dtype, reporter=console.reporter(quiet))
    if as_json:
        console.result(None, record, True)
    else:
        _show(record)
