"""Halton-MaskGIT's sampler: its order, numbers of tokens per step, temperatures, and resampling."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import HaltonSamplerConfig
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers import core
from maskgit_cli.sampling.samplers.halton import halton_order, halton_sampler, halton_tokens_per_step

DATA = Path(__file__).parent.parent.parent / "data"


@pytest.mark.parametrize("grid", [8, 16, 24, 32])
def test_orders_are_the_published_ones(grid):
    golden = np.load(DATA / "halton" / "halton_order.npz")[f"grid{grid}"]
    assert list(halton_order(grid)) == (golden[:, 0] * grid + golden[:, 1]).tolist()


@given(st.integers(1, 40))
def test_orders_of_any_grid_visit_every_cell_once(grid):
    assert sorted(halton_order(grid)) == list(range(grid * grid))


def test_numbers_follow_the_published_formula():
    kept = [max(i + 1, int((1 - math.acos((i + 1) / 32) / (math.pi / 2)) * 576)) for i in range(32)]
    assert list(itertools.accumulate(halton_tokens_per_step(576, 32))) == kept


@given(st.data())
def test_numbers_are_positive_and_sum_to_the_total(data):
    total = data.draw(st.integers(1, 600))
    steps = data.draw(st.integers(1, total))
    counts = halton_tokens_per_step(total, steps)
    assert (len(counts), sum(counts), min(counts) >= 1) == (steps, total, True)


def kept_in_order(config, seed=0, n=1, side=4):
    steps = []
    halton_sampler(toy_network(5, side * side), *blank(n, side, side, 5), config, seed, 5, steps.append)
    return [[step.kept[i].flatten().nonzero().flatten().tolist() for step in steps] for i in range(n)]


def test_positions_are_kept_in_order():
    order = kept_in_order(HaltonSamplerConfig(steps=16, roll=False))[0]
    assert [step[0] for step in order] == list(halton_order(4))


def test_the_order_is_shifted_by_a_random_offset_per_image():
    config = HaltonSamplerConfig(steps=16)
    starts = []
    for i, order in enumerate(kept_in_order(config, seed=7, n=40)):
        flat = [step[0] for step in order]
        u = rng.uniform(7, torch.tensor([i]), 0, 1, rng.ROLL).item()
        assert flat == np.roll(halton_order(4), int(u * 16)).tolist()
        starts.append(flat[0])
    assert len(set(starts)) > 8


def test_given_tokens_are_skipped():
    tokens, labels, indices = blank(1, 4, 4, 5)
    tokens[0, :2] = 3
    steps = []
    config = HaltonSamplerConfig(steps=8, roll=False)
    halton_sampler(toy_network(5, 16), tokens, labels, indices, config, 0, 5, steps.append)
    positions = [int(step.kept.flatten().nonzero()) for step in steps]
    assert positions == [position for position in halton_order(4) if position >= 8]


def test_the_temperature_goes_from_one_to_the_other(monkeypatch):
    seen, original = [], core.inverse_cdf

    def watched(logits, u, sm_temp, top_k):
        seen.append(sm_temp)
        return original(logits, u, sm_temp, top_k)

    monkeypatch.setattr(core, "inverse_cdf", watched)
    config = HaltonSamplerConfig(steps=5, sm_temp=1.0, sm_temp_end=3.0)
    halton_sampler(toy_network(5, 9), *blank(1, 3, 3, 5), config, 0, 5)
    assert seen == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_redraw_resamples_earlier_tokens_but_never_given_ones():
    tokens, labels, indices = blank(30, 3, 3, 5)
    tokens[:, 0] = 2
    network, steps = toy_network(5, 9), []
    config = HaltonSamplerConfig(steps=4, redraw=True)
    result = halton_sampler(network, tokens, labels, indices, config, 0, 5, steps.append)
    changed_later = [
        (now.tokens != before.tokens) & (before.tokens != 5) for before, now in itertools.pairwise(steps)
    ]
    assert any(x.any() for x in changed_later)
    assert (result[:, 0] == 2).all()
    assert ((result >= 0) & (result < 5)).all()
