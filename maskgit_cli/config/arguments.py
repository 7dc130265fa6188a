"""Arguments of the public functions: their types, and one check of these for all of them.

The annotations of a public function say what it accepts, to people, to type checkers, and to :func:`checked`.
"""

from __future__ import annotations

import csv
import functools
import inspect
import io
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from maskgit_cli.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

# A path. Opened models and tokenizers are paths of their directories, and results of theirs.
PathArgument = str | os.PathLike[str]
# A class by number or name; and several of them, of which text is what ``--labels`` takes.
Label = str | int
Labels = str | int | Sequence[str | int]

_TITLES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def optional_path(path: PathArgument | None) -> Path | None:
    """A path argument that may be None."""
    return None if path is None else Path(path)


def path_list(paths: PathArgument | Sequence[PathArgument]) -> list[Path]:
    """One or several path arguments."""
    if isinstance(paths, str | os.PathLike):  # an opened tokenizer is a path, though also a tuple
        return [Path(paths)]
    return [Path(path) for path in paths]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses arguments which are not of the types of its annotations.

    Raises:
        ConfigError: such an argument, by name, or an empty path.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value, kind in _annotated(function, args, kwargs):
            _check(f"{function.__name__}: {name}", value, kind)
        return function(*args, **kwargs)

    return call


@functools.cache
def _signature(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    return inspect.signature(function), typing.get_type_hints(function)


def _annotated(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Name, value and type of each argument given; none where they do not fit the function's parameters.

    Python itself raises for those.
    """
    signature, hints = _signature(function)
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        return []
    variadic = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return [(name, given[name], hints[name]) for name in given if name in hints and name not in variadic]


def _check(where: str, value: Any, kind: Any) -> None:
    """Refuse a value of another type, and an empty path.

    Args:
        where: the function and the argument, or the item of it.
        value: of the argument.
        kind: its annotation.
    """
    members = typing.get_args(kind) if _is_union(kind) else (kind,)
    if not any(_fits(value, member) for member in members):
        raise ConfigError(f"{where} is {_shown(value)}; must be {_rule(kind)}")
    if isinstance(value, str) and not value and os.PathLike[str] in members:
        raise ConfigError(f"{where}: the path is empty")  # mostly a variable that was not set


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of an annotation."""
    if kind is Any:
        return True
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if _is_union(kind):
        return any(_fits(value, member) for member in members)
    if origin is Sequence:
        sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return sequence and all(_fits(item, members[0]) for item in value)
    if origin is tuple:
        same = isinstance(value, tuple) and (members[-1] is Ellipsis or len(value) == len(members))
        return same and all(map(_fits, value, members[:1] * len(value) if Ellipsis in members else members))
    if kind in (int, float):
        wanted = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _shown(value: Any) -> str:
    """A value and its type, on one line."""
    text = " ".join(reprlib.repr(value).split())
    return text if value is None else f"{text} ({type(value).__name__})"


def _rule(kind: Any) -> str:
    """The types of an annotation in words: ``a path, Image, ndarray or Tensor``."""
    members = list(typing.get_args(kind) if _is_union(kind) else (kind,))
    if os.PathLike[str] in members:
        members.remove(str)
    *first, last = [_title(member) for member in members]
    return f"{', '.join(first)} or {last}" if first else last


def _title(kind: Any) -> str:
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is os.PathLike:
        return "a path"
    if origin is Sequence:
        return f"a list (each {_rule(members[0])})"
    if origin is tuple:
        return "a tuple"
    if kind is type(None):
        return "None"
    return _TITLES.get(kind) or (origin or kind).__name__


# --- classes ----------------------------------------------------------------------------------------


def labels_text(labels: Labels, name: str = "labels") -> str:
    """Classes as the text that ``--labels`` takes: a list's with commas between them.

    A name that holds a comma or a quotation mark is quoted, as in a CSV.

    Raises:
        ConfigError: they are neither text nor numbers, or an empty list.
    """
    if isinstance(labels, str):
        return labels
    _check(name, labels, Labels)
    listed = labels if isinstance(labels, Sequence) else [labels]
    if not listed:
        raise ConfigError(f"{name} []: an empty list; name at least one class")
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([str(label) for label in listed])
    return text.getvalue()


def label_text(label: Label, name: str = "label") -> str:
    """A class, by number or name, as text.

    Raises:
        ConfigError: it is neither.
    """
    _check(name, label, Label)
    return str(label)


def split_labels(text: str) -> list[str]:
    """The entries of a list of classes; the inverse of :func:`labels_text`."""
    if '"' not in text:
        return [item.strip() for item in text.split(",")]
    return [item.strip() for item in next(csv.reader([text], skipinitialspace=True))]
