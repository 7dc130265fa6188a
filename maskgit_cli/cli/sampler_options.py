"""The sampler's options, which ``sample`` and ``inpaint`` share: a preset, and changes to it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click

from maskgit_cli.config import GUIDANCE_RAMPS, NOISES, PRESETS, SCHEDULES, SamplerConfig

F = TypeVar("F", bound=Callable[..., Any])

TEXTS = {
    "steps": "Forward passes.",
    "cfg": "Guidance weight w of (1+w)·cond − w·uncond; s of other tools is 1+w.",
    "ramp": f"How guidance grows over the steps: {', '.join(GUIDANCE_RAMPS)}.",
    "sm_temp": "Softmax temperature; multiplies the logits.",
    "gumbel_temp": "Of the noise on the confidence; falls to 0 over the steps.",
    "schedule": f"How many codes each step keeps: {', '.join(SCHEDULES)}.",
    "noise": f"On the confidence: {', '.join(NOISES)}.",
}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def sampler(f: F) -> F:
    """``--preset`` and an option for each setting of the sampler, whose default is the preset's."""
    kinds = typing.get_type_hints(SamplerConfig)
    for name, text in reversed(TEXTS.items()):
        flag, kind = "--" + name.replace("_", "-"), kinds[name]
        f = click.option(
            flag, name, type=kind, metavar=_METAVARS[kind], show_default="the preset's", help=text
        )(f)
    choice = click.Choice(list(PRESETS))
    shown = "the one for the model's resolution"
    return click.option("--preset", type=choice, show_default=shown, help="Settings of the sampler.")(f)


def chosen(preset: str | None, values: dict[str, Any]) -> SamplerConfig | dict[str, Any]:
    """Take the sampler's settings out of a command's values.

    Returns:
        All settings if a preset is named, else the changes to the one that the model's resolution picks.

    Raises:
        ConfigError: a setting is out of range.
    """
    given = {name: values.pop(name) for name in TEXTS}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PRESETS[preset], **changes) if preset else changes
