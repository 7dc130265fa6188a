"""Google's sampler (arXiv 2202.04200, section 3.2, and ``parallel_decode`` of its JAX release)."""

from __future__ import annotations

import torch
from torch import Tensor

from maskgit_cli.config.arguments import checked
from maskgit_cli.config.samplers import GoogleSamplerConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers.core import (
    OnStep,
    Predict,
    Sampler,
    begin,
    counts_per_image,
    most_confident,
)
from maskgit_cli.sampling.schedules import check_steps, evenly_spaced, mask_ratio


@torch.no_grad()
@checked
def google_sampler(
    predict: Predict,
    tokens: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: GoogleSamplerConfig,
    seed: rng.Seed,
    mask_token: int,
    on_step: OnStep = None,
) -> Tensor:
    """Google's sampler: confidence-ranked as the paper's, with another schedule and other noise.

    The number of tokens that each step keeps is that of :func:`google_tokens_per_step`, and the confidence
    is log p(token) + choice_temp · (1 − (i+1)/S) · Gumbel noise.

    Arguments, result and errors are those of
    :func:`~maskgit_cli.sampling.samplers.registry.sample_tokens`.
    """
    batch, tokens = begin(predict, tokens, labels, indices, config, seed, mask_token, on_step)
    counts = counts_per_image(tokens == mask_token, step_counts, config)  # (B, S)
    for step in range(counts.shape[1]):
        masked = tokens == mask_token  # (B, N)
        sampled, log_p = batch.sample(tokens, step, config.steps, config.sm_temp)  # each (B, N)
        gumbel = rng.gumbel(seed, indices, step, log_p.shape[1]).to(log_p.device)
        noise = config.choice_temp * (1 - (step + 1) / config.steps) * gumbel
        confidence = (log_p + noise).masked_fill(~masked, -torch.inf)
        kept = most_confident(confidence, counts[:, step])
        tokens = torch.where(kept, sampled, tokens)
        batch.report(tokens, sampled, kept, confidence)
    return batch.result(tokens)


def google_tokens_per_step(total: int, steps: int, schedule: str) -> list[int]:
    """Numbers of tokens kept at each of S steps by Google's rule (arXiv 2202.04200, section 3.2).

    After step i, ⌊total · γ((i+1)/S)⌋ tokens are masked, but no fewer than 1 and at least one fewer than
    before; the last step keeps all that are left. γ is evaluated in float32.

    Args:
        total: number of masked tokens, 1 or more.
        steps: S, 1 or more.
        schedule: γ, see :func:`~maskgit_cli.sampling.schedules.mask_ratio`.

    Raises:
        ConfigError: there are more steps than tokens, no steps, the schedule is unknown, or the rule leaves
            a step without a token (some schedules with nearly as many steps as tokens).
    """
    check_steps(total, steps)
    masked = [total]
    for share in (total * mask_ratio(evenly_spaced(steps), schedule)).floor().tolist()[:-1]:
        masked.append(max(1, min(int(share), masked[-1] - 1)))
    counts = [before - after for before, after in zip(masked, [*masked[1:], 0], strict=True)]
    if min(counts) < 1:
        raise ConfigError(
            f"--steps {steps}: with --schedule {schedule}, this sampler has no token left for some of the "
            f"steps that sample {total} tokens; use fewer steps"
        )
    return counts


def step_counts(config: GoogleSamplerConfig, total: int) -> list[int]:
    """Numbers of tokens kept at each step, see :func:`google_tokens_per_step`."""
    return google_tokens_per_step(total, config.steps, config.schedule)


SAMPLER = Sampler(config=GoogleSamplerConfig, counts=step_counts, run=google_sampler)
