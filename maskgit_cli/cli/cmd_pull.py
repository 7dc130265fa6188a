"""``maskgit pull``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.catalogue import CATALOGUE, CatalogueEntry

EXAMPLES = """
maskgit pull --list
maskgit pull maskgit-256
"""
HEADS = ("name", "parameters", "resolution", "FID", "size")


def row(model: CatalogueEntry) -> tuple[str, ...]:
    """The cells of a model in ``--list``."""
    fid = f"{model.fid:.2f}" if model.fid is not None else "-"
    size = f"{model.bytes / 1e9:.2f} GB" if model.bytes else "-"
    return model.name, f"{model.parameters / 1e6:.1f} M", f"{model.resolution} px", fid, size


def show_list(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Print the catalogue as a table, or with ``--json`` as an object, and exit."""
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
    unlisted = [m.name for m in CATALOGUE.values() if not m.listed]
    click.echo(
        f"{' and '.join(unlisted)}: names that follow the authors' scheme but are missing in their list of "
        "files; the hub may not have them",
        err=True,
    )
    ctx.exit()


def _names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    return options.matching(CATALOGUE, incomplete)


def _given(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The name; an empty one is a value that a script has lost."""
    if not value:
        raise click.BadParameter("the name is empty", ctx, param)
    return value


@options.command("pull", examples=EXAMPLES)
@click.argument(
    "name",
    callback=_given,
    shell_complete=_names,
    help="Name from --list, or USER/NAME of a model uploaded with `maskgit export --push`.",
    panel="Arguments",
)
@options.path("--out", "Model directory.", unset="models/NAME")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=show_list, help="List the models."
)
@options.weights
@click.option("--offline", is_flag=True, help="Use the local cache only; no network access.")
@options.overwrite
@options.output
def command(name: str, out: Path | None, as_json: bool, quiet: bool, **values: Any) -> None:
    """Download a published model.

    The result is a model directory that every command takes by its path or its name.
    """
    from maskgit_cli.weights.pulling import pull

    path = pull(name, out, reporter=console.reporter(quiet), **values)
    console.summary(quiet, path, {}, then=console.next_with(path))
    console.result(path, {"path": str(path)}, as_json)
