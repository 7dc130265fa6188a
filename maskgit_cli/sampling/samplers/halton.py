"""Halton-MaskGIT's sampler (arXiv 2503.17076): tokens are kept in the order of a Halton sequence."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from maskgit_cli.config.arguments import checked
from maskgit_cli.config.samplers import HaltonSamplerConfig
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers.core import OnStep, Predict, Sampler, begin, counts_per_image
from maskgit_cli.sampling.schedules import check_steps, evenly_spaced, mask_ratio


@torch.no_grad()
@checked
def halton_sampler(
    predict: Predict,
    tokens: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: HaltonSamplerConfig,
    seed: rng.Seed,
    mask_token: int,
    on_step: OnStep = None,
) -> Tensor:
    """Halton-MaskGIT's sampler: the positions that a step keeps are fixed beforehand.

    Masked positions are kept in :func:`halton_order`, which ``roll`` shifts cyclically by a random offset per
    image. The softmax temperature goes from ``sm_temp`` to ``sm_temp_end`` over the steps. With ``redraw``, a
    step also resamples the tokens of earlier ones, as the published code does; tokens that were given never
    change. The confidence of a step is log p(token).

    Arguments, result and errors are those of
    :func:`~maskgit_cli.sampling.samplers.registry.sample_tokens`. The grid must be square.
    """
    batch, tokens = begin(predict, tokens, labels, indices, config, seed, mask_token, on_step)
    given = tokens != mask_token  # (B, N)
    counts = counts_per_image(~given, step_counts, config)  # (B, S)
    ranks = _ranks(batch.grid, ~given, indices, seed, config.roll)  # (B, N)
    temperatures = torch.linspace(config.sm_temp, config.sm_temp_end, config.steps, device="cpu").tolist()
    for step in range(counts.shape[1]):
        masked = tokens == mask_token  # (B, N)
        sampled, log_p = batch.sample(tokens, step, config.steps, temperatures[step])  # each (B, N)
        reached = ~given & (ranks < counts[:, : step + 1].sum(1, keepdim=True))
        tokens = torch.where(reached if config.redraw else reached & masked, sampled, tokens)
        batch.report(tokens, sampled, reached & masked, log_p.masked_fill(~masked, -torch.inf))
    return batch.result(tokens)


def _ranks(grid: torch.Size, masked: Tensor, indices: Tensor, seed: rng.Seed, roll: bool) -> Tensor:
    """Rank of each position in its image's order (B, N), counted among the masked ones (B, N) only."""
    assert grid[0] == grid[1], f"the Halton order is for square grids, not {tuple(grid)}"
    positions = masked.shape[1]
    order = torch.tensor(halton_order(grid[0]), device=masked.device)  # (N,)
    offset = torch.zeros(len(masked), dtype=torch.int64, device=masked.device)
    if roll:
        offset = (rng.uniform(seed, indices, 0, 1, rng.ROLL)[:, 0] * positions).long().to(masked.device)
    first = torch.arange(positions, device=masked.device) - offset[:, None]  # (B, N)
    order = order[first % positions]  # the position that is first, second, ... in each image
    ranks = masked.gather(1, order).cumsum(1) - 1
    return torch.zeros_like(order).scatter(1, order, ranks)


def halton_tokens_per_step(total: int, steps: int) -> list[int]:
    """Numbers of tokens kept at each of S steps by Halton-MaskGIT's rule (arXiv 2503.17076).

    After step i, max(i+1, ⌊total · (1 − arccos((i+1)/S)/(π/2))⌋) tokens are kept, in float32 as published.

    Args:
        total: number of masked tokens, 1 or more.
        steps: S, 1 or more.

    Raises:
        ConfigError: there are more steps than tokens, or no steps.
    """
    check_steps(total, steps)
    shares = 1 - mask_ratio(evenly_spaced(steps), "arccos")
    kept = [max(i + 1, int(share)) for i, share in enumerate((shares * total).tolist())]
    return [after - before for before, after in zip([0, *kept[:-1]], kept, strict=True)]


@functools.lru_cache(maxsize=8)
def halton_order(grid: int) -> tuple[int, ...]:
    """The order of Halton-MaskGIT in the positions of a grid (arXiv 2503.17076, section 4).

    The points of the two-dimensional Halton sequence with bases 2 (rows) and 3 (columns), from its first
    point on, fall into the cells of the grid; a cell's rank is that of its first point. The points fill the
    image evenly, so that tokens of one step are far from one another.

    Args:
        grid: cells per side.

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
    """The cell, of so many equal ones of [0, 1), of an index's mirrored digits 0.d₀d₁… in a base."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * cells // denominator


def step_counts(config: HaltonSamplerConfig, total: int) -> list[int]:
    """Numbers of tokens kept at each step, see :func:`halton_tokens_per_step`."""
    return halton_tokens_per_step(total, config.steps)


SAMPLER = Sampler(config=HaltonSamplerConfig, counts=step_counts, run=halton_sampler)
