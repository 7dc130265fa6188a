"""The sampler's options, shared by ``sample``, ``inpaint``, ``export`` and ``sweep``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from maskgit_cli.cli import options
from maskgit_cli.config.base import field_types
from maskgit_cli.config.samplers import PRESETS, SAMPLERS, SamplerConfig, changed

F = TypeVar("F", bound=Callable[..., Any])
PANEL = "Sampler"


def sampler_fields() -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """The field and type of every setting of any sampler; the help names the samplers that have it."""
    found: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    for kind in SAMPLERS.values():
        for name, field in options.fields_of(kind).items():
            found.setdefault(name, (_with_samplers(field), field_types(kind)[name]))
    return found


def _with_samplers(field: dataclasses.Field[Any]) -> dataclasses.Field[Any]:
    having = [method for method, kind in SAMPLERS.items() if field.name in kind.__dataclass_fields__]
    note = None if len(having) == len(SAMPLERS) else ", ".join(having)
    copy: dataclasses.Field[Any] = dataclasses.field(
        metadata={**field.metadata, "note": note, "panel": PANEL}
    )
    copy.name = field.name
    return copy


def sampler(f: F) -> F:
    """``--sampler``, ``--preset`` and an option for each setting, whose default is the preset's."""
    for field, kind in reversed(sampler_fields().values()):
        f = options.option_of(field, kind)(f)
    preset, method = click.Choice(list(PRESETS)), click.Choice(list(SAMPLERS))
    text = f"Named settings, which the options below change: {', '.join(PRESETS)}."
    unset = "the model's own, or those for its network and resolution"
    f = options.plain_option("--preset", type=preset, metavar="NAME", help=text, unset=unset, panel=PANEL)(f)
    text = f"Sampling method (also selects the default preset): {', '.join(SAMPLERS)}."
    unset = "the model's own"
    return options.plain_option(
        "--sampler", "method", type=method, metavar="NAME", help=text, unset=unset, panel=PANEL
    )(f)


def chosen(preset: str | None, values: dict[str, Any]) -> SamplerConfig | dict[str, Any]:
    """Take the sampler's settings out of a command's values.

    Returns:
        All settings if a preset is named, else the changes to the model's own settings.

    Raises:
        ConfigError: a setting is out of range, or the preset's sampler does not have it.
        click.UsageError: the preset is for another sampler than the one named.
    """
    given = {name: values.pop(name) for name in ("method", *sampler_fields())}
    changes = {name: value for name, value in given.items() if value is not None}
    if preset is None:
        return changes
    method = changes.pop("method", PRESETS[preset].method)
    if method != PRESETS[preset].method:
        raise click.UsageError(f"--preset {preset} is for --sampler {PRESETS[preset].method}, not {method}")
    return changed(PRESETS[preset], changes)
