"""The confidence sampler over toy networks: guidance, noise, frequencies. What holds for all samplers is in
test_published_samplers.py."""

import dataclasses
import itertools

import pytest
import torch
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import SAMPLERS, ConfidenceConfig, RasterConfig
from maskgit_cli.errors import ArtifactError, ConfigError
from maskgit_cli.sampling.samplers import (
    confidence_sampler,
    draw_codes,
    draw_samples,
    guided_logits,
    most_confident,
)


def test_seeds_and_indices_make_a_difference():
    codes, labels, indices = blank(4, 3, 3, 5)
    network, config = toy_network(5, 9), ConfidenceConfig(steps=3)
    drawn = [confidence_sampler(network, codes, labels, indices, config, seed, 5) for seed in (0, 1)]
    assert len(torch.cat(drawn).flatten(1).unique(dim=0)) > 4


def test_too_many_steps_and_networks_that_give_nan():
    codes, labels, indices = blank(1, 2, 2, 5)
    with pytest.raises(ConfigError, match="--steps 5: there are 4 tokens"):
        confidence_sampler(toy_network(5, 4), codes, labels, indices, ConfidenceConfig(steps=5), 0, 5)
    with pytest.raises(ArtifactError, match="the checkpoint gives NaN"):
        confidence_sampler(
            lambda c, label, drop: torch.full((len(c), 4, 6), torch.nan),
            codes, labels, indices, ConfidenceConfig(steps=2), 0, 5,
        )  # fmt: skip


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("seed", [3, torch.arange(3)])
@pytest.mark.parametrize("kind", SAMPLERS.values(), ids=SAMPLERS)
def test_every_tensor_is_where_the_codes_are(kind, seed, top_k):
    """PyTorch puts on "meta" here what names no device, and that mixes with nothing and has no numbers."""

    def predict(codes, labels, drop):
        assert {codes.device.type, labels.device.type, drop.device.type} == {"cpu"}
        return torch.zeros(len(codes), 16, 6, device="cpu")

    config = kind(top_k=top_k, **({} if kind is RasterConfig else {"steps": 4}))
    codes, labels, indices = blank(3, 4, 4, 5)
    with torch.device("meta"):
        result = draw_samples(predict, codes, labels, indices, config, seed, 5, lambda step: None)
    assert (result < 5).all()


# --- guidance ---------------------------------------------------------------------------------------


def test_guidance_is_one_plus_w_times_cond_minus_w_times_uncond():
    network = toy_network(3, 4)
    codes, labels = torch.tensor([[[0, 1], [2, 3]], [[3, 3], [3, 0]]]), torch.tensor([0, 1])
    off, on = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    cond, uncond = network(codes, labels, off), network(codes, labels, on)
    assert torch.equal(guided_logits(network, codes, labels, 0.0), cond)
    assert torch.allclose(guided_logits(network, codes, labels, 2.5), 3.5 * cond - 2.5 * uncond)


@pytest.mark.parametrize(
    ("ramp", "passes"),
    [("none", [1, 1, 1]), ("linear", [1, 2, 2]), ("constant", [2, 2, 2]), ("cosine", [1, 2, 2])],
)
def test_there_is_no_unconditional_pass_where_the_weight_is_0(ramp, passes):
    network, seen = toy_network(5, 4), []

    def counting(codes, labels, drop):
        seen.append(len(codes))
        return network(codes, labels, drop)

    confidence_sampler(counting, *blank(1, 2, 2, 5), ConfidenceConfig(steps=3, cfg=2.0, ramp=ramp), 0, 5)
    assert seen == passes


def test_guidance_moves_towards_the_class():
    """Two classes, each with its own favorite code; unconditionally both are as likely."""

    def predict(codes, labels, drop):
        logits = torch.zeros(len(codes), 1, 4)
        logits[:, 0, 0] = torch.where(drop, 0.5, (labels == 0).float())
        logits[:, 0, 1] = torch.where(drop, 0.5, (labels == 1).float())
        return logits

    def share(cfg):
        codes, _, indices = blank(2000, 1, 1, 3)
        labels = indices % 2
        config = ConfidenceConfig(steps=1, cfg=cfg)
        drawn = confidence_sampler(predict, codes, labels, indices, config, 0, 3).flatten()
        return (drawn == labels).float().mean().item()

    # softmax over (1 + w/2, −w/2, 0) for the class's own code, the other's, and the third.
    for cfg in (0.0, 4.0):
        logits = torch.tensor([1 + cfg / 2, -cfg / 2, 0.0])
        assert share(cfg) == pytest.approx(logits.softmax(0)[0].item(), abs=0.04)


# --- drawing ----------------------------------------------------------------------------------------


def test_draw_codes_inverts_the_cumulative_distribution():
    p = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    u = torch.tensor([[1e-12, 0.1999, 0.2001, 0.6999, 0.7001, 1 - 1e-12]], dtype=torch.float64)
    codes, log_p = draw_codes(p.log().expand(1, 6, 4), u, 1.0)
    assert codes.tolist() == [[0, 0, 2, 2, 3, 3]]
    assert torch.allclose(log_p.exp(), p[codes])


