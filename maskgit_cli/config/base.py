"""Base of the settings classes: fields with a rule and a help text, type checks, JSON.

A field declares everything about one setting: its default, the rule that its value must satisfy, and how
the command line presents it. Options, help pages, completion and validation derive from the field.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Self

from maskgit_cli.errors import ConfigError

OFFLINE_VARIABLES = ("MASKGIT_OFFLINE", "HF_HUB_OFFLINE")
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def option(value: object) -> str:
    """The option of a setting: ``batch_size`` is ``--batch-size``."""
    return "--" + str(value).replace("_", "-")


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise :class:`ConfigError` with the text that all settings share, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{option(name)} {value}: must be {rule}")


def _without_none(annotation: Any) -> Any:
    """The type without None: ``int`` of ``int | None``."""
    if isinstance(annotation, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def field_types(kind: Any) -> dict[str, Any]:
    """The type of each field of a settings class, without None."""
    return {field.name: _without_none(_hints(kind)[field.name]) for field in dataclasses.fields(kind)}


def of_type(name: str, value: Any, kind: Any) -> Any:
    """The value of a setting as its type: whole floats are not integers, but integers are numbers.

    Raises:
        ConfigError: it is of another type.
    """
    if typing.get_origin(kind) is tuple:
        return _tuple_of(name, value, typing.get_args(kind))
    wanted = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    fits = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    require(fits, name, repr(value) if isinstance(value, str) else value, _KINDS.get(kind, kind.__name__))
    if kind not in (int, float):
        return value
    try:
        return kind(value)  # NumPy's numbers become Python's, which JSON can hold
    except OverflowError:
        raise ConfigError(f"{option(name)}: must be a finite number") from None


def _tuple_of(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple whose members have the types of ``tuple[...]``'s arguments."""
    value = tuple(value) if isinstance(value, list) else value
    require(isinstance(value, tuple), name, repr(value) if isinstance(value, str) else value, "a tuple")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    require(len(value) == len(kinds), name, shown(value), f"{len(kinds)} values")
    return tuple(of_type(name, item, kind) for item, kind in zip(value, kinds, strict=True))


def shown(value: Any) -> str:
    """A value as the command line takes it: a tuple's members with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Settings:
    """Base of the frozen settings classes: checks of types and rules, and conversion to and from JSON."""

    def __post_init__(self) -> None:
        cls: Any = type(self)
        hints = _hints(cls)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            name, value, kind = field.name, getattr(self, field.name), hints[field.name]
            if value is None and isinstance(kind, types.UnionType):
                continue
            if field.metadata.get("convert"):
                value = field.metadata["convert"](value, option(name))
            value = of_type(name, value, _without_none(kind))
            object.__setattr__(self, name, value)
            if isinstance(value, float):
                require(math.isfinite(value), name, value, "a finite number")
            rule = field.metadata.get("rule")
            if rule is not None:
                require(rule[0](value), name, shown(value), rule[1])

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values, in declaration order."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()  # type: ignore[call-overload]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild settings that :meth:`to_json` wrote.

        Raises:
            ConfigError: they are no object, a key is missing or unknown, or a value is of another type or
                out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"settings of {cls.__name__} are a {type(values).__name__}, not an object")
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        missing = dataclasses.MISSING
        needed = {f.name for f in fields if f.default is missing and f.default_factory is missing}
        for key in values:
            if key not in {f.name for f in fields}:
                raise ConfigError(f"unknown setting {key!r} for {cls.__name__}")
        for key in sorted(needed - values.keys()):
            raise ConfigError(f"setting {key!r} of {cls.__name__} is missing")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


# Largest values of settings: far beyond what anyone uses, and small enough that a mistyped number is an error
# rather than days of planning or all memory.
LARGEST_SIDE = 16384  # of an image in pixels; a VQGAN's activations then take about 100 GB
LARGEST_COUNT = 100_000_000  # steps, classes, or parts of a score
LARGEST_SAMPLES = 10_000_000  # images of one directory, whose classes are planned at once
LARGEST_BATCH = 1_000_000  # images of one optimizer step
LARGEST_WIDTH = 65536  # channels or features of a layer
LARGEST_DEPTH = 1024  # layers or heads


def at_least(minimum: float, maximum: float = math.inf) -> dict[str, Any]:
    """The value is ``minimum`` or more, and ``maximum`` at most."""
    if maximum == math.inf:
        return {"rule": (lambda value: value >= minimum, f"{minimum:g} or more")}
    return {"rule": (lambda value: minimum <= value <= maximum, f"between {minimum:g} and {maximum:,}")}


def above(minimum: float, maximum: float = math.inf) -> dict[str, Any]:
    """The value is greater than ``minimum``, and ``maximum`` at most."""
    end = "" if maximum == math.inf else f" and {maximum:g} or less"
    return {"rule": (lambda value: minimum < value <= maximum, f"greater than {minimum:g}{end}")}


def between(low: float, high: float) -> dict[str, Any]:
    """The value is in [low, high]."""
    return {"rule": (lambda value: low <= value <= high, f"between {low:g} and {high:g}")}


def below_one() -> dict[str, Any]:
    """The value is in [0, 1)."""
    return {"rule": (lambda value: 0 <= value < 1, "at least 0 and below 1")}


def a_seed() -> dict[str, Any]:
    """The value has 64 bits, as the random number generator requires."""
    return {"rule": (lambda value: 0 <= value < 2**64, "between 0 and 2^64 - 1")}


def among(*choices: str) -> dict[str, Any]:
    """The value is one of ``choices``."""
    rule = "one of " + ", ".join(choices)
    return {"rule": (lambda value: value in choices, rule), "choices": choices}


def some_of(*choices: str) -> dict[str, Any]:
    """The value is a tuple whose members are ``choices``."""
    rule = "some of " + ", ".join(choices)
    return {"rule": (lambda value: all(item in choices for item in value), rule), "choices": choices}


def setting(
    default: Any = dataclasses.MISSING,
    rule: Mapping[str, Any] | None = None,
    *,
    help: str | None = None,
    unset: str | None = None,
    alias: str | None = None,
    metavar: str | None = None,
    panel: str | None = None,
    convert: Callable[[Any, str], Any] | None = None,
) -> Any:
    """A dataclass field that declares a setting.

    Args:
        default: the default; a field without one must be given.
        rule: from :func:`at_least`, :func:`among` and so on; ``__post_init__`` applies it.
        help: help text of the option: a noun phrase with its unit. A field without one has no option.
        unset: what the help page shows as the default where that is None.
        alias: a second spelling of the option, ``--gumbel``.
        metavar: what the help page shows for the value; by default it follows from the type.
        panel: heading under which the help page shows the option.
        convert: makes the field's first type of its other ones; its second argument is the option.
    """
    shown = {"help": help, "unset": unset, "alias": alias, "metavar": metavar, "panel": panel}
    return dataclasses.field(default=default, metadata={**(rule or {}), **shown, "convert": convert})


def offline() -> str | None:
    """The environment variable that forbids downloads, if one is set."""
    yes = ("1", "true", "yes", "on")
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").lower() in yes), None)
