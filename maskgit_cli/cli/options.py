"""Options that several commands have, declared once; settings options made from the dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from maskgit_cli.config.base import Settings
from maskgit_cli.config.stages import DTYPES

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)

# What may not be read is an error of the stage, not of the call's words: left to itself click ends with 2.
_PATH = click.Path(path_type=Path, readable=False)


def device(f: F) -> F:
    """``--device``."""
    text = "auto, cpu, cuda, cuda:N or mps."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=text)(f)


def dtype(f: F) -> F:
    """``--dtype``."""
    text = "Precision of matrix products; auto is bf16 on GPUs that have it, else fp32."
    choice = click.Choice(DTYPES)
    return click.option("--dtype", type=choice, default="auto", show_default=True, help=text)(f)


def batch_size(default: int) -> Callable[[F], F]:
    """``--batch-size`` of a stage that only runs networks."""
    text = "Images a forward pass; changes speed and memory, not the result."
    return click.option("--batch-size", type=int, default=default, show_default=True, metavar="N", help=text)


def overwrite(f: F) -> F:
    """``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help="Replace a result that is there.")(f)


def output(f: F) -> F:
    """``--json``, ``--quiet``, ``--debug``, which every command has."""
    f = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback if it fails.")(f)
    f = click.option("--quiet", "-q", is_flag=True, help="No progress and no news; warnings stay.")(f)
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(f)


def workers(default: int) -> Callable[[F], F]:
    """``--workers``."""
    text = "Processes that read images."
    return click.option("--workers", type=int, default=default, show_default=True, metavar="N", help=text)


def listed(name: str, default: tuple[str, ...], text: str) -> Callable[[F], F]:
    """An option that takes words with commas between them, and gives a tuple of them."""

    def split(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in value.split(","))

    joined = ",".join(default)
    return click.option(name, default=joined, show_default=True, metavar="A,B,...", callback=split, help=text)


def feature_space(f: F) -> F:
    """``--weights``, ``--tokenizer``, ``--batch-size``, ``--device`` of what turns images into features."""
    f = batch_size(32)(device(f))
    f = path("--tokenizer", "Decodes tokens; space of vqgan.  [default: the one tokens name]")(f)
    return path("--weights", "Inception's weights.  [default: the published ones, fetched once]")(f)


def path(name: str, text: str, **extra: Any) -> Callable[[F], F]:
    """An option that takes a path."""
    return click.option(name, type=_PATH, metavar="PATH", help=text, **extra)


def path_argument(name: str, **extra: Any) -> Callable[[F], F]:
    """An argument that is a path."""
    return click.argument(name, type=_PATH, **extra)


def _plain_type(annotation: Any) -> type:
    """The type to parse: ``int`` of ``int | None``."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def settings_of(
    kind: type[Settings],
    texts: Mapping[str, str],
    defaults: Mapping[str, str] | None = None,
    also: Mapping[str, str] | None = None,
) -> Any:
    """Options for fields of a settings class, their defaults read from it.

    Args:
        kind: the class.
        texts: help by field name; fields left out get no option. The order is that of the help page.
        defaults: what to show as the default of a field whose default is None.
        also: a second spelling of a field's option.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)

    def decorate(f: F) -> F:
        for name in reversed(list(texts)):
            shown, second = (defaults or {}).get(name), (also or {}).get(name)
            f = _option(fields[name], _plain_type(hints[name]), texts[name], shown, second)(f)
        return f

    return decorate


def _option(field: Any, kind: type, text: str, shown: str | None, second: str | None) -> Callable[[F], F]:
    """One option from one field, with a second spelling if it has one."""
    flag = "--" + field.name.replace("_", "-")
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=field.default, show_default=True, help=text)
    default = field.default
    flags = (flag, second) if second else (flag,)
    metavar = {int: "N", float: "X"}.get(kind, "TEXT")
    show: bool | str = shown if shown is not None else default is not None
    return click.option(
        *flags, field.name, type=kind, default=default, show_default=show, metavar=metavar, help=text
    )


def given(kind: type[S], values: Mapping[str, Any], names: Iterable[str] | None = None) -> S:
    """Settings from a command's values; raises ConfigError (exit status 1) for a value out of range."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: v for k, v in values.items() if k in known and (names is None or k in names)})