def test_a_code_without_probability_is_never_drawn():
    logits = torch.tensor([-torch.inf, 1.0, -torch.inf, 0.3, -torch.inf, -torch.inf]).expand(1, 2, 6)
    smallest, largest = 2.0**-53, 1 - 2.0**-53
    codes, log_p = draw_codes(logits, torch.tensor([[smallest, largest]], dtype=torch.float64), 1.0)
    assert codes.tolist() == [[1, 3]]
    assert log_p.isfinite().all()


def test_the_softmax_temperature_multiplies():
    logits = torch.tensor([[[0.0, 1.0, 2.0]]])
    u = torch.tensor([[0.5]], dtype=torch.float64)
    _, log_p = draw_codes(logits, u, 3.0)
    assert log_p.item() == pytest.approx((3 * logits.double()).log_softmax(-1).max().item())


def test_equal_confidences_go_to_the_first_position():
    confidence = torch.tensor([[0.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [-torch.inf, 0.0, -1.0, 5.0]])
    kept = most_confident(confidence, torch.tensor([2, 3, 0]))
    assert kept.tolist() == [[False, True, True, False], [True, True, True, False], [False] * 4]


# --- noise on the confidence ------------------------------------------------------------------------


def test_gumbel_noise_at_temperature_0_is_greedy():
    codes, labels, indices = blank(6, 3, 3, 5)
    network = toy_network(5, 9)
    noisy = ConfidenceConfig(steps=4, gumbel_temp=0.0, noise="linear")
    results = [
        confidence_sampler(network, codes, labels, indices, config, 0, 5)
        for config in (noisy, dataclasses.replace(noisy, noise="none"))
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("noise", "greedy"), [("none", [1, 1, 1, 1]), ("warm-up", [0, 0, 1, 1]), ("random", [0] * 4)]
)
def test_noise_decides_in_which_steps_the_most_confident_codes_are_kept(noise, greedy):
    steps = []
    config = ConfidenceConfig(steps=4, noise=noise, schedule="root")
    confidence_sampler(toy_network(5, 9), *blank(30, 3, 3, 5), config, 0, 5, steps.append)
    for step, expected in zip(steps, greedy, strict=True):
        p = step.confidence[step.confidence.isfinite()]
        assert bool((p <= 0).all()) == bool(expected)  # a log-probability, not Gumbel noise


def test_linear_noise_falls_to_nothing():
    steps = []
    config = ConfidenceConfig(steps=3, gumbel_temp=100.0)
    confidence_sampler(toy_network(5, 9), *blank(20, 3, 3, 5), config, 0, 5, steps.append)
    spread = [step.confidence[step.confidence.isfinite()].std().item() for step in steps]
    assert spread[0] > 1.5 * spread[1] > 20 * spread[2]
    assert (steps[-1].confidence <= 0).all()


# --- frequencies ------------------------------------------------------------------------------------

JOINT = torch.tensor([[0.10, 0.25, 0.05], [0.02, 0.08, 0.20], [0.15, 0.05, 0.10]])  # p(first, second)


def joint_network(codes, labels, drop):
    """The exact conditionals of JOINT for two positions."""
    first, second = codes.flatten(1).T
    p = torch.zeros(len(codes), 2, 4)
    p_first = torch.cat([JOINT.T, JOINT.sum(1)[None]])[second]  # the last row: second is not known
    p_second = torch.cat([JOINT, JOINT.sum(0)[None]])[first]
    p[:, 0, :3], p[:, 1, :3] = p_first, p_second
    return p.log()


def greedy_distribution():
    """What keeping the likelier of two drawn codes first does to JOINT, by going through all cases."""
    result = torch.zeros(3, 3)
    p_first, p_second = JOINT.sum(1), JOINT.sum(0)
    for a, b in itertools.product(range(3), repeat=2):
        chance = p_first[a] * p_second[b]
        if p_first[a] >= p_second[b]:
            result[a] += chance * JOINT[a] / p_first[a]
        else:
            result[:, b] += chance * JOINT[:, b] / p_second[b]
    return result


@pytest.mark.parametrize(("noise", "expected"), [("random", JOINT), ("none", greedy_distribution())])
def test_one_code_a_step_has_the_closed_form_frequencies(noise, expected):
    n = 20_000
    config = ConfidenceConfig(steps=2, cfg=0.0, noise=noise)
    drawn = confidence_sampler(joint_network, *blank(n, 1, 2, 3), config, 5, 3).flatten(1)
    counts = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9).float()
    wanted = n * expected.flatten()
    chi_square = ((counts - wanted) ** 2 / wanted).sum().item()
    assert chi_square < 27.9  # 8 degrees of freedom: 99.95 % quantile
    assert not torch.allclose(JOINT, greedy_distribution(), atol=0.01)
