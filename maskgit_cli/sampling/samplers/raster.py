"""Raster-order autoregressive decoding: one token per step, the baseline of the paper's speed-up of 64×."""

from __future__ import annotations

import torch
from torch import Tensor

from maskgit_cli.config.arguments import checked
from maskgit_cli.config.samplers import RasterConfig
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers.core import OnStep, Predict, Sampler, begin


@torch.no_grad()
@checked
def raster_sampler(
    predict: Predict,
    tokens: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: RasterConfig,
    seed: rng.Seed,
    mask_token: int,
    on_step: OnStep = None,
) -> Tensor:
    """Autoregressive decoding in raster order, one token per step.

    The guidance ramp follows the position, p/(N−1) at position p of N. The step of a position at which no
    image is masked is skipped. The confidence of a step is log p(token).

    Arguments, result and errors are those of
    :func:`~maskgit_cli.sampling.samplers.registry.sample_tokens`.
    """
    batch, tokens = begin(predict, tokens, labels, indices, config, seed, mask_token, on_step)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    for position in columns.tolist():
        masked = tokens == mask_token  # (B, N)
        if not masked[:, position].any():
            continue
        # on_step gets the samples of all positions; without it this one is enough.
        where = slice(None) if on_step is not None else slice(position, position + 1)
        sampled, log_p = batch.sample(tokens, position, len(columns), config.sm_temp, where)
        kept = masked & (columns == position)
        tokens = torch.where(kept, sampled, tokens)  # sampled is (B, N) or (B, 1)
        if on_step is not None:
            batch.report(tokens, sampled, kept, log_p.masked_fill(~masked, -torch.inf))
    return batch.result(tokens)


def step_counts(config: RasterConfig, total: int) -> list[int]:
    """Numbers of tokens kept at each step: always one."""
    return [1] * total


SAMPLER = Sampler(config=RasterConfig, counts=step_counts, run=raster_sampler)
