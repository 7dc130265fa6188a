"""``maskgit fid-diff``."""

from __future__ import annotations

from pathlib import Path

from maskgit_cli.cli import console, options

EXAMPLES = """
maskgit fid-diff samples/mine/scores.json samples/theirs/scores.json
maskgit fid-diff samples/cfg0 samples/cfg3 --json
"""


@options.command("fid-diff", examples=EXAMPLES)
@options.path_argument("first", "Scores, or a sample directory with scores.", metavar="A.json")
@options.path_argument("second", "Other scores.", metavar="B.json")
@options.output
def command(first: Path, second: Path, as_json: bool, quiet: bool) -> None:
    """Explain the gap between two scores.

    Lists the settings of the scores and of the samples that differ, how each acts on FID, and which of
    them can explain the gap. A setting that one file does not record is shown as - and explains nothing.
    """
    from maskgit_cli.reports.score_diff import score_diff

    done = score_diff(first, second)
    if not quiet and done.differences:
        rows = {item.key: (*item.values, item.text()) for item in done.differences}
        console.columns("settings that differ", ["A", "B", "effect on FID"], rows)
    if as_json:
        console.result(first, done.record(), True)
    else:
        for line in done.lines():
            console.echo(line)
