"""``maskgit demo``."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import time
import zipfile
from pathlib import Path

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.errors import OutputError

# Short enough for two CPU cores; docs/builtin.md describes the training of the built-in model.
TRAIN_STEPS = 240
RESULTS = ("samples/grid.png", "samples-of-run/grid.png", "inpainted/grid.png", "samples/scores.json")
IMAGE = "smileys/noto__slightly-smiling-face.png"


def _lines(out: Path) -> list[str]:
    """The commands of the demo, which a user could type."""
    half = TRAIN_STEPS // 2
    # When the demo runs again, every other command finds its result complete; scores are computed again.
    again = " --overwrite" if (out / "samples" / "scores.json").exists() else ""

    def at(name: str) -> str:
        return shlex.quote(str(out / name))

    return [
        f"tokenize {at('images')} {at('tokens.h5')} --tokenizer builtin",
        f"decode {at('tokens.h5')} {at('reconstructions')}",
        f"train {at('tokens.h5')} --out {at('run')} --size tiny --steps {TRAIN_STEPS} --batch-size 32 "
        f"--lr 1e-3 --warmup 50 --ema 0.99 --checkpoint-every {half} --preview-every {half}",
        f"sample {at('run')} --out {at('samples-of-run')} --n 36",
        f"sample builtin --out {at('samples')} --n 81",
        f"inpaint {at('images/' + IMAGE)} builtin --label smileys --box 8,8,48,24 --n 7 "
        f"--out {at('inpainted')}",
        f"fid {at('samples')} --ref {at('images')} --features vqgan{again}",
        f"info {at('samples')}",
    ]


def _unpack(archive: Path, out: Path) -> None:
    """Write the built-in images, one subfolder per class."""
    from maskgit_cli.formats.atomic import disk_errors

    with disk_errors(out), zipfile.ZipFile(archive) as images:
        images.extractall(out)


def _run(line: str, quiet: bool) -> None:
    """Run one command in this process; its result goes to stderr, or with quiet nowhere."""
    from maskgit_cli.cli import group

    arguments = shlex.split(line)
    if quiet:
        arguments.append("--quiet")
    else:
        click.echo(f"\n$ maskgit {line}", err=True)
    with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stderr):
        group.main(arguments, prog_name="maskgit", standalone_mode=False)


@options.command("demo", examples="maskgit demo\nmaskgit demo somewhere/else")
@options.path_argument(
    "out", "Folder for everything that the demo makes. [default: maskgit-demo]", default="maskgit-demo"
)
@options.output
def command(out: Path, as_json: bool, quiet: bool) -> None:
    """Run the whole pipeline on built-in images, offline, in minutes.

    Each command is shown before it runs, so that you can repeat it on your own images. Run the demo again
    to resume an interrupted one.
    """
    from maskgit_cli.formats.models import builtin_images

    start = time.monotonic()
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; choose a folder")
    _unpack(builtin_images(), out / "images")
    lines = _lines(out)
    for line in lines:
        _run(line, quiet)
    if not quiet:
        done = f"\ndone in {console.duration(time.monotonic() - start)}; the main results:"
        console.log(done, *(f"  {out / name}" for name in RESULTS))
    console.result(out, {"path": str(out), "commands": [f"maskgit {line}" for line in lines]}, as_json)
