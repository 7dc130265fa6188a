"""Samplers: free functions that fill the unknown codes of a grid with any callable network.

A sampler sees the network as ``predict(codes, labels, drop) -> logits`` and takes all randomness from
:mod:`maskgit_cli.noise`, so what image i becomes depends on the seed, i and the network alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from maskgit_cli import noise
from maskgit_cli.config import SamplerConfig
from maskgit_cli.errors import ArtifactError
from maskgit_cli.schedules import guidance_weight, tokens_per_step

# predict(codes (B, h, w), labels (B,), drop (B,) bool) -> logits (B, h·w, K+1), the mask's last.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]

# Probabilities are handled this many images at a time: in float64 they are the largest thing here.
ROWS = 8
# Probabilities become integers of this many bits; a uniform number has 53.
PROBABILITY_BITS = 52
# Steps of the ``warm-up`` noise that keep tokens at random.
WARM_UP_STEPS = 2


class Step(NamedTuple):
    """What a sampler shows after each step.

    Attributes:
        number: i, from 0.
        codes: all codes (B, h, w) with the mask code where nothing is known yet.
        drawn: the codes (B, h, w) that were drawn at every position, kept or not.
        kept: True (B, h, w) where this step made a code known.
        confidence: float64 (B, h, w), −inf where the code was known before.
    """

    number: int
    codes: Tensor
    drawn: Tensor
    kept: Tensor
    confidence: Tensor


@torch.no_grad()
def confidence_sampler(
    predict: Predict,
    codes: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: SamplerConfig,
    seed: noise.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """The report's sampler (arXiv 2310.14400, section 3; MaskGIT, arXiv 2202.04200, section 3.2).

    At each of S steps: predict every unknown code, draw one at each position, and keep the n_i most
    confident. The confidence is log p(code) with noise as ``config.noise`` says.

    Args:
        predict: the network; it may give NaN nowhere.
        codes: integers (B, h, w), ``mask_code`` where a code is to be drawn; the others never change.
        labels: class of each image (B,), -1 for none.
        indices: number of each image in the whole set (B,): with the seed, all that its random
            numbers depend on.
        config: the sampler's settings.
        seed: of every random number; one for all images, or one for each (B,).
        mask_code: K, the code that stands for "unknown".
        on_step: called after each step.

    Returns:
        Codes (B, h, w), all in [0, K) where ``codes`` was unknown.

    Raises:
        ConfigError: an image has fewer unknown codes than there are steps.
        ArtifactError: the network gives NaN.
    """
    grid = codes.shape[1:]
    codes = codes.flatten(1).clone()  # (B, N)
    positions = codes.shape[1]
    counts = step_counts(codes == mask_code, config)  # (B, S)
    for i in range(config.steps):
        unknown = codes == mask_code  # (B, N)
        weight = guidance_weight(config.cfg, i, config.steps, config.ramp)
        logits = guided_logits(predict, codes.unflatten(1, grid), labels, weight)  # (B, N, K+1)
        u = noise.uniform(seed, indices, i, positions, noise.CODE)
        drawn, log_p = draw_codes(logits[..., :mask_code], u, config.sm_temp)  # each (B, N)
        confidence = noisy_confidence(log_p, indices, i, config, seed)
        confidence = confidence.masked_fill(~unknown, -torch.inf)
        kept = most_confident(confidence, counts[:, i])
        codes = torch.where(kept, drawn, codes)
        if on_step is not None:
            shown = (x.unflatten(1, grid) for x in (codes, drawn, kept, confidence))
            on_step(Step(i, *shown))
    return codes.unflatten(1, grid)


def step_counts(unknown: Tensor, config: SamplerConfig) -> Tensor:
    """How many codes each step makes known: integers (B, S) for unknown positions (B, N).

    An image with nothing unknown is left alone: its counts are 0.

    Raises:
        ConfigError: an image has fewer unknown codes than there are steps.
    """
    rows = {0: [0] * config.steps}
    totals = unknown.sum(1).tolist()
    for total in set(totals) - {0}:
        rows[total] = tokens_per_step(total, config.steps, config.schedule)
    return torch.tensor([rows[total] for total in totals], device=unknown.device)


def guided_logits(predict: Predict, codes: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598, equation 6): (1 + w)·cond − w·uncond.

    Both passes go through the network as one batch of twice the size; at w = 0 there is no second.

    Args:
        predict: the network.
        codes: integers (B, h, w).
        labels: classes (B,).
        weight: w; papers that write s·cond + (1−s)·uncond have s = 1 + w.

    Returns:
        Logits (B, h·w, K+1).

    Raises:
        ArtifactError: the network gives NaN.
    """
    with_label = torch.zeros_like(labels, dtype=torch.bool)
    if weight == 0:
        logits = predict(codes, labels, with_label)
    else:
        drop = torch.cat([with_label, ~with_label])
        cond, uncond = predict(codes.repeat(2, 1, 1), labels.repeat(2), drop).chunk(2)
        logits = (1 + weight) * cond - weight * uncond
    if bool(logits.isnan().any()):
        raise ArtifactError(
            "the checkpoint gives NaN for some tokens: its weights are unusable; use another one"
        )
    return logits


