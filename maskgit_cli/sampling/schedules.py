"""How many tokens a step keeps, in which order, and how guidance grows over the steps.

Numbers of tokens are rounded in float32 on the CPU, also where PyTorch's default device is another: a last
bit that a GPU's arccos has otherwise would be another schedule.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.samplers import GUIDANCE_RAMPS, SCHEDULE_RULE, SCHEDULES, schedule_power
from maskgit_cli.errors import ConfigError


def mask_ratio(r: Tensor, name: str) -> Tensor:
    """The masking function of the paper (arXiv 2310.14400, section 3; MaskGIT's γ, section 3.3).

    In training, r is uniform and the result is the probability of masking a token; in sampling,
    :func:`tokens_per_step` evaluates it at evenly spaced r.

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
        name: one of :data:`~maskgit_cli.config.samplers.SCHEDULES`, or ``powN``.

    Raises:
        ConfigError: there are more steps than tokens, no steps, or the name is unknown.
    """
    _check_steps(total, steps)
    ratios = mask_ratio(torch.linspace(1, 0, steps, device="cpu"), name)
    if steps == 1:
        return [total]
    counts = [max(1, round(share)) for share in (ratios / ratios.sum() * total).tolist()]
    counts[-1] += total - sum(counts)
    while counts[-1] < 1:
        largest = max(range(steps - 1), key=lambda i: (counts[i], i))
        counts[largest] -= 1
        counts[-1] += 1
    return counts


def _check_steps(total: int, steps: int) -> None:
    require(steps >= 1, "steps", steps, "1 or more")
    if steps > total:
        raise ConfigError(
            f"--steps {steps}: there are {total} tokens to draw, and each step keeps at least one"
        )


def google_tokens_per_step(total: int, steps: int, name: str) -> list[int]:
    """Numbers of tokens newly kept at each of S steps by Google's rule (arXiv 2202.04200, section 3.2).

    After step i, ⌊total · γ((i+1)/S)⌋ tokens are masked, but no fewer than 1 and at least one fewer than
    before; what the last step leaves masked is drawn all the same. γ is evaluated in float32.

    Args:
        total: tokens to keep in all, 1 or more.
        steps: S, 1 or more.
        name: of γ, one of :data:`~maskgit_cli.config.samplers.SCHEDULES`, or ``powN``.

    Raises:
        ConfigError: there are more steps than tokens, no steps, the name is unknown, or the rule leaves a
            step without a token (some schedules with nearly as many steps as tokens).
    """
    _check_steps(total, steps)
    ratios = mask_ratio(torch.arange(1, steps + 1, device="cpu") / steps, name)
    masked = [total]
    for share in (total * ratios).floor().tolist()[:-1]:
        masked.append(max(1, min(int(share), masked[-1] - 1)))
    counts = [before - after for before, after in zip(masked, [*masked[1:], 0], strict=True)]
    if min(counts) < 1:
        raise ConfigError(
            f"--steps {steps}: with --schedule {name}, this sampler has nothing left for some of the steps "
            f"that draw {total} tokens; take fewer steps"
        )
    return counts


def halton_tokens_per_step(total: int, steps: int) -> list[int]:
    """Numbers of tokens newly kept at each of S steps by Halton-MaskGIT's rule (arXiv 2503.17076).

    After step i, max(i+1, ⌊total · (1 − arccos((i+1)/S)/(π/2))⌋) tokens are known, in float32 as published.

    Args:
        total: tokens to keep in all, 1 or more.
        steps: S, 1 or more.

    Raises:
        ConfigError: there are more steps than tokens, or no steps.
    """
    _check_steps(total, steps)
    shares = 1 - mask_ratio(torch.arange(1, steps + 1, device="cpu") / steps, "arccos")
    known = [max(i + 1, int(share)) for i, share in enumerate((shares * total).tolist())]
    return [after - before for before, after in zip([0, *known[:-1]], known, strict=True)]


@functools.lru_cache(maxsize=8)
def halton_order(grid: int) -> tuple[int, ...]:
    """The order in which Halton-MaskGIT draws the positions of a grid (arXiv 2503.17076, section 4).

    The points of the two-dimensional Halton sequence with bases 2 (rows) and 3 (columns), from its first
    point on, fall into the cells of the grid; a cell's place in the order is that of its first point. They
    fill the image evenly, so that tokens drawn together are far from one another.

    Args:
        grid: cells on a side.

    Returns:
        Each of the positions row · grid + column once.
    """
    order: dict[int, None] = {}
    index = 0
    while len(order) < grid * grid:
        index += 1
        row, column = (_radical_inverse(index, base, grid) for base in (2, 3))
        order.setdefault(row * grid + column)
    return tuple(order)


def _radical_inverse(index: int, base: int, cells: int) -> int:
    """Into which of so many equal cells of [0, 1) the mirrored digits of an index fall, 0.d₀d₁… in a base."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * cells // denominator


def guidance_weight(
    w: float, step: int, steps: int, ramp: str, interval: tuple[float, float] = (0.0, 1.0)
) -> float:
    """w_i, the guidance weight of step i of S in (1 + w_i)·cond − w_i·uncond.

    ``linear`` is the paper's ramp, w·i/(S−1): early steps, which fix the layout, stay diverse, and
    the last step carries the full weight. A single step is the last step, so S = 1 gives w.
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
