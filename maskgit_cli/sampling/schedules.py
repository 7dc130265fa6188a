"""Mask schedules and guidance ramps: functions of the sampling trajectory.

Schedules are evaluated in float32 on the CPU, also where PyTorch's default device is another: another last
bit in a GPU's arccos would be another number of tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.samplers import GUIDANCE_RAMPS, SCHEDULE_RULE, SCHEDULES, schedule_power
from maskgit_cli.errors import ConfigError


def mask_ratio(r: Tensor, name: str) -> Tensor:
    """The masking function of the paper (arXiv 2310.14400, section 3; MaskGIT's γ, section 3.3).

    In training, r is uniform and the result is the probability of masking a token; samplers evaluate it at
    evenly spaced r.

    Args:
        r: numbers in [0, 1], any shape.
        name: one of :data:`~maskgit_cli.config.samplers.SCHEDULES`, or ``powN`` for 1 − r^N.

    Returns:
        Numbers in [0, 1] of the shape of ``r``.

    Raises:
        ConfigError: the name is unknown.
    """
    power = schedule_power(name)
    if power is not None:
        return 1 - r**power
    require(name in SCHEDULES, "schedule", name, SCHEDULE_RULE)
    if name == "root":
        return 1 - r**0.5
    if name == "linear":
        return 1 - r
    if name == "square":
        return 1 - r**2
    if name == "cosine":
        return torch.cos(r * math.pi * 0.5).clamp(min=0)  # float32 puts cos(π/2) slightly below 0
    return torch.arccos(r) / (math.pi * 0.5)


def evenly_spaced(steps: int) -> Tensor:
    """The trajectory after each of S steps: (i+1)/S as float32 (S,) on the CPU."""
    return torch.arange(1, steps + 1, device="cpu") / steps


def check_steps(total: int, steps: int) -> None:
    """Refuse more steps than tokens, or none.

    Raises:
        ConfigError: so it is.
    """
    require(steps >= 1, "steps", steps, "1 or more")
    if steps > total:
        raise ConfigError(
            f"--steps {steps}: there are {total} tokens to sample, and each step keeps at least one"
        )


def guidance_weight(
    w: float, step: int, steps: int, ramp: str, interval: tuple[float, float] = (0.0, 1.0)
) -> float:
    """w_i, the guidance weight of step i of S in (1 + w_i)·cond − w_i·uncond.

    ``linear`` is the paper's ramp, w·i/(S−1): early steps, which determine the layout, stay diverse, and
    the last step has the full weight. A single step is the last step, so S = 1 gives w.
    ``cosine`` is w·(1 − cos(π·i/(S−1)))/2, ``constant`` is w throughout, ``none`` is 0.

    Args:
        w: guidance weight, 0 or more; papers that write s·cond + (1−s)·uncond have s = 1 + w.
        step: i, from 0 to S−1.
        steps: S.
        ramp: one of :data:`~maskgit_cli.config.samplers.GUIDANCE_RAMPS`.
        interval: the weight is 0 where i/(S−1) is not between these two (arXiv 2404.07724).

    Raises:
        ConfigError: the ramp is unknown.
    """
    require(ramp in GUIDANCE_RAMPS, "ramp", ramp, "one of " + ", ".join(GUIDANCE_RAMPS))
    progress = step / (steps - 1) if steps > 1 else 1.0
    if ramp == "none" or not interval[0] <= progress <= interval[1]:
        return 0.0
    if ramp == "linear":
        return w * progress
    if ramp == "cosine":
        return w * (1 - math.cos(math.pi * progress)) / 2
    return w
