"""``maskgit info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskgit_cli.cli import console, options
from maskgit_cli.errors import ArtifactError, counted

EXAMPLES = """
maskgit info tokens.h5
maskgit info runs/tokens-base-256 --json
maskgit info runs/tokens-base-256 --verify
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
    """Print one fact per line, settings too, then the artifacts that this one was made from."""
    parents = facts.pop("parents", [])
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            console.echo(name)
            inner = max(map(len, value))
            for key, setting in value.items():
                console.echo(f"  {key:<{inner}}  {_text(setting)}")
        else:
            console.echo(f"{name:<{width}}  {_text(value)}")
    # The nearest first; each has those before it among the things that were made of it.
    for i, parent in enumerate(parents):
        label = "made from" if i == 0 else ""
        branch = "└─ " if i == len(parents) - 1 else "├─ "
        facts_of = f"{parent['kind']} {parent['name']} sha256 {parent['sha256'][:16]}…"
        console.echo(f"{label:<{width}}  {branch}{facts_of}")


def _verify(path: Path, as_json: bool, quiet: bool) -> None:
    """Print what is damaged, and exit with status 1 if something is."""
    from maskgit_cli.reports.verifying import verify

    found = verify(path, console.reporter(quiet))
    if as_json:
        console.result(path, {"path": str(path), **found._asdict()}, True)
    else:
        for line in found.damage:
            console.echo(line)
    if found.damage:
        count, files = counted(len(found.damage), "problem"), counted(found.files, "file")
        raise ArtifactError(f"{path} is damaged: {count} in {files}")
    if not as_json:
        console.echo(f"{path}: {counted(found.files, 'file')} verified, no damage")


@options.command("info", examples=EXAMPLES)
@options.path_argument("path", "Any artifact, weights file, or image source.")
@options.plain_option(
    "--verify",
    is_flag=True,
    help="Compare every file with its recorded digest, and list what is damaged.",
)
@options.output
def command(path: Path, verify: bool, as_json: bool, quiet: bool) -> None:
    """Show metadata and provenance of an artifact.

    Artifacts are token files, run, model, tokenizer, checkpoint and sample directories, statistics, scores.
    """
    if verify:
        _verify(path, as_json, quiet)
        return
    from maskgit_cli.reports.inspecting import describe

    facts = describe(path, console.reporter(quiet))
    if as_json:
        console.result(path, facts, True)
    else:
        _show(facts)
