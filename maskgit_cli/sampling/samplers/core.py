"""The arithmetic that samplers share: guidance, inverse-CDF sampling, top-k, confidence ranking, step counts.

A sampler is a free function that fills the masked tokens of a grid with any callable network,
``predict(tokens, labels, drop) -> logits``. All its randomness is from :mod:`maskgit_cli.runtime.rng`, so
image i depends on the seed, i and the network alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskgit_cli.config.samplers import SamplerConfig
from maskgit_cli.errors import ArtifactError
from maskgit_cli.runtime import rng
from maskgit_cli.runtime.distributed import float64_device
from maskgit_cli.sampling.schedules import guidance_weight

# predict(tokens (B, h, w), labels (B,), drop (B,) bool) -> logits (B, h·w, K or more); the mask's is last.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]

# Images whose probabilities are computed at a time: in float64 they are the largest tensors here.
ROWS = 8
# Probabilities become integers of this many bits; a uniform number has 53.
PROBABILITY_BITS = 52


class Step(NamedTuple):
    """The state after a decoding step, which ``on_step`` gets.

    Attributes:
        tokens: all tokens (B, h, w), the mask token where none is kept yet.
        sampled: the token (B, h, w) sampled at each position in this step, kept or not.
        kept: True (B, h, w) where this step unmasked a token.
        confidence: float64 (B, h, w), −inf where the token was unmasked before this step.
    """

    tokens: Tensor
    sampled: Tensor
    kept: Tensor
    confidence: Tensor


OnStep = Callable[[Step], None] | None


class Sampler(NamedTuple):
    """A sampler's entry in its module.

    Attributes:
        config: class of its settings.
        counts: ``counts(config, total)``, the number of tokens kept at each step for so many masked ones:
            one entry per step, ``total`` in sum. It raises ConfigError where the settings cannot do that.
        run: the sampler, with the arguments of :func:`~maskgit_cli.sampling.samplers.registry.sample_tokens`.
    """

    config: type[SamplerConfig]
    counts: Callable[[Any, int], list[int]]
    run: Callable[..., Tensor]


class Batch(NamedTuple):
    """What stays the same over the steps for images that are sampled together.

    Attributes:
        predict: the network.
        labels: class of each image (B,), -1 for none.
        indices: number of each image in the whole set (B,).
        config: the sampler's settings.
        seed: of every random number; one for all images, or one for each (B,).
        mask_token: K.
        on_step: called after each step.
        grid: (h, w).
        device: of the network's inputs.
    """

    predict: Predict
    labels: Tensor
    indices: Tensor
    config: SamplerConfig
    seed: rng.Seed
    mask_token: int
    on_step: OnStep
    grid: torch.Size
    device: torch.device

    def sample(
        self, tokens: Tensor, step: int, steps: int, sm_temp: float, where: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Predict every position and sample a token there: tokens and log-probabilities, each (B, N).

        Args:
            tokens: the current ones (B, N).
            step: i, from 0.
            steps: S.
            sm_temp: softmax temperature of this step.
            where: positions to sample, if not all.
        """
        config = self.config
        weight = guidance_weight(config.cfg, step, steps, config.ramp, config.cfg_interval)
        inputs = tokens.unflatten(1, self.grid).to(self.device)
        logits = guided_logits(self.predict, inputs, self.labels, weight, self.mask_token)  # (B, N, K)
        u = rng.uniform(self.seed, self.indices, step, tokens.shape[1], rng.TOKEN)  # (B, N)
        logits = logits.to(tokens.device)
        return inverse_cdf(logits[:, where], u.to(tokens.device)[:, where], sm_temp, config.top_k)

    def report(self, *state: Tensor) -> None:
        """Call ``on_step`` with the members of a :class:`Step`, each (B, N)."""
        if self.on_step is not None:
            self.on_step(Step(*(x.unflatten(1, self.grid) for x in state)))

    def result(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) as the caller gets them: (B, h, w), on the device that they came from."""
        return tokens.unflatten(1, self.grid).to(self.device)


def begin(
    predict: Predict,
    tokens: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: SamplerConfig,
    seed: rng.Seed,
    mask_token: int,
    on_step: OnStep,
) -> tuple[Batch, Tensor]:
    """What a sampler's loop starts with: the batch, and its tokens (B, N) where they are worked on.

    Arguments are those of :func:`~maskgit_cli.sampling.samplers.registry.sample_tokens`.
    """
    batch = Batch(
        predict, labels, indices, config, seed, mask_token, on_step, tokens.shape[1:], tokens.device
    )
    return batch, tokens.flatten(1).clone().to(float64_device(tokens.device))


def counts_per_image(
    masked: Tensor, counts: Callable[[Any, int], list[int]], config: SamplerConfig
) -> Tensor:
    """Number of tokens that each step keeps: integers (B, S) for masked positions (B, N).

    An image without masked tokens has zeros; S is 0 where all are so.

    Args:
        masked: True where a token is to be sampled.
        counts: the sampler's own, see :class:`Sampler`.
        config: its settings.

    Raises:
        ConfigError: an image has fewer masked tokens than there are steps.
    """
    totals = masked.sum(1).tolist()
    rows = {total: counts(config, total) for total in set(totals) if total}
    rows[0] = [0] * max(map(len, rows.values()), default=0)
    return torch.tensor([rows[total] for total in totals], device=masked.device)


def guided_logits(predict: Predict, tokens: Tensor, labels: Tensor, weight: float, mask_token: int) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598, equation 6): (1 + w)·cond − w·uncond.

    Both go through the network as one batch of twice the size; at w = 0 only the conditional one does.

    Args:
        predict: the network.
        tokens: integers (B, h, w).
        labels: classes (B,).
        weight: w; papers that write s·cond + (1−s)·uncond have s = 1 + w.
        mask_token: K.

    Returns:
        Logits (B, h·w, K): the mask's own, where the network has one, is left out.

    Raises:
        ArtifactError: the network returns NaN or infinite logits.
    """
    with_label = torch.zeros_like(labels, dtype=torch.bool)
    if weight == 0:
        logits = predict(tokens, labels, with_label)[..., :mask_token]
    else:
        drop = torch.cat([with_label, ~with_label])
        both = predict(tokens.repeat(2, 1, 1), labels.repeat(2), drop)[..., :mask_token]
        cond, uncond = both.chunk(2)
        logits = (1 + weight) * cond - weight * uncond
    if not bool(logits.isfinite().all()):
        raise ArtifactError(
            "the checkpoint gives NaN or infinite logits: its weights are unusable; use another checkpoint"
        )
    return logits


