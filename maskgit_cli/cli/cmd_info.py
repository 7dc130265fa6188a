"""``maskgit info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options

EXAMPLES = """
maskgit info tokens.h5
maskgit info runs/tokens-base-256 --json
"""
LONGEST_LIST = 12


def _text(value: Any) -> str:
    """A value on one line; long lists are cut, nested values are in parentheses."""
    if isinstance(value, list) and len(value) > LONGEST_LIST:
        return f"{', '.join(map(str, value[:LONGEST_LIST]))} … ({len(value)})"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_nested(inner)}" for name, inner in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _nested(value: Any) -> str:
    return f"({_text(value)})" if isinstance(value, list | dict) else str(value)


def _show(facts: dict[str, Any]) -> None:
    """Print one fact per line, then the artifacts that this one was made from."""
    parents = facts.pop("parents", [])
    width = max(map(len, facts))
    for name, value in facts.items():
        console.echo(f"{name:<{width}}  {_text(value)}")
    for i, parent in enumerate(parents):
        label = "made from" if i == 0 else ""
        console.echo(f"{label:<{width}}  {parent['kind']} {parent['name']} sha256 {parent['sha256'][:16]}…")


@options.command("info", examples=EXAMPLES)
@options.path_argument("path", "Any artifact, weights file, or folder of images.")
@options.output
def command(path: Path, as_json: bool, quiet: bool) -> None:
    """Show metadata and provenance of an artifact.

    Artifacts are token files, run, model, tokenizer, checkpoint and sample directories, statistics, scores.
    """
    from maskgit_cli.reports.inspecting import describe

    facts = describe(path)
    if as_json:
        console.result(path, facts, True)
    else:
        _show(facts)
