"""Options that several commands share, declared once, and options made from settings classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from click.shell_completion import CompletionItem

from maskgit_cli.config.base import Settings, field_types, option
from maskgit_cli.config.stages import DTYPES

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)

# Headings of the options that most commands have.
RUN, OUTPUT = "Device and speed", "Output"
# A path that may not be read is an error of the stage (exit status 1), not a usage error (2).
_PATH = click.Path(path_type=Path, readable=False)
_METAVARS = {int: "N", float: "X", str: "TEXT"}


class Suggested(click.ParamType):
    """Text with suggestions for completion, where other values are valid too (``pow2.5``)."""

    name = "text"

    def __init__(self, suggestions: Iterable[str]) -> None:
        self.suggestions = tuple(suggestions)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The suggestions that begin with what was typed."""
        return [CompletionItem(text) for text in self.suggestions if text.startswith(incomplete)]


class CommaSeparated(click.ParamType):
    """Words with commas between them, as a tuple; completes the last word."""

    name = "list"

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split text; a tuple stays."""
        return value if isinstance(value, tuple) else tuple(word.strip() for word in value.split(","))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The choices for the word behind the last comma."""
        before, comma, word = incomplete.rpartition(",")
        return [CompletionItem(before + comma + text) for text in self.choices if text.startswith(word)]


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
            self.fail(f"{value!r} is not LOW:HIGH, two numbers between 0 and 1", param, ctx)


def device(f: F) -> F:
    """``--device``."""
    text = "auto, cpu, cuda, cuda:N or mps."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=text, panel=RUN)(
        f
    )


def dtype(f: F) -> F:
    """``--dtype``."""
    text = "Precision of matrix products; auto is bf16 on GPUs that have it, else fp32."
    choice = click.Choice(DTYPES)
    return click.option("--dtype", type=choice, default="auto", show_default=True, help=text, panel=RUN)(f)


def batch_size(default: int) -> Callable[[F], F]:
    """``--batch-size`` of a stage that only runs networks."""
    text = "Batch size per forward pass; does not affect the result."
    return click.option(
        "--batch-size", type=int, default=default, show_default=True, metavar="N", help=text, panel=RUN
    )


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
        shown = variable != "debug"
        f = click.option(*flags, variable, is_flag=True, expose_value=shown, help=text, panel=OUTPUT)(f)
    return f


def workers(default: int) -> Callable[[F], F]:
    """``--workers``."""
    text = "Processes that read images."
    return click.option(
        "--workers", type=int, default=default, show_default=True, metavar="N", help=text, panel=RUN
    )


def feature_space(f: F) -> F:
    """``--weights``, ``--tokenizer``, ``--batch-size``, ``--device`` of what turns images into features."""
    f = batch_size(32)(device(f))
    f = path("--tokenizer", "Decodes tokens; space of vqgan.  [default: the one the tokens name]")(f)
    return path("--weights", "Inception weights.  [default: the published ones, downloaded once]")(f)


def path(name: str, text: str, **extra: Any) -> Callable[[F], F]:
    """An option that takes a path."""
    return click.option(name, type=_PATH, metavar="PATH", help=text, **extra)


def path_argument(name: str, **extra: Any) -> Callable[[F], F]:
    """An argument that is a path."""
    return click.argument(name, type=_PATH, **extra)


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
    """The click type of a field: real choices where it has them, so that completion knows them."""
    if kind in (int, float):
        return kind
    if kind is str and metadata.get("choices"):
        return click.Choice(metadata["choices"])
    if kind is str and metadata.get("suggestions"):
        return Suggested(metadata["suggestions"])
    if kind is str:
        return str
    return CommaSeparated(metadata["choices"]) if metadata.get("choices") else Interval()


def option_of(field: dataclasses.Field[Any], kind: Any, default: Any = None) -> Callable[[F], F]:
    """The option of one field; a default of None shows the field's ``unset`` text."""
    meta = field.metadata
    flag = option(field.name)
    panel = {"panel": meta["panel"]} if meta.get("panel") else {}
    shown: Any = meta.get("unset") if default is None and meta.get("unset") else default is not None
    common = {"default": default, "show_default": shown, "help": meta["help"], **panel}
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, **common)
    flags = [flag, *([meta["alias"]] if meta.get("alias") else []), field.name]
    found = type_of(kind, meta)
    if isinstance(default, tuple):
        common |= {"show_default": ",".join(map(str, default))}
    metavar = meta.get("metavar") or _METAVARS.get(found)
    if isinstance(found, CommaSeparated | Interval):
        metavar = meta.get("metavar") or {"list": "A,B,...", "interval": "LOW:HIGH"}[found.name]
    if isinstance(found, Suggested):
        metavar = "[" + "|".join(found.suggestions) + "|powN]"
    return click.option(*flags, type=found, metavar=metavar, **common)


def given(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from a command's values; raises ConfigError (exit status 1) for a value out of range."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def without(values: Mapping[str, Any], *kinds: type[Settings]) -> dict[str, Any]:
    """A command's values that are not settings of these classes."""
    settings = {name for kind in kinds for name in fields_of(kind)}
    return {name: value for name, value in values.items() if name not in settings}
