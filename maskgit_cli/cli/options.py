"""Options that several commands share, declared once, and options made from settings classes."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from click import get_current_context
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from maskgit_cli.cli.command import THREADS, Command
from maskgit_cli.config.base import Settings, field_types, option, require, shown
from maskgit_cli.config.sizes import aligned
from maskgit_cli.config.stages import DTYPES

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)

RUN, OUTPUT = "Device and speed", "Output"
MOST_THREADS = 1024  # of a process
_METAVARS = {int: "N", float: "X", str: "TEXT"}
# Characters of choices that the help page shows as [a|b|c]; more are part of the help text, where they wrap.
_LONGEST_CHOICES = 20
# What a model is on the command line.
MODEL = "Run or model directory, or `builtin`. [default: the newest run under runs/, else builtin]"


class _Path(click.Path):
    """A path; an empty one is an error: not the working directory, but a value that a script has lost."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make a ``Path`` of text."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


# A path that may not be read is an error of the stage (exit status 1), not a usage error (2).
_PATH = _Path(path_type=Path, readable=False)


def matching(choices: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The choices that complete a word."""
    return [CompletionItem(text) for text in choices if text.startswith(incomplete)]


def matching_last(choices: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The choices that complete the last word of a comma-separated list."""
    before, comma, word = incomplete.rpartition(",")
    return [CompletionItem(before + comma + text) for text in choices if text.startswith(word)]


class Suggested(click.ParamType):
    """Text with suggestions for completion, where other values are valid too (``pow2.5``)."""

    name = "text"

    def __init__(self, suggestions: Iterable[str]) -> None:
        self.suggestions = tuple(suggestions)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete a suggestion."""
        return matching(self.suggestions, incomplete)


class CommaSeparated(click.ParamType):
    """Choices with commas between them, as a tuple; completes the last one."""

    name = "list"

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split and check text; a tuple stays."""
        if isinstance(value, tuple):
            return value
        items = tuple(item.strip() for item in value.split(","))
        for item in items:
            if item not in self.choices:
                self.fail(f"{item!r} is not one of {', '.join(self.choices)}.", param, ctx)
        return items

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete the item behind the last comma."""
        return matching_last(self.choices, incomplete)


class OrAuto(click.ParamType):
    """A number, or ``auto``, which stays text."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read an integer or ``auto``."""
        return value if value == "auto" else click.INT.convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete ``auto``."""
        return matching(["auto"], incomplete)


class Interval(click.ParamType):
    """Two numbers, ``LOW:HIGH``."""

    name = "interval"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read LOW:HIGH; a tuple stays."""
        if isinstance(value, tuple):
            return value
        try:
            low, high = map(float, value.split(":"))
            return low, high
        except ValueError:
            self.fail(f"{value!r} is not LOW:HIGH, two numbers between 0 and 1.", param, ctx)


def command(
    name: str,
    *,
    examples: str,
    parallel: bool = False,
    appendix: Callable[[], Sequence[str]] | None = None,
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command of ``maskgit``; see :class:`~maskgit_cli.cli.command.Command`."""
    return click.command(name, cls=Command, examples=examples, parallel=parallel, appendix=appendix)


def sizes(table: Sequence[Sequence[str]], note: str) -> list[str]:
    """The appendix of a help page with a table of named sizes."""
    return [
        "Sizes:",
        *(f"  {line}" for line in [*aligned(table), *textwrap.wrap(note, 76, break_on_hyphens=False)]),
    ]


def _shown(default: Any) -> str:
    """A default as the command line takes it."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else shown(default)


def plain_option(
    *flags: str, help: str, unset: str | None = None, panel: str | None = None, **extra: Any
) -> Callable[[F], F]:
    """An option whose help ends in its default.

    Args:
        flags: its spellings, and the name of the parameter where that differs.
        help: a noun phrase with its unit.
        unset: the default in words, where it is None.
        panel: heading on the help page; ``None`` is "Options".
        extra: as for ``click.option``.
    """
    default = extra.get("default")
    if unset is None and default is not None:
        unset = _shown(default)
    text = f"{help} [default: {unset}]" if unset else help
    return click.option(*flags, help=text, panel=panel, **extra)


def device(f: F) -> F:
    """``--device``, and with it ``--threads``, which applies to whatever computes."""
    text = "Device: auto, cpu, cuda, cuda:N or mps."
    kind = Suggested(("auto", "cpu", "cuda", "mps"))
    f = threads(f)
    return plain_option("--device", type=kind, default="auto", metavar="NAME", help=text, panel=RUN)(f)


def threads(f: F) -> F:
    """``--threads``, which :class:`~maskgit_cli.cli.command.Command` applies."""

    def keep(context: click.Context, _parameter: click.Parameter, value: int | None) -> None:
        if value is not None:
            require(1 <= value <= MOST_THREADS, "threads", value, f"between 1 and {MOST_THREADS:,}")
        context.meta[THREADS] = value

    return plain_option(
        "--threads", type=int, metavar="N", expose_value=False, callback=keep, panel=RUN,
        help="CPU threads per process.", unset="all cores, shared by --procs",
    )(f)  # fmt: skip


def dtype(f: F) -> F:
    """``--dtype``."""
    text = "Precision of matrix products; auto is bf16 on GPUs that support it, else fp32."
    return plain_option("--dtype", type=click.Choice(DTYPES), default="auto", help=text, panel=RUN)(f)


def batch_size(default: int) -> Callable[[F], F]:
    """``--batch-size`` of a stage that only runs networks."""
    text = "Batch size per forward pass; does not affect the result."
    return plain_option("--batch-size", type=int, default=default, metavar="N", help=text, panel=RUN)


def workers(default: int) -> Callable[[F], F]:
    """``--workers``."""
    text = "Number of data-loading processes; 0 = none."
    return plain_option("--workers", type=int, default=default, metavar="N", help=text, panel=RUN)


def weights(f: F) -> F:
    """``--weights`` of commands that read a file with EMA and raw weights."""
    text = "EMA weights (ema) or raw weights (raw), where there are both."
    return plain_option("--weights", type=click.Choice(["ema", "raw"]), default="ema", help=text)(f)


def _part(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[int, int | None]:
    """Read START:STOP; without it, all images."""
    if text is None:
        return 0, None
    try:
        start, stop = text.split(":")
        return int(start), int(stop)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not START:STOP, two numbers.") from None


def part(text: str) -> Callable[[F], F]:
    """``--range``, as a pair ``part`` of the first image and one past the last; (0, None) is all of them."""
    return click.option("--range", "part", callback=_part, metavar="START:STOP", help=text)


def overwrite(f: F) -> F:
    """``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help="Replace an existing result.", panel=OUTPUT)(f)


def output(f: F) -> F:
    """``--json``, ``--quiet``, ``--debug``, which every command has."""
    for flags, variable, text in (
        (("--debug",), "debug", "Show the full traceback of an error."),
        (("--quiet", "-q"), "quiet", "Suppress progress and info messages; warnings are still shown."),
        (("--json",), "as_json", "Print the result as one JSON object."),
    ):
        exposed = variable != "debug"
        f = click.option(*flags, variable, is_flag=True, expose_value=exposed, help=text, panel=OUTPUT)(f)
    return f


def feature_space(f: F) -> F:
    """``--weights``, ``--tokenizer``, ``--batch-size``, ``--device`` of commands that extract features."""
    f = batch_size(32)(device(f))
    text = "Tokenizer that decodes tokens, and the feature space of --features vqgan."
    f = path("--tokenizer", text, unset="the one that the tokens name")(f)
    text = "Weights of the feature extractor: a file, or for dinov2 and clip also a directory."
    return path("--weights", text, unset="the published ones, downloaded once")(f)


def path(name: str, text: str, **extra: Any) -> Callable[[F], F]:
    """An option that takes a path."""
    return plain_option(name, type=_PATH, metavar="PATH", help=text, **extra)


def path_argument(name: str, text: str, **extra: Any) -> Callable[[F], F]:
    """An argument that is a path."""
    return click.argument(name, type=_PATH, help=text, panel="Arguments", **extra)


# --- from settings classes --------------------------------------------------------------------------


def fields_of(kind: type[Settings]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a settings class that have an option, by name."""
    return {f.name: f for f in dataclasses.fields(kind) if f.metadata.get("help")}  # type: ignore[arg-type]


def settings_of(
    kind: type[Settings],
    only: Iterable[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[F], F]:
    """An option for each field of a settings class that has a help text.

    Args:
        kind: the class.
        only: the fields to take; None takes all.
        defaults: defaults that differ from the class's.
    """
    chosen = [f for name, f in fields_of(kind).items() if only is None or name in only]

    def decorate(f: F) -> F:
        for field in reversed(chosen):
            default = (defaults or {}).get(field.name, field.default)
            f = option_of(field, field_types(kind)[field.name], default)(f)
        return f

    return decorate


def type_of(kind: Any, metadata: Mapping[str, Any]) -> Any:
    """The click type of a field; a choice where it has choices, so that completion offers them."""
    if metadata.get("auto"):
        return OrAuto()
    if kind in (int, float):
        return kind
    if kind is str and metadata.get("choices"):
        return click.Choice(metadata["choices"])
    if kind is str and metadata.get("suggestions"):
        return Suggested(metadata["suggestions"])
    if kind is str:
        return str
    return CommaSeparated(metadata["choices"]) if metadata.get("choices") else Interval()


def choices_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The values that a field's option completes to."""
    return tuple(metadata.get("choices") or metadata.get("suggestions") or ())


def text_of(metadata: Mapping[str, Any], metavar: str | None) -> str:
    """The help text of a field: with its choices, unless it or the metavar has them, and with its note."""
    text, choices = str(metadata["help"]), choices_of(metadata)
    if metavar and any(not re.search(rf"(?<![\w-]){re.escape(c)}(?![\w-])", text) for c in choices):
        named = ", ".join([*choices, *filter(None, [metadata.get("others")])])
        text = f"{text.removesuffix('.')}: {named}."
    return f"{text} [{metadata['note']}]" if metadata.get("note") else text


def metavar_of(found: Any, metadata: Mapping[str, Any]) -> str | None:
    """What the help page shows for a field's value; None shows the choices themselves, ``[a|b]``."""
    if isinstance(found, click.Choice):
        return "NAME" if len("|".join(found.choices)) > _LONGEST_CHOICES else None
    names = {"list": "A,B,...", "interval": "LOW:HIGH", "text": "NAME", "N|auto": "N|auto"}
    return metadata.get("metavar") or _METAVARS.get(found) or names[found.name]


def option_of(field: dataclasses.Field[Any], kind: Any, default: Any = None) -> Callable[[F], F]:
    """The option of one field; a default of None shows the field's ``unset`` text."""
    meta = field.metadata
    flag = option(field.name)
    common = {"default": default, "unset": meta.get("unset") if default is None else None}
    common["panel"] = meta.get("panel")
    if kind is bool:
        return plain_option(f"{flag}/--no-{flag[2:]}", field.name, help=text_of(meta, None), **common)
    flags = [flag, *([meta["alias"]] if meta.get("alias") else []), field.name]
    found = type_of(kind, meta)
    metavar = metavar_of(found, meta)
    return plain_option(*flags, type=found, metavar=metavar, help=text_of(meta, metavar), **common)


def given(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from a command's values; raises ConfigError (exit status 1) for a value out of range."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def explicit(kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a class that were given on the command line, without defaults."""
    context = get_current_context()
    names = [name for name in fields_of(kind) if name in values]
    return {n: values[n] for n in names if context.get_parameter_source(n) is not ParameterSource.DEFAULT}


def without(values: Mapping[str, Any], *kinds: type[Settings], others: Iterable[str] = ()) -> dict[str, Any]:
    """A command's values that are not settings of these classes, nor named in ``others``."""
    settings = {name for kind in kinds for name in fields_of(kind)}.union(others)
    return {name: value for name, value in values.items() if name not in settings}
