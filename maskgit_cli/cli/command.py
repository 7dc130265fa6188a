"""The click classes of the commands: help in panels, examples on lines of their own, several processes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rich_click as click

# The order of the panels on a help page. Each option's panel is one of these.
PANELS = (
    "Arguments",
    "Options",
    "Model",
    "Optimizer",
    "Objective",
    "Sampler",
    "Swept settings",
    "Logging and checkpoints",
    "Device and speed",
    "Output",
)

_STYLE: dict[str, Any] = {
    "max_width": 100,
    "options_table_column_types": ["opt_all", "metavar", "help"],
    # Defaults are part of the help text: rich-click sets those in words in brackets of their own.
    "options_table_help_sections": ["help"],
    "text_paragraph_linebreaks": "\n\n",
    "padding_helptext_first_line": (0, 0, 1, 0),
    "highlighter_patterns": [r"(^|[^\w\-])(?P<option>--[^\W0-9][\w\-]*\w)", r"(?P<dim>\[default: .*\])$"],
}
# Where the output is no terminal: no boxes, no colors.
_PLAIN: dict[str, Any] = {
    "theme": "slim",
    "color_system": None,
    "options_table_column_types": ["opt_all_metavar", "help"],
}


class Context(click.RichContext):
    """A context whose help has boxes and colors on a terminal and is plain text elsewhere."""

    def make_formatter(self, error_mode: bool = False) -> click.RichHelpFormatter:
        """The formatter for help, or for a usage error."""
        plain = not (sys.stderr if error_mode else sys.stdout).isatty()
        self.help_config = click.RichHelpConfiguration(**_STYLE | (_PLAIN if plain else {}))
        return super().make_formatter(error_mode)


# Key of a context's ``meta`` with the value of --threads.
THREADS = "maskgit.threads"


@contextlib.contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """PyTorch computes with so many CPU threads in the ``with`` block; None leaves it as it is."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Documented(click.RichCommand):
    """A command whose help ends in examples.

    Args:
        examples: calls, one per line.
        appendix: function that returns further lines, which are shown before the examples as they are.
    """

    context_class = Context

    def __init__(
        self,
        *args: Any,
        examples: str = "",
        appendix: Callable[[], Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.appendix = appendix
        self.examples = [line.strip() for line in examples.strip().splitlines()]

    def get_help(self, ctx: click.Context) -> str:
        """The help page, without the spaces with which rich fills its lines."""
        return "\n".join(line.rstrip() for line in super().get_help(ctx).splitlines())

    def format_epilog(self, ctx: click.Context, formatter: Any) -> None:
        """Write appendix and examples on lines of their own, never wrapped, so that they can be copied."""
        from rich.text import Text

        lines = [*self.appendix(), ""] if self.appendix else []
        lines += ["Example:" if len(self.examples) == 1 else "Examples:", *(f"  {e}" for e in self.examples)]
        formatter.write(Text("\n".join(lines)), no_wrap=True, overflow="ignore", crop=False)


class Command(Documented):
    """A command of ``maskgit``.

    Args:
        parallel: whether it shares its work among several processes; otherwise it runs on rank 0 only.
    """

    def __init__(self, *args: Any, parallel: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parallel = parallel

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, in several processes where that was asked for; its arguments are parsed."""
        procs, timeout = (ctx.find_root().params.get(name) for name in ("procs", "nccl_timeout"))
        if self.parallel and "ACCELERATE_MIXED_PRECISION" in os.environ:
            from maskgit_cli.cli.launch import check_launcher

            check_launcher()
        if self.parallel and procs is not None and "WORLD_SIZE" not in os.environ:
            from maskgit_cli.cli.launch import start_processes

            sys.exit(start_processes(procs, ctx.find_root().obj))
        if not self.parallel and "WORLD_SIZE" in os.environ:
            from maskgit_cli.cli.launch import leave_other_processes

            leave_other_processes()
        if self.parallel and timeout is not None and "WORLD_SIZE" in os.environ:
            from maskgit_cli.runtime.distributed import join

            join(timeout)
        with limited_threads(ctx.meta.get(THREADS)):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the panels in the order of :data:`PANELS`."""
        names = [p.name for p in self.get_params(ctx) if getattr(p, "panel", None) == PANELS[-1]]
        last = click.RichOptionPanel(PANELS[-1], [*filter(None, names), "help"])
        # Panels are made for each page, because rich-click adds the options to them.
        self.panels = [*map(click.RichOptionPanel, PANELS[:-1]), last]
        super().format_options(ctx, formatter)
