"""Tokens a step and guidance ramps, against the published numbers and as properties."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgit_cli.config.samplers import GUIDANCE_RAMPS, SCHEDULES
from maskgit_cli.errors import ConfigError
from maskgit_cli.sampling.schedules import guidance_weight, mask_ratio, tokens_per_step

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "schedules_v1.json").read_text())


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
    if (
        int(steps) > 1
    ):  # the last step is raised to 1 by tokens of the fullest ones, at most one from each here
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
    assert len(counts) == steps
    assert sum(counts) == total
    assert min(counts) >= 1


def test_one_step_keeps_all_and_as_many_steps_as_tokens_keep_one_each():
    for name in SCHEDULES:
        assert tokens_per_step(64, 1, name) == [64]
        assert tokens_per_step(64, 64, name) == [1] * 64


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="--steps 65: there are 64 tokens"):
        tokens_per_step(64, 65, "arccos")
    with pytest.raises(ConfigError, match="--steps 0: must be 1 or more"):
        tokens_per_step(64, 0, "arccos")
    with pytest.raises(ConfigError, match="--schedule cubic: must be one of root"):
        tokens_per_step(64, 8, "cubic")
    with pytest.raises(ConfigError, match="--ramp up: must be one of"):
        guidance_weight(1.0, 0, 8, "up")


@pytest.mark.parametrize("name", SCHEDULES)
def test_mask_ratio_falls_from_1_to_0(name):
    ratios = mask_ratio(torch.linspace(0, 1, 101), name)
    assert ratios[0] == 1
    assert ratios[-1] == pytest.approx(0, abs=1e-6)
    assert (ratios.diff() <= 0).all()
    assert ((ratios >= 0) & (ratios <= 1)).all()


def test_mask_ratio_of_the_report():
    r = torch.tensor([0.5], dtype=torch.float64)
    expected = {
        "root": 1 - math.sqrt(0.5),
        "linear": 0.5,
        "square": 0.75,
        "cosine": math.sqrt(0.5),
        "arccos": 2 / 3,
    }
    assert {name: mask_ratio(r, name).item() for name in SCHEDULES} == pytest.approx(expected)


def test_guidance_ramps():
    assert [guidance_weight(3.0, i, 4, "linear") for i in range(4)] == pytest.approx([0, 1, 2, 3])
    assert [guidance_weight(3.0, i, 4, "constant") for i in range(4)] == [3.0] * 4
    assert [guidance_weight(3.0, i, 4, "none") for i in range(4)] == [0.0] * 4
    assert [guidance_weight(4.0, i, 3, "cosine") for i in range(3)] == pytest.approx([0, 2, 4])


def test_a_single_step_carries_the_full_weight():
    assert {ramp: guidance_weight(2.5, 0, 1, ramp) for ramp in GUIDANCE_RAMPS} == {
        "none": 0.0, "linear": 2.5, "constant": 2.5, "cosine": 2.5,
    }  # fmt: skip
