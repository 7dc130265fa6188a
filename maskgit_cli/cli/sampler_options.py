"""The sampler's options, which the commands that draw share: a sampler or preset, and changes to it."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click

from maskgit_cli.config.samplers import (
    GUIDANCE_RAMPS,
    NOISES,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    SamplerConfig,
    changed,
)

F = TypeVar("F", bound=Callable[..., Any])

TEXTS = {
    "steps": "Forward passes.",
    "cfg": "Guidance weight w of (1+w)·cond − w·uncond; s of other tools is 1+w.",
    "ramp": f"How w grows over the steps: {', '.join(GUIDANCE_RAMPS)}.",
    "cfg_interval": "Guide only in this part of the way: 0 is the first step, 1 the last.",
    "sm_temp": "Softmax temperature; multiplies the logits.",
    "sm_temp_end": "The softmax temperature of the last step (halton).",
    "top_k": "Draw from the k most probable codes only; 0 is all.",
    "schedule": f"How many codes each step keeps: {', '.join(SCHEDULES)}, powN (confidence, google).",
    "gumbel_temp": "Of the noise on the confidence; falls to 0 over the steps (confidence).",
    "noise": f"On the confidence: {', '.join(NOISES)} (confidence).",
    "choice_temp": "Of the noise on the confidence; falls to 0 over the steps (google).",
    "roll": "Begin the order at a random place for each image (halton).",
    "redraw": "Draw the codes of earlier steps anew at each step (halton).",
}
# Other spellings of an option.
ALSO = {"gumbel_temp": "--gumbel"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def _interval(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[float, float] | None:
    """Read LOW:HIGH."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
        return low, high
    except ValueError:
        raise click.BadParameter(f"{text!r} is not LOW:HIGH, two numbers between 0 and 1") from None


def sampler(f: F) -> F:
    """``--sampler``, ``--preset`` and an option for each setting, whose default is the preset's."""
    kinds: dict[str, Any] = {}
    for kind in SAMPLERS.values():
        kinds |= typing.get_type_hints(kind)
    for name, text in reversed(TEXTS.items()):
        f = _option(name, kinds[name], text)(f)
    shown = "the settings the model names, or the one for its network and resolution"
    preset = click.Choice(list(PRESETS))
    f = click.option("--preset", type=preset, show_default=shown, help="Settings that go together.")(f)
    method = click.Choice(list(SAMPLERS))
    text = "How codes are drawn; also picks the preset."
    return click.option("--sampler", "method", type=method, show_default="the model's own", help=text)(f)


def also(name: str) -> list[str]:
    """Other spellings of a setting's option."""
    return [ALSO[name]] if name in ALSO else []


def _option(name: str, kind: Any, text: str) -> Callable[[F], F]:
    flag = "--" + name.replace("_", "-")
    flags = [flag, *also(name), name]
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if name == "cfg_interval":
        return click.option(flag, name, callback=_interval, metavar="LOW:HIGH", help=text)
    return click.option(*flags, type=kind, metavar=_METAVARS[kind], help=text)


def chosen(preset: str | None, values: dict[str, Any]) -> SamplerConfig | dict[str, Any]:
    """Take the sampler's settings out of a command's values.

    Returns:
        All settings if a preset is named, else the changes to the one that fits the model.

    Raises:
        ConfigError: a setting is out of range, or the preset's sampler has no such setting.
        click.UsageError: the preset is of another sampler than the one named.
    """
    given = {name: values.pop(name) for name in ("method", *TEXTS)}
    changes = {name: value for name, value in given.items() if value is not None}
    if preset is None:
        return changes
    method = changes.pop("method", PRESETS[preset].method)
    if method != PRESETS[preset].method:
        raise click.UsageError(f"--preset {preset} is for --sampler {PRESETS[preset].method}, not {method}")
    return changed(PRESETS[preset], changes)
