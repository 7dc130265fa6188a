"""``maskgit info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options


def _text(value: Any) -> str:
    """A value on one line; long lists are cut, and what is inside another value stands in brackets."""
    if isinstance(value, list) and len(value) > 12:
        return f"{', '.join(map(str, value[:12]))} … ({len(value)})"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_inner(inner)}" for name, inner in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _inner(value: Any) -> str:
    return f"({_text(value)})" if isinstance(value, list | dict) else str(value)


@click.command(epilog="\b\nExample:\n  maskgit info tokens.h5\n  maskgit info runs/tokens-base-256 --json")
@options.path_argument("path")
@options.output
def command(path: Path, as_json: bool, quiet: bool) -> None:
    """Say what a file or directory is and where it came from.

    PATH is a token file, run, model, tokenizer, checkpoint or sample directory, statistics, scores,
    weights, or a folder of images.
    """
    from maskgit_cli.reports.inspecting import describe

    facts = describe(path)
    if as_json:
        console.result(path, facts, True)
        return
    parents = facts.pop("parents", [])
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {_text(value)}")
    for i, parent in enumerate(parents):
        label = "made from" if i == 0 else ""
        click.echo(f"{label:<{width}}  {parent['kind']} {parent['name']} sha256 {parent['sha256'][:16]}…")
