"""Settings of the samplers, one class per sampler, and presets, nearly all of them published ones.

Every sampler's guidance is (1+w)·cond − w·uncond with w called ``cfg``. Papers and tools that write
s·cond + (1−s)·uncond have s = 1 + w: a scale of 4 there is ``cfg`` 3 here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from maskgit_cli.config.base import (
    LARGEST_COUNT,
    Settings,
    above,
    among,
    at_least,
    between,
    option,
    require,
    setting,
)
from maskgit_cli.errors import ConfigError

SCHEDULES = ("root", "linear", "square", "cosine", "arccos")


def schedule_power(name: str) -> float | None:
    """N of the schedule ``powN``, 1 − r^N, as in ``pow3`` or ``pow2.5``; None for any other name."""
    match = re.fullmatch(r"pow(\d+(?:\.\d+)?)", name)
    return float(match[1]) if match and float(match[1]) > 0 else None


SCHEDULE_RULE = f"one of {', '.join(SCHEDULES)}, or powN with a number N, as in pow3"


def a_schedule() -> dict[str, Any]:
    """The value names a mask schedule."""
    rule = (lambda name: name in SCHEDULES or schedule_power(name) is not None, SCHEDULE_RULE)
    return {"rule": rule, "suggestions": SCHEDULES, "others": "powN (as in pow2.5)"}


NOISES = ("linear", "warm-up", "random", "none")
GUIDANCE_RAMPS = ("none", "linear", "constant", "cosine")
# Maximum of guidance weights and temperatures: far beyond any use, and small enough that their products
# with finite logits stay finite.
LARGEST = 10_000


def _guidance(default: float) -> Any:
    text = "Guidance weight w of (1+w)·cond − w·uncond; scale s of other tools is 1+w."
    return setting(default, between(0, LARGEST), help=text)


def _ramp(default: str) -> Any:
    return setting(default, among(*GUIDANCE_RAMPS), help="Schedule of w over the steps.")


@dataclass(frozen=True)
class SamplerConfig(Settings):
    """Settings that all samplers have."""

    method: ClassVar[str]

    cfg: float = _guidance(3.0)
    ramp: str = _ramp("linear")
    cfg_interval: tuple[float, float] = setting(
        (0.0, 1.0), help="Guidance interval, as fractions of the sampling trajectory.", metavar="LOW:HIGH"
    )
    sm_temp: float = setting(1.0, above(0, LARGEST), help="Softmax temperature; multiplies the logits.")
    top_k: int = setting(0, at_least(0), help="Sample from the k most probable tokens; 0 = all.")

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = self.cfg_interval
        numbers = len(pair) == 2 and all(type(x) in (int, float) for x in pair)
        require(numbers, "cfg_interval", ":".join(map(str, pair)), "two numbers LOW:HIGH")
        low, high = pair
        shown = f"{low:g}:{high:g}"
        require(0 <= low <= high <= 1, "cfg_interval", shown, "two numbers LOW:HIGH with 0 ≤ LOW ≤ HIGH ≤ 1")

    @classmethod
    def preset_at(cls, resolution: int) -> str:
        """Name of the preset for a model of this resolution (pixels) that has no settings of its own."""
        return cls.method

    def limited(self, steps: int | None = None, guided: bool = True) -> Self:
        """These settings with at most so many steps, if the sampler has steps, and without guidance if asked.

        Args:
            steps: the maximum, 1 or more; None is no limit.
            guided: whether guidance stays.
        """
        return self if guided else dataclasses.replace(self, cfg=0.0)

    def __str__(self) -> str:
        """All settings, as a command prints them."""
        values = {**self.to_json(), "cfg_interval": ":".join(f"{x:g}" for x in self.cfg_interval)}
        return ", ".join(f"{key} {value}" for key, value in values.items())

    def describe(self) -> dict[str, Any]:
        """The sampler's name and all settings as JSON values, for the record of samples or of a model."""
        return {"method": self.method, **self.to_json()}


@dataclass(frozen=True)
class SteppedConfig(SamplerConfig):
    """Settings of samplers whose number of decoding steps can be chosen."""

    steps: int = setting(8, at_least(1, LARGEST_COUNT), help="Number of decoding steps.")

    def limited(self, steps: int | None = None, guided: bool = True) -> Self:
        """As :meth:`SamplerConfig.limited`."""
        same = super().limited(steps, guided)
        return same if steps is None else dataclasses.replace(same, steps=min(self.steps, steps))


@dataclass(frozen=True)
class ConfidenceConfig(SteppedConfig):
    """Settings of the paper's sampler (arXiv 2310.14400, section 3, and its Figure 2)."""

    method: ClassVar[str] = "confidence"

    gumbel_temp: float = setting(
        4.5,
        between(0, LARGEST),
        help="Temperature of the Gumbel noise on the confidence, annealed linearly to 0.",
        alias="--gumbel",
    )
    schedule: str = setting("arccos", a_schedule(), help="Mask schedule (number of tokens kept per step).")
    noise: str = setting("linear", among(*NOISES), help="Schedule of the noise on the confidence.")

    @classmethod
    def preset_at(cls, resolution: int) -> str:
        """The paper's presets for 256 and 512 px, and one for small images."""
        return "small-64" if resolution <= 64 else "paper-512" if resolution >= 512 else "paper-256"


