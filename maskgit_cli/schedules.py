"""How many tokens a step keeps, and how guidance grows over the steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskgit_cli.config import (
    GUIDANCE_RAMPS,
    SCHEDULES,
)
from maskgit_cli.errors import ConfigError
from maskgit_cli.settings import require


def mask_ratio(r: Tensor, name: str) -> Tensor:
    """The masking function of the report (arXiv 2310.14400, section 3; MaskGIT's γ, section 3.3).

    In training, r is uniform and the result is the probability of masking a token; in sampling,
    :func:`tokens_per_step` evaluates it at evenly spaced r.

    Args:
        r: numbers in [0, 1], any shape.
        name: one of :data:`~maskgit_cli.config.SCHEDULES`.

    Returns:
        Numbers in [0, 1] of the shape of ``r``.

    Raises:
        ConfigError: the name is unknown.
    """
    require(name in SCHEDULES, "schedule", name, "one of " + ", ".join(SCHEDULES))
    if name == "root":
        return 1 - r**0.5
    if name == "linear":
        return 1 - r
    if name == "square":
        return 1 - r**2
    if name == "cosine":
        return torch.cos(r * math.pi * 0.5).clamp(min=0)  # float32 puts cos(π/2) a hair below 0
    return torch.arccos(r) / (math.pi * 0.5)


def tokens_per_step(total: int, steps: int, name: str) -> list[int]:
    """Numbers of tokens newly kept at each of S steps: all 1 or more, ``total`` in sum.

    The masking function at S values of r from 1 down to 0, divided by its sum, times ``total``, rounded
    in float32; zeros become 1, and the last step takes the difference to ``total``. These are the
    published numbers. They break down in two cases, which have a rule of our own here:

    - a single step has a sum of 0: it keeps all tokens;
    - the ones leave the last step less than 1: the step that keeps most gives one away, the latest
      of equals first, until the last step has 1.

    Args:
        total: tokens to keep in all, 1 or more.
        steps: S, 1 or more.
        name: one of :data:`~maskgit_cli.config.SCHEDULES`.

    Raises:
        ConfigError: there are more steps than tokens, no steps, or the name is unknown.
    """
    require(steps >= 1, "steps", steps, "1 or more")
    if steps > total:
        raise ConfigError(
            f"--steps {steps}: there are {total} tokens to draw, and each step keeps at least one"
        )
    ratios = mask_ratio(torch.linspace(1, 0, steps), name)
    if steps == 1:
        return [total]
    counts = [max(1, round(share)) for share in (ratios / ratios.sum() * total).tolist()]
    counts[-1] += total - sum(counts)
    while counts[-1] < 1:
        largest = max(range(steps - 1), key=lambda i: (counts[i], i))
        counts[largest] -= 1
        counts[-1] += 1
    return counts


def guidance_weight(w: float, step: int, steps: int, ramp: str) -> float:
    """w_i, the guidance weight of step i of S in (1 + w_i)·cond − w_i·uncond.

    ``linear`` is the report's ramp, w·i/(S−1): early steps, which fix the layout, stay diverse, and
    the last step carries the full weight. A single step is the last step, so S = 1 gives w.
    ``cosine`` is w·(1 − cos(π·i/(S−1)))/2, ``constant`` is w throughout, ``none`` is 0.

    Args:
        w: guidance weight, 0 or more; papers that write s·cond + (1−s)·uncond have s = 1 + w.
        step: i, from 0 to S−1.
        steps: S.
        ramp: one of :data:`~maskgit_cli.config.GUIDANCE_RAMPS`.

    Raises:
        ConfigError: the ramp is unknown.
    """
    require(ramp in GUIDANCE_RAMPS, "ramp", ramp, "one of " + ", ".join(GUIDANCE_RAMPS))
    if ramp == "none":
        return 0.0
    progress = step / (steps - 1) if steps > 1 else 1.0
    if ramp == "linear":
        return w * progress
    if ramp == "cosine":
        return w * (1 - math.cos(math.pi * progress)) / 2
    return w
