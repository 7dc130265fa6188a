"""The sampler's options, shared by ``sample``, ``inpaint`` and ``export``."""

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
    """Every setting of any sampler: its field, with the samplers that have it in the help, and its type."""
    found: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    for kind in SAMPLERS.values():
        for name, field in options.fields_of(kind).items():
            found.setdefault(name, (field, field_types(kind)[name]))
    return found


def help_of(name: str) -> str:
    """Help text of a sampler's setting, which names the samplers that have it unless all do."""
    having = [method for method, kind in SAMPLERS.items() if name in kind.__dataclass_fields__]
    text = sampler_fields()[name][0].metadata["help"]
    return text if len(having) == len(SAMPLERS) else f"{text.removesuffix('.')} ({', '.join(having)})."


def sampler(f: F) -> F:
    """``--sampler``, ``--preset`` and an option for each setting, whose default is the preset's."""
    for name, (field, kind) in reversed(sampler_fields().items()):
        shown = dataclasses.field(metadata={**field.metadata, "help": help_of(name), "panel": PANEL})
        shown.name = name
        f = options.option_of(shown, kind)(f)
    preset = click.Choice(list(PRESETS))
    text = "Named sampler settings."
    default = "the model's own settings, or those for its network and resolution"
    f = click.option("--preset", type=preset, show_default=default, help=text, panel=PANEL)(f)
    method = click.Choice(list(SAMPLERS))
    text = "Sampling method; also selects the default preset."
    return click.option(
        "--sampler", "method", type=method, show_default="the model's own", help=text, panel=PANEL
    )(f)


def chosen(preset: str | None, values: dict[str, Any]) -> SamplerConfig | dict[str, Any]:
    """Take the sampler's settings out of a command's values.

    Returns:
        All settings if a preset is named, else the changes to the one that fits the model.

    Raises:
        ConfigError: a setting is out of range, or the preset's sampler has no such setting.
        click.UsageError: the preset is of another sampler than the one named.
    """
    given = {name: values.pop(name) for name in ("method", *sampler_fields())}
    changes = {name: value for name, value in given.items() if value is not None}
    if preset is None:
        return changes
    method = changes.pop("method", PRESETS[preset].method)
    if method != PRESETS[preset].method:
        raise click.UsageError(f"--preset {preset} is for --sampler {PRESETS[preset].method}, not {method}")
    return changed(PRESETS[preset], changes)
