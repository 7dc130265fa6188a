"""The paper's sampler: confidence-ranked parallel decoding (arXiv 2310.14400, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from maskgit_cli.config.arguments import checked
from maskgit_cli.config.samplers import ConfidenceConfig
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers.core import (
    OnStep,
    Predict,
    Sampler,
    begin,
    counts_per_image,
    most_confident,
)
from maskgit_cli.sampling.schedules import check_steps, mask_ratio

# Steps of the ``warm-up`` noise that keep tokens at random.
WARM_UP_STEPS = 2


@torch.no_grad()
@checked
def confidence_sampler(
    predict: Predict,
    tokens: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: ConfidenceConfig,
    seed: rng.Seed,
    mask_token: int,
    on_step: OnStep = None,
) -> Tensor:
    """The paper's sampler (arXiv 2310.14400, section 3; MaskGIT, arXiv 2202.04200, section 3.2).

    Each of S steps predicts every masked token, samples one at each position, and keeps the n_i most
    confident. The confidence is log p(token) with noise as ``config.noise`` says.

    Arguments, result and errors are those of
    :func:`~maskgit_cli.sampling.samplers.registry.sample_tokens`.
    """
    batch, tokens = begin(predict, tokens, labels, indices, config, seed, mask_token, on_step)
    counts = counts_per_image(tokens == mask_token, step_counts, config)  # (B, S)
    for step in range(counts.shape[1]):
        masked = tokens == mask_token  # (B, N)
        sampled, log_p = batch.sample(tokens, step, config.steps, config.sm_temp)  # each (B, N)
        confidence = noisy_confidence(log_p, indices, step, config, seed).masked_fill(~masked, -torch.inf)
        kept = most_confident(confidence, counts[:, step])
        tokens = torch.where(kept, sampled, tokens)
        batch.report(tokens, sampled, kept, confidence)
    return batch.result(tokens)


def noisy_confidence(
    log_p: Tensor, indices: Tensor, step: int, config: ConfidenceConfig, seed: rng.Seed
) -> Tensor:
    """Confidences float64 (B, N) of tokens with log-probabilities (B, N), at step i of S.

    ``linear`` adds gumbel_temp · (1 − i/(S−1)) · Gumbel noise, which ends at 0; so does a single step.
    ``random`` is noise instead of the log-probability, so that all positions are equally likely;
    ``warm-up`` is that at the first two steps only. ``none`` is the log-probability alone.
    """
    random = config.noise == "random" or (config.noise == "warm-up" and step < WARM_UP_STEPS)
    if not random and config.noise != "linear":
        return log_p
    gumbel = rng.gumbel(seed, indices, step, log_p.shape[1]).to(log_p.device)
    if random:
        return gumbel
    remaining = 1 - step / (config.steps - 1) if config.steps > 1 else 0.0
    return log_p + config.gumbel_temp * remaining * gumbel


def tokens_per_step(total: int, steps: int, schedule: str) -> list[int]:
    """Numbers of tokens kept at each of S steps: all 1 or more, ``total`` in sum.

    The masking function at S values of r from 1 down to 0, divided by its sum, times ``total``, rounded
    in float32; zeros become 1, and the last step takes the difference to ``total``. These are the
    published numbers. They break down in two cases, for which the rule is this package's:

    - a single step has a sum of 0: it keeps all tokens;
    - the ones leave the last step less than 1: the step that keeps most gives one away, the latest
      of equals first, until the last step has 1.

    Args:
        total: number of masked tokens, 1 or more.
        steps: S, 1 or more.
        schedule: of the mask ratio, see :func:`~maskgit_cli.sampling.schedules.mask_ratio`.

    Raises:
        ConfigError: there are more steps than tokens, no steps, or the schedule is unknown.
    """
    check_steps(total, steps)
    ratios = mask_ratio(torch.linspace(1, 0, steps, device="cpu"), schedule)
    if steps == 1:
        return [total]
    counts = [max(1, round(share)) for share in (ratios / ratios.sum() * total).tolist()]
    counts[-1] += total - sum(counts)
    while counts[-1] < 1:
        largest = max(range(steps - 1), key=lambda i: (counts[i], i))
        counts[largest] -= 1
        counts[-1] += 1
    return counts


def step_counts(config: ConfidenceConfig, total: int) -> list[int]:
    """Numbers of tokens kept at each step, see :func:`tokens_per_step`."""
    return tokens_per_step(total, config.steps, config.schedule)


SAMPLER = Sampler(config=ConfidenceConfig, counts=step_counts, run=confidence_sampler)