def draw_codes(logits: Tensor, u: Tensor, sm_temp: float) -> tuple[Tensor, Tensor]:
    """Draw a code at every position by the inverse of the cumulative distribution.

    Probabilities are softmax(sm_temp · logits): the report's temperature multiplies. They are summed
    as integers: a sum of integers is exact in any order, so the parallel sums of a GPU give the same
    code as a CPU, the last sum is the true total, and a code of probability 0 is never drawn, however
    near to 1 the uniform number is.

    Args:
        logits: (B, N, K) for the codes alone, without the mask.
        u: uniform numbers (B, N) in (0, 1), float64.
        sm_temp: factor on the logits.

    Returns:
        Codes (B, N) and their log-probabilities (B, N), float64.
    """
    parts = [
        _draw_part(part, numbers, sm_temp)
        for part, numbers in zip(logits.split(ROWS), u.split(ROWS), strict=True)
    ]
    codes, log_p = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(log_p)


def _draw_part(logits: Tensor, u: Tensor, sm_temp: float) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(sm_temp * logits.double(), dim=-1)  # (B, N, K)
    weights = (log_p.exp() * 2.0**PROBABILITY_BITS).to(torch.int64)
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1]  # (B, N)
    target = torch.minimum((u * total).to(torch.int64), total - 1)  # a whole number in [0, total)
    codes = torch.searchsorted(cumulative, target.unsqueeze(-1), right=True)  # the first sum beyond it
    return codes.squeeze(-1), log_p.gather(-1, codes).squeeze(-1)


def noisy_confidence(
    log_p: Tensor, indices: Tensor, step: int, config: SamplerConfig, seed: noise.Seed
) -> Tensor:
    """Confidences float64 (B, N) of drawn codes with log-probabilities (B, N), at step i of S.

    ``linear`` adds gumbel_temp · (1 − i/(S−1)) · Gumbel noise, which ends at 0; so does a single step.
    ``random`` takes noise instead of the probability, so that any position is as good as another;
    ``warm-up`` does so at the first two steps only. ``none`` is the log-probability alone.
    """
    at_random = config.noise == "random" or (config.noise == "warm-up" and step < WARM_UP_STEPS)
    if not at_random and config.noise != "linear":
        return log_p
    gumbel = noise.gumbel(seed, indices, step, log_p.shape[1], noise.CONFIDENCE)
    if at_random:
        return gumbel
    left = 1 - step / (config.steps - 1) if config.steps > 1 else 0.0
    return log_p + config.gumbel_temp * left * gumbel


def most_confident(confidence: Tensor, counts: Tensor) -> Tensor:
    """True (B, N) at exactly ``counts`` (B,) positions of each image; of equals the first one wins."""
    order = confidence.argsort(dim=1, descending=True, stable=True)  # (B, N)
    best = torch.arange(confidence.shape[1], device=confidence.device) < counts.unsqueeze(1)
    return torch.zeros_like(best).scatter(1, order, best)