def inverse_cdf(logits: Tensor, u: Tensor, sm_temp: float, top_k: int = 0) -> tuple[Tensor, Tensor]:
    """Sample a token at every position by inverse-CDF sampling.

    Probabilities are softmax(sm_temp · logits): the paper's temperature multiplies. They are summed
    as integers: a sum of integers is exact in any order, so the parallel sums of a GPU give the same
    token as a CPU, the last sum is the true total, and a token of probability 0 is never sampled, however
    near to 1 the uniform number is.

    Args:
        logits: (B, N, K), without the mask's.
        u: uniform numbers (B, N) in (0, 1), float64.
        sm_temp: factor on the logits.
        top_k: only the k most probable tokens of a position are sampled, and their probabilities scaled up
            to sum to 1; of equals the lower token counts as more probable. 0 is all of them.

    Returns:
        Tokens (B, N) and their log-probabilities (B, N), float64.
    """
    parts = [
        _inverse_cdf(part, numbers, sm_temp, top_k)
        for part, numbers in zip(logits.split(ROWS), u.split(ROWS), strict=True)
    ]
    tokens, log_p = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(log_p)


def _inverse_cdf(logits: Tensor, u: Tensor, sm_temp: float, top_k: int) -> tuple[Tensor, Tensor]:
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(~_highest(logits, top_k), -torch.inf)
    log_p = torch.log_softmax(sm_temp * logits.double(), dim=-1)  # (B, N, K)
    weights = (log_p.exp() * 2.0**PROBABILITY_BITS).to(torch.int64)
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1]  # (B, N)
    target = torch.minimum((u * total).to(torch.int64), total - 1)  # a whole number in [0, total)
    tokens = torch.searchsorted(cumulative, target.unsqueeze(-1), right=True)  # the first sum beyond it
    return tokens.squeeze(-1), log_p.gather(-1, tokens).squeeze(-1)


def _highest(logits: Tensor, k: int) -> Tensor:
    """True at exactly k of the logits (B, N, K) of each position; of equals the first ones."""
    least = logits.topk(k, dim=-1).values[..., -1:]  # (B, N, 1)
    above, equal = logits > least, logits == least
    room = k - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def most_confident(confidence: Tensor, counts: Tensor) -> Tensor:
    """True (B, N) at exactly ``counts`` (B,) positions of each image; of equals the first one wins."""
    order = confidence.argsort(dim=1, descending=True, stable=True)  # (B, N)
    best = torch.arange(confidence.shape[1], device=confidence.device) < counts.unsqueeze(1)
    return torch.zeros_like(best).scatter(1, order, best)
