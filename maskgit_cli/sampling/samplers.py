"""Samplers: free functions that fill the unknown codes of a grid with any callable network.

A sampler sees the network as ``predict(codes, labels, drop) -> logits`` and takes all randomness from
:mod:`maskgit_cli.runtime.rng`, so what image i becomes depends on the seed, i and the network alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from maskgit_cli.config.samplers import (
    ConfidenceConfig,
    GoogleSamplerConfig,
    HaltonSamplerConfig,
    RasterConfig,
    SamplerConfig,
)
from maskgit_cli.errors import ArtifactError
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.schedules import (
    google_tokens_per_step,
    guidance_weight,
    halton_order,
    halton_tokens_per_step,
    tokens_per_step,
)

# predict(codes (B, h, w), labels (B,), drop (B,) bool) -> logits (B, h·w, K or more); the mask's come last.
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
    config: ConfidenceConfig,
    seed: rng.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """The paper's sampler (arXiv 2310.14400, section 3; MaskGIT, arXiv 2202.04200, section 3.2).

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
    return _most_confident_first(
        predict, codes, labels, indices, config, seed, mask_code, on_step,
        counts=lambda total: tokens_per_step(total, config.steps, config.schedule),
        noisy=lambda log_p, step: noisy_confidence(log_p, indices, step, config, seed),
    )  # fmt: skip


