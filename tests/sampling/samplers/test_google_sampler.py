"""Google's sampler: numbers of tokens per step, and noise on the confidence."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import SCHEDULES, GoogleSamplerConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.sampling.samplers.google import google_sampler, google_tokens_per_step


def test_numbers_leave_the_floor_of_the_cosine_masked():
    counts = google_tokens_per_step(256, 8, "cosine")
    left = [256 - kept for kept in itertools.accumulate(counts)]
    assert left[:-1] == [math.floor(256 * math.cos(math.pi / 2 * (i + 1) / 8)) for i in range(7)]
    assert left[-1] == 0


def test_numbers_are_clamped():
    # ⌊3·cos⌋ would leave 2, 2 and 1 masked after the first three of four steps: one less each time instead.
    assert google_tokens_per_step(4, 4, "cosine") == [1, 1, 1, 1]
    assert google_tokens_per_step(10, 2, "pow0.1") == [9, 1]  # ⌊10·γ(½)⌋ = 0, but one stays masked


@given(st.data())
def test_numbers_are_positive_and_sum_to_the_total(data):
    total = data.draw(st.integers(1, 600))
    steps = data.draw(st.integers(1, total))
    counts = google_tokens_per_step(total, steps, "cosine")
    assert (len(counts), sum(counts), min(counts) >= 1) == (steps, total, True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_numbers_of_every_schedule(schedule):
    assert sum(google_tokens_per_step(256, 8, schedule)) == 256


def test_a_schedule_that_leaves_a_step_without_a_token():
    with pytest.raises(ConfigError, match=r"--steps 64: .*--schedule root"):
        google_tokens_per_step(64, 64, "root")


def test_noise_falls_to_0_at_the_last_step():
    steps = []
    config = GoogleSamplerConfig(steps=3, choice_temp=100.0)
    google_sampler(toy_network(5, 16), *blank(20, 4, 4, 5), config, 0, 5, steps.append)
    spread = [step.confidence[step.confidence.isfinite()].std().item() for step in steps]
    assert spread[0] > 1.5 * spread[1] > 20 * spread[2]
    assert (steps[-1].confidence <= 0).all()


def test_without_temperature_it_is_greedy():
    steps = []
    config = GoogleSamplerConfig(steps=4, choice_temp=0.0)
    google_sampler(toy_network(5, 9), *blank(6, 3, 3, 5), config, 0, 5, steps.append)
    for step in steps:
        left = step.confidence.masked_fill(step.kept, -torch.inf).flatten(1).max(1).values
        least = step.confidence.masked_fill(~step.kept, torch.inf).flatten(1).min(1).values
        assert (least >= left).all()
