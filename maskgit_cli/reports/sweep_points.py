"""Points of a sweep: lists of values as they are typed, and every combination of the values."""

from __future__ import annotations

import hashlib
import itertools
import re
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from maskgit_cli.config.base import option, require
from maskgit_cli.config.samplers import PRESETS, SAMPLERS
from maskgit_cli.errors import ConfigError

# A sweep of more points than this is probably a typing error.
MOST_POINTS = 1000
# The name of a point's folder lists its values, up to this length.
LONGEST_NAME = 100
YES, NO = ("yes", "true", "on"), ("no", "false", "off")


class Point(NamedTuple):
    """One combination of values.

    Attributes:
        name: of its folder, unique within the sweep.
        values: of every swept setting, by its name.
    """

    name: str
    values: dict[str, Any]


def swept_kinds() -> dict[str, Any]:
    """Types of the settings that can be swept: the sampler, the preset, and all fields of all samplers."""
    kinds: dict[str, Any] = {"sampler": str, "preset": str}
    for kind in SAMPLERS.values():
        hints = typing.get_type_hints(kind)
        kinds |= {name: hints[name] for name in hints if name != "method"}
    return kinds


# --- values -----------------------------------------------------------------------------------------


def parse_values(name: str, text: str) -> list[Any]:
    """The values of a setting: a list with commas whose entries are values or ranges.

    ``4,8,12`` and ``0:6:1`` (START:STOP:STEP, STOP included where a step meets it) and both together for
    numbers; names for a sampler, preset, schedule, ramp or noise; ``yes,no`` for a switch; and
    ``0:1,0.2:0.8`` for the guidance interval.

    Args:
        name: of the setting, a key of :func:`swept_kinds`.
        text: the list as it was typed.

    Raises:
        ConfigError: an entry is not a value of the setting, or a value occurs twice.
    """
    kind = swept_kinds()[name]
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise ConfigError(f"{option(name)} {text!r}: an entry of the list is empty")
    found = [value for entry in entries for value in _entry(name, kind, entry)]
    for value in found:
        if found.count(value) > 1:
            raise ConfigError(f"{option(name)} {text}: {show_value(value)} occurs twice")
    return found


def _entry(name: str, kind: Any, entry: str) -> list[Any]:
    """The value of an entry, or the values of a range."""
    if kind is str:
        known = {"sampler": tuple(SAMPLERS), "preset": tuple(PRESETS)}.get(name, (entry,))
        require(entry in known, name, entry, f"one of {', '.join(known)}")
        return [entry]
    if kind is bool:
        require(entry.lower() in YES + NO, name, entry, "yes or no")
        return [entry.lower() in YES]
    if kind in (int, float):
        return [_number(name, kind, number, entry) for number in _range(name, entry)]
    parts = [_decimal(name, part, entry, "LOW:HIGH, two numbers") for part in entry.split(":")]
    require(len(parts) == 2, name, entry, "LOW:HIGH, two numbers")
    return [tuple(map(float, parts))]


def _range(name: str, entry: str) -> list[Decimal]:
    """The numbers of ``START:STOP:STEP``, or the number itself; exact, so that 0:1:0.1 ends at 1."""
    rule = "a number, or a range START:STOP:STEP"
    parts = [_decimal(name, part, entry, rule) for part in entry.split(":")]
    if len(parts) == 1:
        return parts
    require(len(parts) == 3, name, entry, rule)
    start, stop, step = parts
    require(step > 0 and stop >= start, name, entry, "an ascending range START:STOP:STEP")
    count = int((stop - start) / step) + 1
    require(count <= MOST_POINTS, name, entry, f"a range of at most {MOST_POINTS} values")
    return [start + i * step for i in range(count)]


def _decimal(name: str, text: str, entry: str, rule: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    require(value.is_finite(), name, entry, rule)
    return value


def _number(name: str, kind: type, value: Decimal, entry: str) -> int | float:
    if kind is int:
        require(value == value.to_integral_value(), name, entry, "an integer")
    return kind(value)


def show_value(value: object) -> str:
    """A value as it is typed: ``0.5``, ``cosine``, ``yes``, ``0.2:0.8``."""
    if isinstance(value, bool):
        return YES[0] if value else NO[0]
    if isinstance(value, tuple | list):
        return ":".join(map(show_value, value))
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.10g}"
    return short if float(short) == value else repr(value)  # exact, for names and commands


# --- points -----------------------------------------------------------------------------------------


def points_of(swept: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the values; the last setting varies fastest.

    Raises:
        ConfigError: there are no values or too many, or both a sampler and a preset.
    """
    if not swept:
        raise ConfigError("no parameter to sweep: give a setting a list of values, as in --steps 4,8,12")
    if "preset" in swept and "sampler" in swept:
        raise ConfigError("--sampler and --preset cannot be swept together: a preset has its own sampler")
    combinations = list(itertools.islice(itertools.product(*swept.values()), MOST_POINTS + 1))
    if len(combinations) > MOST_POINTS:
        raise ConfigError(f"more than {MOST_POINTS} points; give fewer values, or run several sweeps")
    varied = [name for name, values in swept.items() if len(values) > 1] or list(swept)
    points = [dict(zip(swept, values, strict=True)) for values in combinations]
    return [Point(_name({key: point[key] for key in varied}), point) for point in points]


def _name(values: Mapping[str, Any]) -> str:
    """A folder's name that lists the values, shortened to a digest where that is too long."""
    text = ",".join(f"{key.replace('_', '-')}={show_value(value)}" for key, value in values.items())
    safe = re.sub(r"[^\w.,=-]", "-", text)
    if safe == text.replace(":", "-") and len(text) <= LONGEST_NAME:
        return safe
    return f"{safe[: LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
