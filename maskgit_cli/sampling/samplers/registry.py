"""Finds the sampler of some settings: ``maskgit_cli/sampling/samplers/METHOD.py`` has it as ``SAMPLER``."""

from __future__ import annotations

import importlib

from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.samplers import SAMPLERS, SamplerConfig
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers.core import OnStep, Predict, Sampler


def sampler_of(config: SamplerConfig) -> Sampler:
    """The sampler that the settings are for.

    Raises:
        ConfigError: they are not settings of a registered sampler.
    """
    kind = type(config)
    known = kind in SAMPLERS.values()
    require(known, "sampler", kind.__name__, "settings of one of " + ", ".join(SAMPLERS))
    sampler = importlib.import_module(f"maskgit_cli.sampling.samplers.{config.method}").SAMPLER
    assert sampler.config is kind, f"{config.method}.py is for {sampler.config}"
    return sampler


def step_counts(config: SamplerConfig, total: int) -> list[int]:
    """Numbers of tokens that each step keeps for an image with ``total`` masked ones, 1 or more.

    Raises:
        ConfigError: the sampler cannot do that, as there are more steps than tokens, say; or it is unknown.
    """
    return sampler_of(config).counts(config, total)


def sample_tokens(
    predict: Predict,
    tokens: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: SamplerConfig,
    seed: rng.Seed,
    mask_token: int,
    on_step: OnStep = None,
) -> Tensor:
    """Fill the masked tokens with the sampler that the settings are for.

    Args:
        predict: the network; its inputs are on the device of ``tokens``.
        tokens: integers (B, h, w), ``mask_token`` where one is to be sampled; the others never change.
        labels: class of each image (B,), -1 for none, on the same device.
        indices: number of each image in the whole set (B,): with the seed, all that its random
            numbers depend on.
        config: the sampler's settings.
        seed: of every random number; one for all images, or one for each (B,).
        mask_token: K, the token of a masked position.
        on_step: called after each step.

    Returns:
        Tokens (B, h, w), all in [0, K) where ``tokens`` was masked.

    Raises:
        ConfigError: an image has fewer masked tokens than there are steps, or the sampler is unknown.
        ArtifactError: the network returns NaN or infinite logits.
    """
    run = sampler_of(config).run
    return run(predict, tokens, labels, indices, config, seed, mask_token, on_step)
