"""``maskgit pull``."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.catalogue import CATALOGUE, CatalogueEntry

HEADS = ("name", "parameters", "resolution", "FID", "size")


def row(model: CatalogueEntry) -> tuple[str, ...]:
    """What ``--list`` shows of a model, in words."""
    fid = f"{model.fid:.2f}" if model.fid is not None else "-"
    size = f"{model.bytes / 1e9:.2f} GB" if model.bytes else "-"
    return model.name, f"{model.parameters / 1e6:.1f} M", f"{model.resolution} px", fid, size


def show_list(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Print the catalogue as a table, or with ``--json`` as an object, and end."""
    if not wanted:
        return
    if "--json" in (ctx.obj or ()):
        keys = ("name", "family", "parameters", "resolution", "fid", "bytes", "listed")
        models = [{key: getattr(m, key) for key in keys} for m in CATALOGUE.values()]
        click.echo(json.dumps({"models": models}))
        ctx.exit()
    rows = [HEADS, *map(row, CATALOGUE.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
        click.echo("  ".join(cells))
    unseen = [m.name for m in CATALOGUE.values() if not m.listed]
    click.echo(
        f"{' and '.join(unseen)}: names of the authors' scheme, but not in their list of files, "
        "so there is no score, and the hub may have no file",
        err=True,
    )
    ctx.exit()


EXAMPLE = """\b
Example:
  maskgit pull --list
  maskgit pull maskgit-256
  maskgit sample models/maskgit-256 --labels goldfish --n 8
"""


@click.command(epilog=EXAMPLE)
@click.argument("name")
@options.path("--out", "Model directory.  [default: models/NAME]")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=show_list, help="Show what there is."
)
@click.option(
    "--weights",
    type=click.Choice(["ema", "raw"]),
    default="ema",
    show_default=True,
    help="Averaged weights, or those of the last step, where a file has both.",
)
@click.option("--offline", is_flag=True, help="Take what was fetched before; ask nobody.")
@options.overwrite
@options.output
def command(
    name: str, out: Path | None, weights: str, offline: bool, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Fetch a published model as a model directory.

    NAME is one of `maskgit pull --list`, or user/name for a model that somebody uploaded to the
    Hugging Face hub with `maskgit export --push`.
    """
    from maskgit_cli.weights.pulling import pull

    path = pull(
        name,
        out,
        weights=weights,
        offline=offline,
        overwrite=overwrite,
        reporter=console.reporter(quiet),
    )
    console.result(path, {"path": str(path)}, as_json)
