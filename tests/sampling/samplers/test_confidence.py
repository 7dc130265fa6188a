"""The paper's sampler: numbers of tokens per step, noise on the confidence, frequencies."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import SCHEDULES, ConfidenceConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.sampling.samplers.confidence import confidence_sampler, tokens_per_step

DATA = Path(__file__).parent.parent.parent / "data"
GOLDEN = json.loads((DATA / "schedules_v1.json").read_text())

# --- tokens per step --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key, counts in GOLDEN.items() if min(counts) >= 1])
def test_published_numbers(key):
    grid, name, steps = key.split("/")
    assert tokens_per_step(int(grid.removeprefix("grid")) ** 2, int(steps), name) == GOLDEN[key]


@pytest.mark.parametrize("key", [key for key, counts in GOLDEN.items() if min(counts) < 1])
def test_where_the_published_numbers_break(key):
    grid, name, steps = key.split("/")
    total = int(grid.removeprefix("grid")) ** 2
    counts = tokens_per_step(total, int(steps), name)
    assert min(counts) == 1 or counts == [total]
    assert sum(counts) == total
    if int(steps) > 1:
        # The last step is raised to 1 by tokens of the fullest ones, here at most one from each.
        given_away = [old - new for old, new in zip(GOLDEN[key][:-1], counts[:-1], strict=True)]
        assert counts[-1] == 1
        assert sum(given_away) == 1 - GOLDEN[key][-1]
        assert set(given_away) == {0, 1}
        assert all(GOLDEN[key][i] >= max(GOLDEN[key]) - 1 for i, n in enumerate(given_away) if n)


@given(st.data())
def test_every_step_keeps_a_token_and_all_are_kept(data):
    total = data.draw(st.integers(1, 1100))
    steps = data.draw(st.integers(1, min(total, 130)))
    counts = tokens_per_step(total, steps, data.draw(st.sampled_from(SCHEDULES)))
    assert (len(counts), sum(counts)) == (steps, total)
    assert min(counts) >= 1


def test_one_step_keeps_all_and_as_many_steps_as_tokens_keep_one_each():
    for name in SCHEDULES:
        assert tokens_per_step(64, 1, name) == [64]
        assert tokens_per_step(64, 64, name) == [1] * 64


def test_powers_are_schedules():
    assert tokens_per_step(64, 8, "pow2") == tokens_per_step(64, 8, "square")
    assert tokens_per_step(64, 8, "pow5") != tokens_per_step(64, 8, "pow2")


def test_impossible_numbers_of_steps():
    with pytest.raises(ConfigError, match="--steps 65"):
        tokens_per_step(64, 65, "arccos")
    with pytest.raises(ConfigError, match="--steps 0"):
        tokens_per_step(64, 0, "arccos")
    with pytest.raises(ConfigError, match="--schedule cubic"):
        tokens_per_step(64, 8, "cubic")
    with pytest.raises(ConfigError, match="--steps 5"):
        confidence_sampler(toy_network(5, 4), *blank(1, 2, 2, 5), ConfidenceConfig(steps=5), 0, 5)


# --- noise on the confidence ------------------------------------------------------------------------


def test_gumbel_noise_at_temperature_0_is_greedy():
    network = toy_network(5, 9)
    noisy = ConfidenceConfig(steps=4, gumbel_temp=0.0, noise="linear")
    results = [
        confidence_sampler(network, *blank(6, 3, 3, 5), config, 0, 5)
        for config in (noisy, dataclasses.replace(noisy, noise="none"))
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("noise", "greedy"), [("none", [1, 1, 1, 1]), ("warm-up", [0, 0, 1, 1]), ("random", [0] * 4)]
)
def test_noise_decides_in_which_steps_the_most_confident_tokens_are_kept(noise, greedy):
    steps = []
    config = ConfidenceConfig(steps=4, noise=noise, schedule="root")
    confidence_sampler(toy_network(5, 9), *blank(30, 3, 3, 5), config, 0, 5, steps.append)
    for step, expected in zip(steps, greedy, strict=True):
        p = step.confidence[step.confidence.isfinite()]
        assert bool((p <= 0).all()) == bool(expected)  # a log-probability, not Gumbel noise


def test_linear_noise_falls_to_0():
    steps = []
    config = ConfidenceConfig(steps=3, gumbel_temp=100.0)
    confidence_sampler(toy_network(5, 9), *blank(20, 3, 3, 5), config, 0, 5, steps.append)
    spread = [step.confidence[step.confidence.isfinite()].std().item() for step in steps]
    assert spread[0] > 1.5 * spread[1] > 20 * spread[2]
    assert (steps[-1].confidence <= 0).all()


# --- frequencies ------------------------------------------------------------------------------------

JOINT = torch.tensor([[0.10, 0.25, 0.05], [0.02, 0.08, 0.20], [0.15, 0.05, 0.10]])  # p(first, second)


def joint_network(tokens, labels, drop):
    """The exact conditionals of JOINT for two positions."""
    first, second = tokens.flatten(1).T
    p = torch.zeros(len(tokens), 2, 4)
    p_first = torch.cat([JOINT.T, JOINT.sum(1)[None]])[second]  # the last row: second is masked
    p_second = torch.cat([JOINT, JOINT.sum(0)[None]])[first]
    p[:, 0, :3], p[:, 1, :3] = p_first, p_second
    return p.log()


def greedy_distribution():
    """The distribution where the more probable of two sampled tokens is kept first, case by case."""
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
def test_one_token_per_step_has_the_closed_form_frequencies(noise, expected):
    n = 20_000
    config = ConfidenceConfig(steps=2, cfg=0.0, noise=noise)
    sampled = confidence_sampler(joint_network, *blank(n, 1, 2, 3), config, 5, 3).flatten(1)
    counts = torch.bincount(sampled[:, 0] * 3 + sampled[:, 1], minlength=9).float()
    wanted = n * expected.flatten()
    chi_square = ((counts - wanted) ** 2 / wanted).sum().item()
    assert chi_square < 27.9  # 8 degrees of freedom: 99.95 % quantile
    assert not torch.allclose(JOINT, greedy_distribution(), atol=0.01)
