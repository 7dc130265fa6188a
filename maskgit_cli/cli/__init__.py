"""The ``maskgit`` command: a group that imports a command's module only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import rich_click as click
from click.shell_completion import CompletionItem

from maskgit_cli import __version__
from maskgit_cli.cli import ending
from maskgit_cli.cli.command import Context, Documented
from maskgit_cli.errors import MaskGITError

# The panels of `maskgit --help`, with each command's line. The lines are repeated here so that listing the
# commands imports none of them; a test compares them with the commands' own help.
PANELS = {
    "Pipeline": {
        "demo": "Run the whole pipeline on built-in images, offline, in minutes.",
        "tokenize": "Turn images into a token file.",
        "merge": "Merge parts of a token file.",
        "train": "Train a transformer on token files.",
        "sample": "Sample images from a trained model.",
        "inpaint": "Inpaint or outpaint images.",
        "decode": "Turn a token file back into images.",
        "train-vqgan": "Train a tokenizer on images.",
    },
    "Evaluate": {
        "fid": "Score samples against reference images or statistics.",
        "fid-stats": "Compute or merge reference statistics.",
        "fid-diff": "Explain the gap between two scores.",
        "sweep": "Sample and score every combination of some settings.",
        "compare": "Compare samples from several models side by side.",
    },
    "Models": {
        "pull": "Download a published model.",
        "import": "Convert published weights to a model directory.",
        "export": "Export a run's weights as a model directory.",
    },
    "Inspect": {
        "doctor": "Diagnose a token file before a training.",
        "info": "Show metadata and provenance of an artifact.",
        "bench": "Benchmark the throughput of each stage (random weights).",
    },
}
COMMANDS = {name: line for panel in PANELS.values() for name, line in panel.items()}

EXAMPLES = """
maskgit demo
maskgit tokenize imagenet/ tokens.h5
maskgit train tokens.h5
maskgit sample --n 16 --cfg 3
"""


class LazyGroup(Documented, click.RichGroup):
    """A group whose commands live in modules ``cmd_NAME``, imported when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the panels."""
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
            hint = f"Did you mean {near[0]!r}?" if near else f"Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without importing the commands, or an option."""
        commands = [CompletionItem(n, help=line) for n, line in COMMANDS.items() if n.startswith(incomplete)]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_options(self, ctx: click.Context, formatter: Any) -> None:
        """List options and commands in panels, without importing the commands."""
        listed = click.RichGroup(name=self.name, params=self.params)
        for name, line in COMMANDS.items():
            listed.add_command(click.RichCommand(name=name, help=line))
        listed.panels = [click.RichCommandPanel(title, list(names)) for title, names in PANELS.items()]
        names = ctx.help_option_names
        listed.format_options(Context(listed, info_name=ctx.info_name, help_option_names=names), formatter)


def _install_completion(_ctx: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
    """Write the completion script of a shell, and exit."""
    if shell is None:
        return
    from maskgit_cli.cli.completion import install

    path, lines = install(group, shell)
    for line in lines:
        click.echo(line, err=True)
    click.echo(path)
    _ctx.exit()


def _show_completion(_ctx: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
    """Print the completion script of a shell, and exit."""
    if shell is None:
        return
    from maskgit_cli.cli.completion import script

    click.echo(script(group, shell), nl=False)
    _ctx.exit()


def _completion(flag: str, callback: Any, text: str) -> Any:
    """An option that takes the name of a shell, or none for the user's own."""
    kind = click.Choice(["auto", "bash", "zsh", "fish"])
    shell = "[bash|zsh|fish]"
    return click.option(
        flag, type=kind, is_flag=False, flag_value="auto", metavar=shell, is_eager=True, expose_value=False,
        callback=callback, help=text,
    )  # fmt: skip


@click.group(
    cls=LazyGroup,
    examples=EXAMPLES,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--procs", type=int, metavar="N", help="Number of local processes (one per GPU).")
@click.option(
    "--nccl-timeout",
    type=float,
    metavar="MINUTES",
    help="Minutes that a process waits for the others, over NCCL or gloo. [default: 10 on GPUs, 30 on CPUs]",
)
@_completion("--install-completion", _install_completion, "Install completion for your shell.")
@_completion("--show-completion", _show_completion, "Print the completion script.")
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context, procs: int | None, nccl_timeout: float | None) -> None:
    """A file-based pipeline for masked generative image models.

    \b
    images/ --tokenize--> tokens.h5 --train--> runs/NAME/
    runs/NAME/ --sample, inpaint--> samples/ --fid--> scores.json
    """
    if ctx.invoked_subcommand is None:
        if procs is not None or nccl_timeout is not None:
            raise click.UsageError("Missing command.", ctx)
        _show_overview()
        return
    if procs is not None or nccl_timeout is not None:
        from maskgit_cli.cli.launch import check_procs, check_timeout

        check_procs(1 if procs is None else procs)
        check_timeout(1.0 if nccl_timeout is None else nccl_timeout)
    if "WORLD_SIZE" in os.environ:
        from maskgit_cli.cli.launch import end_with_launcher

        end_with_launcher()


def _show_overview() -> None:
    """Print what is in the working directory, and the likely next command."""
    from maskgit_cli.cli import console
    from maskgit_cli.reports.overview import lines_of, overview

    for line in lines_of(overview()):
        console.echo(line)


def main(args: list[str] | None = None, **extra: Any) -> NoReturn:
    """Run the command line; exit status 0 success, 1 error, 2 usage error, 130 interrupted."""
    arguments = sys.argv[1:] if args is None else args
    ending.handle_signals()
    try:
        group.main(arguments, prog_name="maskgit", standalone_mode=False, obj=arguments, **extra)
    except click.ClickException as error:
        ending.fail_usage(error)
    except (click.Abort, KeyboardInterrupt):
        ending.fail("interrupted; run the same command again to resume", ending.INTERRUPTED)
    except BrokenPipeError:
        ending.leave_quietly()
    except MaskGITError as error:
        if "--debug" in arguments:
            raise
        ending.fail(str(error))
    except Exception as error:
        if "--debug" in arguments:
            raise
        ending.fail_unexpectedly(error)
    sys.exit(0)
