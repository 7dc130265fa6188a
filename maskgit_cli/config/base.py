"""What the settings classes of :mod:`maskgit_cli.config.stages` are made of: rules, checks, and JSON."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, Self

from maskgit_cli.errors import ConfigError

OFFLINE_VARIABLES = ("MASKGIT_OFFLINE", "HF_HUB_OFFLINE")


def option(value: object) -> str:
    """The way a setting is typed: ``batch_size`` is ``--batch-size``."""
    return "--" + str(value).replace("_", "-")


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise :class:`ConfigError` in the one form all settings share, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{option(name)} {value}: must be {rule}")


class Settings:
    """What the frozen settings classes share: validation of numbers, and going to and from JSON."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            rule = field.metadata.get("rule")
            if isinstance(value, float):
                require(math.isfinite(value), field.name, value, "a finite number")
            if rule is not None and value is not None:
                require(rule[0](value), field.name, value, rule[1])

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
            ConfigError: a key is missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        needed = {
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        for key in values:
            if key not in names:
                raise ConfigError(f"unknown setting {key!r} for {cls.__name__}")
        for key in sorted(needed - values.keys()):
            raise ConfigError(f"setting {key!r} of {cls.__name__} is missing")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def at_least(minimum: float) -> dict[str, Any]:
    """The value is ``minimum`` or more."""
    return {"rule": (lambda value: value >= minimum, f"{minimum:g} or more")}


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
    """The value has 64 bits, which is what the random numbers take."""
    return {"rule": (lambda value: 0 <= value < 2**64, "between 0 and 2^64 - 1")}


def among(*choices: str) -> dict[str, Any]:
    """The value is one of ``choices``."""
    return {"rule": (lambda value: value in choices, "one of " + ", ".join(choices))}


def setting(default: Any = dataclasses.MISSING, rule: dict[str, Any] | None = None) -> Any:
    """A dataclass field with a default and a rule that ``__post_init__`` holds it to."""
    return dataclasses.field(default=default, metadata=rule or {})


def offline() -> str | None:
    """The environment variable that forbids fetching, if one is set."""
    yes = ("1", "true", "yes", "on")
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").lower() in yes), None)
