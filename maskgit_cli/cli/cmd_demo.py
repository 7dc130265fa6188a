"""``maskgit demo``."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.errors import OutputError

# Short enough for two CPU cores; see docs/builtin.md for what made the built-in model.
TRAIN_STEPS = 240
RESULTS = ("samples/grid.png", "samples-of-run/grid.png", "inpainted/grid.png", "samples/scores.json")
PICTURE = "smileys/noto__slightly-smiling-face.png"


def _lines(out: Path) -> list[str]:
    """The commands of the demo, which a user could type."""
    pictures, run, half = out / "pictures", out / "run", TRAIN_STEPS // 2
    inpainted = out / "inpainted"
    # Every other command finds its result complete when the demo is run again; scores are computed anew.
    again = " --overwrite" if (out / "samples" / "scores.json").exists() else ""
    return [
        f"tokenize {pictures} {out / 'tokens.h5'}",
        f"decode {out / 'tokens.h5'} {out / 'reconstructions'}",
        f"train {out / 'tokens.h5'} --out {run} --size tiny --steps {TRAIN_STEPS} --batch-size 32 "
        f"--lr 1e-3 --warmup 50 --ema 0.99 --checkpoint-every {half} --preview-every {half}",
        f"sample {run} --out {out / 'samples-of-run'} --n 36",
        f"sample builtin --out {out / 'samples'} --n 81",
        f"inpaint {pictures / PICTURE} builtin --label smileys --box 8,8,48,24 --n 7 --out {inpainted}",
        f"fid {out / 'samples'} --ref {pictures} --features vqgan{again}",
        f"info {out / 'samples'}",
    ]


def _unpack(archive: Path, out: Path) -> None:
    """Write the built-in pictures as a folder a class."""
    from maskgit_cli.formats.atomic import disk_errors

    with disk_errors(out), zipfile.ZipFile(archive) as pictures:
        pictures.extractall(out)


def _run(line: str, quiet: bool) -> None:
    """Run one command as the shell would; what it prints on stdout goes to stderr, or with quiet nowhere."""
    from maskgit_cli.cli import group

    words = shlex.split(line)
    if quiet:
        words.append("--quiet")
    else:
        click.echo(f"\n$ maskgit {line}", err=True)
    with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stderr):
        group.main(words, prog_name="maskgit", standalone_mode=False)


@click.command(epilog="\b\nExample:\n  maskgit demo\n  maskgit demo somewhere/else")
@options.path_argument("out", default="maskgit-demo")
@options.output
def command(out: Path, as_json: bool, quiet: bool, **_: Any) -> None:
    """Run the whole pipeline on built-in pictures, offline, in minutes.

    Every stage's command is shown before it runs, so that you can repeat it on pictures of your own.
    What it makes is kept in OUT; run it again to go on after an interruption.
    """
    from maskgit_cli.formats.models import builtin_pictures

    began = time.monotonic()
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; name a folder")
    _unpack(builtin_pictures(), out / "pictures")
    lines = _lines(out)
    for line in lines:
        _run(line, quiet)
    if not quiet:
        click.echo(f"\nDone in {console.duration(time.monotonic() - began)}. Look at:", err=True)
        for name in RESULTS:
            click.echo(f"  {out / name}", err=True)
    console.result(out, {"path": str(out), "commands": [f"maskgit {line}" for line in lines]}, as_json)
