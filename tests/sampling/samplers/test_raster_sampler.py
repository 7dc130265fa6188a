"""Raster-order autoregressive decoding, and the joint distribution of samplers with a fixed order."""

import pytest
import torch
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import HaltonSamplerConfig, RasterConfig
from maskgit_cli.sampling.samplers.raster import raster_sampler
from maskgit_cli.sampling.samplers.registry import sample_tokens


def test_one_token_per_forward_pass_row_by_row():
    forward_passes, steps = [], []
    network = toy_network(5, 9)

    def counting(tokens, labels, drop):
        forward_passes.append(len(tokens))
        return network(tokens, labels, drop)

    raster_sampler(counting, *blank(1, 3, 3, 5), RasterConfig(cfg=0.0), 0, 5, steps.append)
    assert forward_passes == [1] * 9
    assert [int(step.kept.flatten().nonzero()) for step in steps] == list(range(9))


def test_on_step_changes_nothing():
    network = toy_network(5, 9)
    without = raster_sampler(network, *blank(6, 3, 3, 5), RasterConfig(cfg=1.5), 0, 5)
    watched = raster_sampler(network, *blank(6, 3, 3, 5), RasterConfig(cfg=1.5), 0, 5, lambda step: None)
    assert torch.equal(without, watched)


JOINT = torch.tensor([[0.10, 0.25, 0.05], [0.02, 0.08, 0.20], [0.15, 0.05, 0.10]])  # p(first, second)


def joint_network(tokens, labels, drop):
    """The exact conditionals of JOINT for the first two positions; the others always get token 0."""
    first, second = tokens.flatten(1)[:, :2].T
    p = torch.zeros(len(tokens), tokens[0].numel(), 4)
    p[..., 0] = 1
    p[:, 0, :3] = torch.cat([JOINT.T, JOINT.sum(1)[None]])[second]  # the last row: masked
    p[:, 1, :3] = torch.cat([JOINT, JOINT.sum(0)[None]])[first]
    return p.clamp(min=1e-30).log()


@pytest.mark.parametrize(
    "config", [RasterConfig(cfg=0.0), HaltonSamplerConfig(steps=4, cfg=0.0, sm_temp_end=1.0)]
)
def test_fixed_orders_have_the_joint_distribution(config):
    """One token per step in an order that does not depend on the tokens is sampling by the chain rule."""
    n = 20_000
    sampled = sample_tokens(joint_network, *blank(n, 2, 2, 3), config, 5, 3).flatten(1)
    counts = torch.bincount(sampled[:, 0] * 3 + sampled[:, 1], minlength=9).float()
    wanted = n * JOINT.flatten()
    assert ((counts - wanted) ** 2 / wanted).sum().item() < 27.9  # 8 degrees of freedom: 99.95 % quantile
    assert (sampled[:, 2:] == 0).all()
