"""``maskgit bench``."""

from __future__ import annotations

from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.stages import BenchConfig


@click.command(epilog="\b\nExample:\n  maskgit bench --size tiny --tokenizer small --res 64")
@options.settings_of(BenchConfig)
@options.device
@options.dtype
@options.output
def command(device: str, dtype: str, as_json: bool, quiet: bool, **values: Any) -> None:
    """Measure images a second of each stage's networks, with random weights.

    Beside them stands how near a stage comes to what a large matrix product reaches on this machine.
    """
    config = options.given(BenchConfig, values)
    from maskgit_cli.reports.benching import bench

    record = bench(config, device=device, dtype=dtype, reporter=console.reporter(quiet))
    if as_json:
        console.result(None, record, True)
        return
    machine = dict(record["machine"])
    limit = machine.pop("limit_tflops")
    click.echo(", ".join(f"{key} {value}" for key, value in machine.items()))
    click.echo(f"limit: a large matrix product reaches {limit:.4g} TFLOP/s")
    for stage, row in record["stages"].items():
        rate, flops, share = row["images_per_second"], row["tflops"], 100 * row["of_limit"]
        click.echo(f"{stage:<10} {rate:>10.3f} images/s  {flops:>8.3f} TFLOP/s  {share:>5.1f}% of limit")