@torch.no_grad()
def google_sampler(
    predict: Predict,
    codes: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: GoogleSamplerConfig,
    seed: rng.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Google's sampler (arXiv 2202.04200, section 3.2, and its released ``parallel_decode``).

    As the paper's, but how many codes each step keeps follows
    :func:`~maskgit_cli.sampling.schedules.google_tokens_per_step`, and the confidence is
    log p(code) + choice_temp · (1 − (i+1)/S) · Gumbel noise.

    Arguments, result and errors are those of :func:`confidence_sampler`; the rule for the numbers of
    codes raises ConfigError, too, where it leaves a step without one.
    """

    def noisy(log_p: Tensor, step: int) -> Tensor:
        gumbel = rng.gumbel(seed, indices, step, log_p.shape[1]).to(log_p.device)
        return log_p + config.choice_temp * (1 - (step + 1) / config.steps) * gumbel

    return _most_confident_first(
        predict, codes, labels, indices, config, seed, mask_code, on_step,
        counts=lambda total: google_tokens_per_step(total, config.steps, config.schedule),
        noisy=noisy,
    )  # fmt: skip


def _most_confident_first(
    predict: Predict,
    codes: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: ConfidenceConfig | GoogleSamplerConfig,
    seed: rng.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None,
    counts: Callable[[int], list[int]],
    noisy: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """The loop of samplers that keep the codes with the highest confidence; see :func:`confidence_sampler`.

    Args:
        counts: how many codes each step keeps, for the number of codes that an image lacks.
        noisy: the confidence (B, N) of codes with log-probabilities (B, N) at a step.
    """
    grid = codes.shape[1:]
    draw = _drawer(predict, grid, labels, indices, config, seed, mask_code)
    codes = codes.flatten(1).clone()  # (B, N)
    kept_at = step_counts(codes == mask_code, config.steps, counts)  # (B, S)
    for i in range(config.steps):
        unknown = codes == mask_code  # (B, N)
        drawn, log_p = draw(codes, i, config.steps, config.sm_temp)  # each (B, N)
        confidence = noisy(log_p, i).masked_fill(~unknown, -torch.inf)
        kept = most_confident(confidence, kept_at[:, i])
        codes = torch.where(kept, drawn, codes)
        _report(on_step, grid, i, codes, drawn, kept, confidence)
    return codes.unflatten(1, grid)


@torch.no_grad()
def halton_sampler(
    predict: Predict,
    codes: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: HaltonSamplerConfig,
    seed: rng.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Halton-MaskGIT's sampler (arXiv 2503.17076): which codes a step keeps is known beforehand.

    The unknown positions are taken in :func:`~maskgit_cli.sampling.schedules.halton_order`, which ``roll``
    turns by a number of places drawn for each image. The softmax temperature goes from ``sm_temp`` to
    ``sm_temp_end`` over the steps. With ``redraw``, a step also replaces what earlier ones drew, as the
    published code does; codes known from the start stay all the same. A step's confidence is log p(code).

    Arguments, result and errors are those of :func:`confidence_sampler`. The grid must be square.
    """
    grid = codes.shape[1:]
    draw = _drawer(predict, grid, labels, indices, config, seed, mask_code)
    codes = codes.flatten(1).clone()  # (B, N)
    wanted = codes == mask_code
    counts = step_counts(wanted, config.steps, lambda total: halton_tokens_per_step(total, config.steps))
    places = _halton_places(grid, wanted, indices, seed, config.roll)  # (B, N)
    temperatures = torch.linspace(config.sm_temp, config.sm_temp_end, config.steps, device="cpu").tolist()
    for i in range(config.steps):
        unknown = codes == mask_code  # (B, N)
        drawn, log_p = draw(codes, i, config.steps, temperatures[i])  # each (B, N)
        reached = wanted & (places < counts[:, : i + 1].sum(1, keepdim=True))
        codes = torch.where(reached if config.redraw else reached & unknown, drawn, codes)
        _report(on_step, grid, i, codes, drawn, reached & unknown, log_p.masked_fill(~unknown, -torch.inf))
    return codes.unflatten(1, grid)


def _halton_places(grid: torch.Size, wanted: Tensor, indices: Tensor, seed: rng.Seed, roll: bool) -> Tensor:
    """Place of each position in an image's order (B, N), counted among its wanted ones (B, N) only."""
    assert grid[0] == grid[1], f"the Halton order is for square grids, not {tuple(grid)}"
    positions = wanted.shape[1]
    order = torch.tensor(halton_order(grid[0]), device=wanted.device)  # (N,)
    shift = torch.zeros_like(indices)
    if roll:
        shift = (rng.uniform(seed, indices, 0, 1, rng.ROLL)[:, 0] * positions).long().to(wanted.device)
    first = torch.arange(positions, device=wanted.device) - shift[:, None]  # (B, N)
    order = order[first % positions]  # position that comes first, second, ... in each image
    passed = wanted.gather(1, order).cumsum(1) - 1
    return torch.zeros_like(order).scatter(1, order, passed)


@torch.no_grad()
def raster_sampler(
    predict: Predict,
    codes: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: RasterConfig,
    seed: rng.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Autoregressive drawing, one code a pass and row by row: what the paper's 64× is measured against.

    Guidance follows the position, p/(N−1) of the way at position p of N. A pass is saved where no image
    has an unknown code at a position. A step's confidence is log p(code).

    Arguments, result and errors are those of :func:`confidence_sampler`.
    """
    grid = codes.shape[1:]
    draw = _drawer(predict, grid, labels, indices, config, seed, mask_code)
    codes = codes.flatten(1).clone()  # (B, N)
    columns = torch.arange(codes.shape[1], device=codes.device)
    for position in columns.tolist():
        unknown = codes == mask_code  # (B, N)
        if not unknown[:, position].any():
            continue
        # Who watches sees what the network would draw everywhere; else one position is enough.
        where = slice(None) if on_step is not None else slice(position, position + 1)
        drawn, log_p = draw(codes, position, len(columns), config.sm_temp, where)  # (B, N) or (B, 1)
        kept = unknown & (columns == position)
        codes = torch.where(kept, drawn, codes)
        if on_step is not None:
            _report(on_step, grid, position, codes, drawn, kept, log_p.masked_fill(~unknown, -torch.inf))
    return codes.unflatten(1, grid)


def draw_samples(
    predict: Predict,
    codes: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: SamplerConfig,
    seed: rng.Seed,
    mask_code: int,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Fill the unknown codes with the sampler that the settings are for.

    Arguments, result and errors are those of :func:`confidence_sampler`.
    """
    samplers: dict[type[SamplerConfig], Callable[..., Tensor]] = {
        ConfidenceConfig: confidence_sampler,
        HaltonSamplerConfig: halton_sampler,
        GoogleSamplerConfig: google_sampler,
        RasterConfig: raster_sampler,
    }
    return samplers[type(config)](predict, codes, labels, indices, config, seed, mask_code, on_step)


def check_steps(config: SamplerConfig, unknown: int) -> None:
    """Refuse, before anything is drawn, settings that cannot draw an image with so many unknown codes.

    Raises:
        ConfigError: there are more steps than codes, or a step would be left without one.
    """
    if isinstance(config, ConfidenceConfig):
        tokens_per_step(unknown, config.steps, config.schedule)
    elif isinstance(config, GoogleSamplerConfig):
        google_tokens_per_step(unknown, config.steps, config.schedule)
    elif isinstance(config, HaltonSamplerConfig):
        halton_tokens_per_step(unknown, config.steps)


# --- what the samplers are made of ------------------------------------------------------------------


def _drawer(
    predict: Predict,
    grid: torch.Size,
    labels: Tensor,
    indices: Tensor,
    config: SamplerConfig,
    seed: rng.Seed,
    mask_code: int,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function that predicts and draws codes (B, N) at a step, and gives their log-probabilities (B, N)."""

    def draw(
        codes: Tensor, step: int, steps: int, sm_temp: float, where: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Codes drawn at the positions ``where``, and their log-probabilities."""
        weight = guidance_weight(config.cfg, step, steps, config.ramp, config.cfg_interval)
        logits = guided_logits(predict, codes.unflatten(1, grid), labels, weight)  # (B, N, K or K+1)
        u = rng.uniform(seed, indices, step, codes.shape[1], rng.TOKEN).to(codes.device)  # (B, N)
        return draw_codes(logits[:, where, :mask_code], u[:, where], sm_temp, config.top_k)

    return draw


def _report(on_step: Callable[[Step], None] | None, grid: torch.Size, number: int, *values: Tensor) -> None:
    """Show a step's codes, drawn codes, kept ones and confidences, each (B, N), to whoever watches."""
    if on_step is not None:
        on_step(Step(number, *(value.unflatten(1, grid) for value in values)))


def step_counts(unknown: Tensor, steps: int, rule: Callable[[int], list[int]]) -> Tensor:
    """How many codes each step makes known: integers (B, S) for unknown positions (B, N).

    An image with nothing unknown is left alone: its counts are 0.

    Args:
        unknown: True where a code is to be drawn.
        steps: S.
        rule: gives the S counts for a total.

    Raises:
        ConfigError: an image has fewer unknown codes than there are steps.
    """
    totals = unknown.sum(1).tolist()
    rows = {total: rule(total) if total else [0] * steps for total in set(totals)}
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


def draw_codes(logits: Tensor, u: Tensor, sm_temp: float, top_k: int = 0) -> tuple[Tensor, Tensor]:
    """Draw a code at every position by the inverse of the cumulative distribution.

    Probabilities are softmax(sm_temp · logits): the paper's temperature multiplies. They are summed
    as integers: a sum of integers is exact in any order, so the parallel sums of a GPU give the same
    code as a CPU, the last sum is the true total, and a code of probability 0 is never drawn, however
    near to 1 the uniform number is.

    Args:
        logits: (B, N, K) for the codes alone, without the mask.
        u: uniform numbers (B, N) in (0, 1), float64.
        sm_temp: factor on the logits.
        top_k: only the k most probable codes of a position are drawn, and their probabilities scaled up
            to make 1; of equals the lower code counts as more probable. 0 is all of them.

    Returns:
        Codes (B, N) and their log-probabilities (B, N), float64.
    """
    parts = [
        _draw_part(part, numbers, sm_temp, top_k)
        for part, numbers in zip(logits.split(ROWS), u.split(ROWS), strict=True)
    ]
    codes, log_p = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(log_p)


def _draw_part(logits: Tensor, u: Tensor, sm_temp: float, top_k: int) -> tuple[Tensor, Tensor]:
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(~_highest(logits, top_k), -torch.inf)
    log_p = torch.log_softmax(sm_temp * logits.double(), dim=-1)  # (B, N, K)
    weights = (log_p.exp() * 2.0**PROBABILITY_BITS).to(torch.int64)
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1]  # (B, N)
    target = torch.minimum((u * total).to(torch.int64), total - 1)  # a whole number in [0, total)
    codes = torch.searchsorted(cumulative, target.unsqueeze(-1), right=True)  # the first sum beyond it
    return codes.squeeze(-1), log_p.gather(-1, codes).squeeze(-1)


def _highest(logits: Tensor, k: int) -> Tensor:
    """True at exactly k of the logits (B, N, K) of each position; of equals the first ones."""
    least = logits.topk(k, dim=-1).values[..., -1:]  # (B, N, 1)
    above, equal = logits > least, logits == least
    room = k - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def noisy_confidence(
    log_p: Tensor, indices: Tensor, step: int, config: ConfidenceConfig, seed: rng.Seed
) -> Tensor:
    """Confidences float64 (B, N) of drawn codes with log-probabilities (B, N), at step i of S.

    ``linear`` adds gumbel_temp · (1 − i/(S−1)) · Gumbel noise, which ends at 0; so does a single step.
    ``random`` takes noise instead of the probability, so that any position is as good as another;
    ``warm-up`` does so at the first two steps only. ``none`` is the log-probability alone.
    """
    at_random = config.noise == "random" or (config.noise == "warm-up" and step < WARM_UP_STEPS)
    if not at_random and config.noise != "linear":
        return log_p
    gumbel = rng.gumbel(seed, indices, step, log_p.shape[1]).to(log_p.device)
    if at_random:
        return gumbel
    left = 1 - step / (config.steps - 1) if config.steps > 1 else 0.0
    return log_p + config.gumbel_temp * left * gumbel


def most_confident(confidence: Tensor, counts: Tensor) -> Tensor:
    """True (B, N) at exactly ``counts`` (B,) positions of each image; of equals the first one wins."""
    order = confidence.argsort(dim=1, descending=True, stable=True)  # (B, N)
    best = torch.arange(confidence.shape[1], device=confidence.device) < counts.unsqueeze(1)
    return torch.zeros_like(best).scatter(1, order, best)
