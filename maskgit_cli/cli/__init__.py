"""The ``maskgit`` command: a group that imports a command's module only when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import click

from maskgit_cli import __version__
from maskgit_cli.errors import MaskGITError

# Name, and the line that `maskgit --help` shows, in the order of the pipeline. The line stands here so
# that listing the commands imports none of them; a test holds it to the command's own help.
COMMANDS = {
    "demo": "Run the whole pipeline on built-in pictures, offline, in minutes.",
    "tokenize": "Turn images into a token file.",
    "train": "Train a transformer on a token file.",
    "sample": "Draw images from a run or model.",
    "inpaint": "Draw parts of an image anew, or more of it.",
    "fid": "Score samples against reference images or statistics.",
    "fid-stats": "Collect, or merge, reference statistics.",
    "sweep": "Draw and score samples with every combination of some settings.",
    "compare": "Set several sets of samples side by side, the same class and number in each column.",
    "train-vqgan": "Train a tokenizer on images.",
    "decode": "Turn a token file back into images.",
    "import": "Turn published weights into a model directory.",
    "pull": "Fetch a published model as a model directory.",
    "export": "Write a run's weights as a model directory to share.",
    "bench": "Measure images a second of each stage's networks, with random weights.",
    "info": "Say what a file or directory is and where it came from.",
}

EXAMPLE = """\b
Example:
  maskgit demo
  maskgit tokenize imagenet/ tokens.h5
  maskgit train tokens.h5
  maskgit sample --n 16 --cfg 3
"""


class LazyGroup(click.Group):
    """A group whose commands live in modules ``cmd_NAME``, imported when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"maskgit_cli.cli.cmd_{cmd_name.replace('-', '_')}")
        return module.command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the nearest name there is."""
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.option("--procs", type=int, metavar="N", help="Run the stage in N processes (one a GPU) here.")
@click.pass_context
def group(ctx: click.Context, procs: int | None) -> None:
    """Masked generative image models, as stages joined by files.

    images --tokenize--> tokens.h5 --train--> runs/NAME/ --sample, inpaint--> samples/ --fid--> scores.json
    """
    if procs is not None and "WORLD_SIZE" not in os.environ:
        from maskgit_cli.cli.launch import start_processes

        sys.exit(start_processes(procs, ctx.obj))
    if "WORLD_SIZE" in os.environ:
        from maskgit_cli.cli.launch import end_with_launcher

        end_with_launcher()


# What fails in one of several processes mostly fails in all; the first says so, and its launcher ends the
# others before they have waited this many seconds.
OTHERS_WAIT = 3.0
INTERRUPTED = 130


# What asks a process to end: `kill`, a batch system, a closed terminal. They do what Ctrl-C does.
ENDING = (signal.SIGTERM, signal.SIGHUP)


def _end_as_ctrl_c_does() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # unless, by nohup, it is to be ignored
            signal.signal(number, signal.default_int_handler)


def _fail(message: str, status: int) -> NoReturn:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *ENDING):  # it is ending already
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, signal.SIG_DFL)
    if os.environ.get("RANK", "0") != "0":
        if status == INTERRUPTED:  # all were; one says so
            sys.exit(status)
        time.sleep(OTHERS_WAIT)
    with contextlib.suppress(BrokenPipeError):  # of `2>&1 | tee`, which Ctrl-C has ended too
        click.echo(f"maskgit: {message}", err=True)
    sys.exit(status)


# What the system refuses anywhere at all; where files are written, the library says more.
REFUSALS = {
    errno.EACCES: "no permission for it; change that, or name another place",
    errno.EPERM: "no permission for it; change that, or name another place",
    errno.ENOSPC: "the disk is full",
    errno.ENAMETOOLONG: "the name is too long",
}


def _unforeseen(error: Exception) -> str:
    """One line about an error that no part of the library has put into words of its own."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return f"{error.filename or 'standard output'}: {REFUSALS[error.errno]}"
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} (run it again with --debug for the whole story)"


def main(args: list[str] | None = None, **extra: Any) -> NoReturn:
    """Run the command line; ends the process with 0, 1 (it failed), 2 (wrong words) or 130 (interrupted)."""
    words = sys.argv[1:] if args is None else args
    _end_as_ctrl_c_does()
    try:
        group.main(words, prog_name="maskgit", standalone_mode=False, obj=words, **extra)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; run the same command again to go on", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, say) has left: nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MaskGITError as error:
        if "--debug" in words:
            raise
        _fail(" ".join(str(error).split()), 1)
    except Exception as error:
        if "--debug" in words:
            raise
        _fail(_unforeseen(error), 1)
    sys.exit(0)