@dataclass(frozen=True)
class HaltonSamplerConfig(SteppedConfig):
    """Settings of Halton-MaskGIT's sampler (arXiv 2503.17076); defaults as in its repository's example."""

    method: ClassVar[str] = "halton"

    cfg: float = _guidance(2.0)
    ramp: str = _ramp("constant")
    steps: int = setting(32, at_least(1, LARGEST_COUNT), help="Number of decoding steps.")
    sm_temp_end: float = setting(1.2, above(0, LARGEST), help="Softmax temperature of the last step.")
    roll: bool = setting(True, help="Cyclically shift the order by a random offset per image.")
    redraw: bool = setting(False, help="Resample previously kept tokens at every step.")


@dataclass(frozen=True)
class GoogleSamplerConfig(SteppedConfig):
    """Settings of Google's sampler (arXiv 2202.04200, section 3.2), which has no guidance of its own."""

    method: ClassVar[str] = "google"

    cfg: float = _guidance(0.0)
    choice_temp: float = setting(
        4.5,
        between(0, LARGEST),
        help="Temperature of the Gumbel noise on the confidence, annealed linearly to 0.",
    )
    schedule: str = setting("cosine", a_schedule(), help="Mask schedule (number of tokens kept per step).")

    @classmethod
    def preset_at(cls, resolution: int) -> str:
        """Google's presets for 256 and 512 px."""
        return "google-512" if resolution >= 512 else "google-256"


@dataclass(frozen=True)
class RasterConfig(SamplerConfig):
    """Settings of the autoregressive sampler: one token per step in raster order."""

    method: ClassVar[str] = "raster"

    ramp: str = _ramp("constant")


# A sampler's name is also that of its module in maskgit_cli/sampling/samplers/.
SAMPLERS: dict[str, type[SamplerConfig]] = {
    kind.method: kind for kind in (ConfidenceConfig, HaltonSamplerConfig, GoogleSamplerConfig, RasterConfig)
}

# The paper's Table 2 at 256 and 512 px and its Figure 1; the example of Halton-MaskGIT's repository;
# Google's 8 steps at 256 and 12 at 512 px (arXiv 2202.04200, Table 1). No settings for 64 px are published.
# There a few tokens decide the whole image, so guidance that grows from 0 would come too late.
PRESETS: dict[str, SamplerConfig] = {
    "paper-256": ConfidenceConfig(steps=8, cfg=3.0, sm_temp=1.0, gumbel_temp=4.5),
    "paper-512": ConfidenceConfig(steps=15, cfg=2.8, sm_temp=1.0, gumbel_temp=7.0),
    "showcase": ConfidenceConfig(steps=32, cfg=9.0, sm_temp=1.3, gumbel_temp=7.0),
    "small-64": ConfidenceConfig(steps=12, cfg=3.0, ramp="constant", gumbel_temp=2.0),
    "halton": HaltonSamplerConfig(),
    "google-256": GoogleSamplerConfig(steps=8),
    "google-512": GoogleSamplerConfig(steps=12),
    "raster": RasterConfig(),
}


def preset_for(resolution: int, method: str = "confidence") -> str:
    """Name of the preset for a model that has no settings of its own.

    Args:
        resolution: of the model, in pixels.
        method: a key of :data:`SAMPLERS`: the sampler that the network was published with.

    Raises:
        ConfigError: there is no such sampler.
    """
    require(method in SAMPLERS, "sampler", method, "one of " + ", ".join(SAMPLERS))
    return SAMPLERS[method].preset_at(resolution)


def recorded_sampler(record: Mapping[str, Any]) -> SamplerConfig:
    """The settings that :meth:`SamplerConfig.describe` wrote.

    Raises:
        ConfigError: there is no such sampler, or a setting is unknown, of another type or out of range.
    """
    values = dict(record)
    method = values.pop("method", None)
    known = isinstance(method, str) and method in SAMPLERS
    require(known, "sampler", method, "one of " + ", ".join(SAMPLERS))
    return SAMPLERS[str(method)].from_json(values)


def changed(config: SamplerConfig, changes: Mapping[str, Any]) -> SamplerConfig:
    """A sampler's settings with some of them changed.

    Raises:
        ConfigError: a value is out of range, or the sampler has no such setting.
    """
    known = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            what = f"the {config.method} sampler has no such setting; it has {', '.join(map(option, known))}"
            others = [method for method, kind in SAMPLERS.items() if name in kind.__dataclass_fields__]
            also = f"; --sampler {' or '.join(others)} has it" if others else ""
            raise ConfigError(f"{option(name)}: {what}{also}")
    return dataclasses.replace(config, **changes)
