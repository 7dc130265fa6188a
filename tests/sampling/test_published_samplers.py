"""Halton-MaskGIT's, Google's and the autoregressive sampler; what all samplers have in common."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import (
    GUIDANCE_RAMPS,
    NOISES,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    ConfidenceConfig,
    GoogleSamplerConfig,
    HaltonSamplerConfig,
    RasterConfig,
    changed,
    preset_for,
)
from maskgit_cli.errors import ConfigError
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers import (
    check_steps,
    confidence_sampler,
    draw_codes,
    draw_samples,
    google_sampler,
    halton_sampler,
    raster_sampler,
)
from maskgit_cli.sampling.schedules import (
    google_tokens_per_step,
    guidance_weight,
    halton_order,
    halton_tokens_per_step,
    mask_ratio,
    tokens_per_step,
)


def expected_counts(config, total):
    if isinstance(config, ConfidenceConfig):
        return tokens_per_step(total, config.steps, config.schedule)
    if isinstance(config, GoogleSamplerConfig):
        return google_tokens_per_step(total, config.steps, config.schedule)
    if isinstance(config, HaltonSamplerConfig):
        return halton_tokens_per_step(total, config.steps)
    return [1] * total


@st.composite
def problems(draw, redraws=False):
    """(codes with holes, mask code, settings of any sampler, seed)"""
    kind = draw(st.sampled_from([ConfidenceConfig, HaltonSamplerConfig, GoogleSamplerConfig, RasterConfig]))
    height, book = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    width = height if kind is HaltonSamplerConfig else draw(st.integers(1, 4))  # whose order is of squares
    n = height * width
    rows = draw(st.lists(st.lists(st.integers(0, book), min_size=n, max_size=n), min_size=1, max_size=4))
    codes = torch.tensor(rows).view(-1, height, width)
    unknown = [int((row == book).sum()) for row in codes]
    values = {
        "cfg": draw(st.sampled_from([0.0, 1.0, 3.0])),
        "ramp": draw(st.sampled_from(GUIDANCE_RAMPS)),
        "cfg_interval": draw(st.sampled_from([(0.0, 1.0), (0.2, 0.7)])),
        "sm_temp": draw(st.sampled_from([0.5, 1.0, 30.0])),
        "top_k": draw(st.integers(0, 3)),
    }
    if kind is not RasterConfig:
        values["steps"] = draw(st.integers(1, min([u for u in unknown if u] or [3])))
    if kind is ConfidenceConfig:
        values["gumbel_temp"] = draw(st.sampled_from([0.0, 4.5]))
        values["schedule"] = draw(st.sampled_from([*SCHEDULES, "pow3"]))
        values["noise"] = draw(st.sampled_from(NOISES))
    if kind is HaltonSamplerConfig:
        values["roll"] = draw(st.booleans())
        values["redraw"] = redraws and draw(st.booleans())
    return codes, book, kind(**values), draw(st.integers(0, 2**64 - 1))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_every_sampler_keeps_its_numbers_and_known_codes_never_change(problem):
    codes, book, config, seed = problem
    labels, indices = torch.arange(len(codes)) % 5, torch.arange(len(codes)) + 17
    steps = []
    network = toy_network(book, codes[0].numel())
    result = draw_samples(network, codes, labels, indices, config, seed, book, steps.append)

    known = codes != book
    assert torch.equal(result[known], codes[known])
    assert ((result >= 0) & (result < book)).all()
    if not isinstance(config, RasterConfig):  # whose passes are numbered by the position they draw
        assert [step.number for step in steps] == list(range(config.steps))
    before = codes
    for step in steps:
        assert not (step.kept & (before != book)).any()
        assert torch.equal(step.codes, torch.where(step.kept, step.drawn, before))
        assert torch.equal(step.confidence.isfinite(), before == book)
        before = step.codes
    assert torch.equal(before, result)
    for row in range(len(codes)):
        total = int((~known[row]).sum())
        kept = [int(step.kept[row].sum()) for step in steps]
        if isinstance(config, RasterConfig):
            kept = [n for n in kept if n]  # passes that were for another image
        assert kept == (expected_counts(config, total) if total else [0] * len(kept))


@settings(max_examples=50, deadline=None)
@given(problems(redraws=True), st.data())
def test_an_image_does_not_depend_on_its_neighbors(problem, data):
    codes, book, config, seed = problem
    labels, indices = torch.arange(len(codes)) % 5, torch.arange(len(codes)) * 1000 + 3
    network = toy_network(book, codes[0].numel())
    whole = draw_samples(network, codes, labels, indices, config, seed, book)
    rows = data.draw(st.lists(st.sampled_from(range(len(codes))), min_size=1, unique=True))
    part = draw_samples(network, codes[rows], labels[rows], indices[rows], config, seed, book)
    assert torch.equal(part, whole[rows])


def test_any_grid_of_logits_with_or_without_the_masks_column():
    """Google's network gives K logits a position, the others K+1."""
    with_mask = toy_network(4, 4)

    def without_mask(codes, labels, drop):
        return with_mask(codes, labels, drop)[..., :4]

    for config in (ConfidenceConfig(steps=2), GoogleSamplerConfig(steps=2), RasterConfig()):
        drawn = [
            draw_samples(network, *blank(5, 2, 2, 4), config, 3, 4) for network in (with_mask, without_mask)
        ]
        assert torch.equal(*drawn)


# --- settings ---------------------------------------------------------------------------------------


def test_every_network_has_a_preset():
    assert [preset_for(side) for side in (16, 64)] == ["small-64"] * 2
    assert [preset_for(side) for side in (65, 256, 384, 512)] == ["paper-256"] * 3 + ["paper-512"]
    assert [preset_for(side, "google") for side in (256, 512)] == ["google-256", "google-512"]
    assert {preset_for(384, method) for method in SAMPLERS} <= PRESETS.keys()
    assert all(SAMPLERS[config.method] is type(config) for config in PRESETS.values())
    assert PRESETS["halton"].cfg == 2.0  # constant, a scale of 3 in s·cond + (1−s)·uncond
    with pytest.raises(ConfigError, match="--sampler best: must be one of confidence, halton"):
        preset_for(256, "best")


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [("halton", "gumbel_temp", 1.0), ("raster", "schedule", "root"), ("confidence", "choice_temp", 1.0)],
)
def test_a_setting_that_a_sampler_lacks(method, name, value):
    """The line says which settings it has, and which samplers have that one."""
    message = f"--{name.replace('_', '-')}: the {method} sampler has no such setting; it has --cfg, .*; "
    others = {"gumbel_temp": "confidence", "schedule": "confidence or google", "choice_temp": "google"}
    with pytest.raises(ConfigError, match=f"^{message}--sampler {others[name]} has it$"):
        changed(PRESETS[preset_for(256, method)], {name: value})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ConfidenceConfig, {"cfg_interval": (0.6, 0.4)}, "--cfg-interval 0.6:0.4: must be two numbers"),
        (ConfidenceConfig, {"cfg_interval": (0.0, 1.5)}, "--cfg-interval 0:1.5"),
        (ConfidenceConfig, {"schedule": "pow"}, "--schedule pow: must be one of root, .* or powN"),
        (ConfidenceConfig, {"schedule": "pow0"}, "--schedule pow0"),
        (GoogleSamplerConfig, {"choice_temp": -1.0}, "--choice-temp -1.0: must be between 0 and 10000"),
        (ConfidenceConfig, {"cfg": 1e39}, r"--cfg 1e\+39: must be between 0 and 10000"),
        (RasterConfig, {"sm_temp": 1e308}, r"--sm-temp 1e\+308: must be greater than 0 and 10000 or less"),
        (HaltonSamplerConfig, {"sm_temp_end": 0.0}, "--sm-temp-end 0.0: must be greater than 0"),
        (RasterConfig, {"top_k": -1}, "--top-k -1: must be 0 or more"),
    ],
)
def test_values_out_of_range(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_a_record_of_a_sampler_makes_it_again():
    for config in PRESETS.values():
        record = config.describe()
        assert SAMPLERS[record.pop("method")].from_json(record) == config


def test_too_many_steps_are_refused_before_anything_is_drawn():
    for config in (ConfidenceConfig(), HaltonSamplerConfig(steps=8), GoogleSamplerConfig()):
        check_steps(config, 8)
        with pytest.raises(ConfigError, match="--steps 8: there are 7 tokens"):
            check_steps(config, 7)
    check_steps(RasterConfig(), 1)
    with pytest.raises(ConfigError, match="--schedule root, this sampler has nothing left"):
        check_steps(GoogleSamplerConfig(steps=64, schedule="root"), 64)


# --- schedules --------------------------------------------------------------------------------------


def test_powers():
    r = torch.linspace(0, 1, 11)
    assert torch.equal(mask_ratio(r, "pow2"), mask_ratio(r, "square"))
    assert torch.equal(mask_ratio(r, "pow1"), mask_ratio(r, "linear"))
    assert torch.allclose(mask_ratio(r, "pow2.5"), 1 - r**2.5)
    assert tokens_per_step(64, 8, "pow2") == tokens_per_step(64, 8, "square")
    assert tokens_per_step(64, 8, "pow5") != tokens_per_step(64, 8, "pow2")


def test_guidance_only_within_its_interval():
    weights = [guidance_weight(3.0, i, 5, "constant", (0.25, 0.75)) for i in range(5)]
    assert weights == [0, 3, 3, 3, 0]
    assert [guidance_weight(4.0, i, 5, "linear", (0.5, 1.0)) for i in range(5)] == [0, 0, 2, 3, 4]


@pytest.mark.parametrize("grid", [8, 16, 24, 32])
def test_halton_orders_are_the_published_ones(grid):
    golden = np.load(Path(__file__).parent.parent / "data" / "halton" / "halton_order.npz")[f"grid{grid}"]
    assert list(halton_order(grid)) == (golden[:, 0] * grid + golden[:, 1]).tolist()


@given(st.integers(1, 40))
def test_halton_orders_of_any_grid_visit_every_cell_once(grid):
    assert sorted(halton_order(grid)) == list(range(grid * grid))


def test_halton_numbers_follow_the_published_formula():
    known = [max(i + 1, int((1 - math.acos((i + 1) / 32) / (math.pi / 2)) * 576)) for i in range(32)]
    assert list(itertools.accumulate(halton_tokens_per_step(576, 32))) == known


@given(st.data())
def test_all_numbers_of_tokens_are_positive_and_make_the_total(data):
    total = data.draw(st.integers(1, 600))
    steps = data.draw(st.integers(1, total))
    for counts in (halton_tokens_per_step(total, steps), google_tokens_per_step(total, steps, "cosine")):
        assert (len(counts), sum(counts), min(counts) >= 1) == (steps, total, True)


def test_google_numbers_leave_the_floor_of_the_cosine_masked():
    counts = google_tokens_per_step(256, 8, "cosine")
    left = [256 - known for known in itertools.accumulate(counts)]
    assert left[:-1] == [math.floor(256 * math.cos(math.pi / 2 * (i + 1) / 8)) for i in range(7)]
    assert left[-1] == 0


def test_google_numbers_are_clamped():
    # ⌊3·cos⌋ would leave 2, 2 and 1 masked after the first three of four steps: one less each time instead.
    assert google_tokens_per_step(4, 4, "cosine") == [1, 1, 1, 1]
    assert google_tokens_per_step(10, 2, "pow0.1") == [9, 1]  # ⌊10·γ(½)⌋ = 0, but one stays masked


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_google_numbers_with_every_schedule(schedule):
    assert sum(google_tokens_per_step(256, 8, schedule)) == 256


# --- Halton -----------------------------------------------------------------------------------------


def drawn_in_order(config, seed=0, n=1, side=4):
    steps = []
    halton_sampler(toy_network(5, side * side), *blank(n, side, side, 5), config, seed, 5, steps.append)
    return [[step.kept[i].flatten().nonzero().flatten().tolist() for step in steps] for i in range(n)]


def test_halton_takes_positions_in_its_order():
    order = drawn_in_order(HaltonSamplerConfig(steps=16, roll=False))[0]
    assert [step[0] for step in order] == list(halton_order(4))


def test_halton_rolls_the_order_by_an_amount_of_each_images_own():
    config = HaltonSamplerConfig(steps=16)
    starts = []
    for i, order in enumerate(drawn_in_order(config, seed=7, n=40)):
        flat = [step[0] for step in order]
        u = rng.uniform(7, torch.tensor([i]), 0, 1, rng.ROLL).item()
        assert flat == np.roll(halton_order(4), int(u * 16)).tolist()
        starts.append(flat[0])
    assert len(set(starts)) > 8


def test_halton_skips_what_is_known():
    codes, labels, indices = blank(1, 4, 4, 5)
    codes[0, :2] = 3
    steps = []
    config = HaltonSamplerConfig(steps=8, roll=False)
    halton_sampler(toy_network(5, 16), codes, labels, indices, config, 0, 5, steps.append)
    places = [int(step.kept.flatten().nonzero()) for step in steps]
    assert places == [place for place in halton_order(4) if place >= 8]


def test_halton_temperature_goes_from_one_to_the_other(monkeypatch):
    seen = []

    def watched(logits, u, sm_temp, top_k):
        seen.append(sm_temp)
        return draw_codes(logits, u, sm_temp, top_k)

    monkeypatch.setattr("maskgit_cli.sampling.samplers.draw_codes", watched)
    config = HaltonSamplerConfig(steps=5, sm_temp=1.0, sm_temp_end=3.0)
    halton_sampler(toy_network(5, 9), *blank(1, 3, 3, 5), config, 0, 5)
    assert seen == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_redrawing_changes_what_was_drawn_but_never_what_was_given():
    codes, labels, indices = blank(30, 3, 3, 5)
    codes[:, 0] = 2
    network, steps = toy_network(5, 9), []
    config = HaltonSamplerConfig(steps=4, redraw=True)
    result = halton_sampler(network, codes, labels, indices, config, 0, 5, steps.append)
    changed_later = [
        (now.codes != before.codes) & (before.codes != 5) for before, now in itertools.pairwise(steps)
    ]
    assert any(x.any() for x in changed_later)
    assert (result[:, 0] == 2).all()
    assert ((result >= 0) & (result < 5)).all()


# --- Google -----------------------------------------------------------------------------------------


def test_google_noise_falls_to_nothing_at_the_last_step():
    steps = []
    config = GoogleSamplerConfig(steps=3, choice_temp=100.0)
    google_sampler(toy_network(5, 16), *blank(20, 4, 4, 5), config, 0, 5, steps.append)
    spread = [step.confidence[step.confidence.isfinite()].std().item() for step in steps]
    assert spread[0] > 1.5 * spread[1] > 20 * spread[2]
    assert (steps[-1].confidence <= 0).all()


def test_google_choice_without_temperature_is_greedy():
    steps = []
    config = GoogleSamplerConfig(steps=4, choice_temp=0.0)
    google_sampler(toy_network(5, 9), *blank(6, 3, 3, 5), config, 0, 5, steps.append)
    for step in steps:
        left = step.confidence.masked_fill(step.kept, -torch.inf).flatten(1).max(1).values
        least = step.confidence.masked_fill(~step.kept, torch.inf).flatten(1).min(1).values
        assert (least >= left).all()


# --- one token a pass -------------------------------------------------------------------------------


def test_raster_goes_row_by_row_in_as_many_passes_as_tokens():
    passes, steps = [], []
    network = toy_network(5, 9)

    def counting(codes, labels, drop):
        passes.append(len(codes))
        return network(codes, labels, drop)

    raster_sampler(counting, *blank(1, 3, 3, 5), RasterConfig(cfg=0.0), 0, 5, steps.append)
    assert passes == [1] * 9
    assert [int(step.kept.flatten().nonzero()) for step in steps] == list(range(9))


def test_watching_the_raster_sampler_changes_nothing():
    network = toy_network(5, 9)
    unwatched = raster_sampler(network, *blank(6, 3, 3, 5), RasterConfig(cfg=1.5), 0, 5)
    watched = raster_sampler(network, *blank(6, 3, 3, 5), RasterConfig(cfg=1.5), 0, 5, lambda step: None)
    assert torch.equal(unwatched, watched)


JOINT = torch.tensor([[0.10, 0.25, 0.05], [0.02, 0.08, 0.20], [0.15, 0.05, 0.10]])  # p(first, second)


def joint_network(codes, labels, drop):
    """The exact conditionals of JOINT for the first two positions; the others always get code 0."""
    first, second = codes.flatten(1)[:, :2].T
    p = torch.zeros(len(codes), codes[0].numel(), 4)
    p[..., 0] = 1
    p[:, 0, :3] = torch.cat([JOINT.T, JOINT.sum(1)[None]])[second]  # the last row: not known
    p[:, 1, :3] = torch.cat([JOINT, JOINT.sum(0)[None]])[first]
    return p.log()


@pytest.mark.parametrize(
    "config", [RasterConfig(cfg=0.0), HaltonSamplerConfig(steps=4, cfg=0.0, sm_temp_end=1.0)]
)
def test_orders_known_beforehand_have_the_joint_distribution(config):
    """One code a step in an order that does not look at the codes is sampling by the chain rule."""
    n = 20_000
    drawn = draw_samples(joint_network, *blank(n, 2, 2, 3), config, 5, 3).flatten(1)
    counts = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9).float()
    wanted = n * JOINT.flatten()
    assert ((counts - wanted) ** 2 / wanted).sum().item() < 27.9  # 8 degrees of freedom: 99.95 % quantile
    assert (drawn[:, 2:] == 0).all()


# --- the k most probable ----------------------------------------------------------------------------


@given(st.integers(1, 9), st.lists(st.integers(-3, 3), min_size=9, max_size=9), st.integers(0, 2**32))
def test_top_k_never_leaves_the_k(k, logits, seed):
    """Also among equals, of which the lower codes count as more probable."""
    u = rng.uniform(seed, torch.arange(1), 0, 200)
    codes, log_p = draw_codes(torch.tensor(logits).float().expand(1, 200, 9), u, 1.0, k)
    best = sorted(range(9), key=lambda code: (-logits[code], code))[:k]
    assert set(codes.unique().tolist()) <= set(best)
    share = torch.tensor(logits)[best].double().softmax(0)
    assert torch.allclose(log_p.exp(), share[[best.index(code) for code in codes[0].tolist()]][None])


@pytest.mark.parametrize("config", [kind(top_k=1) for kind in SAMPLERS.values()], ids=SAMPLERS)
def test_the_single_most_probable_code_leaves_nothing_to_chance(config):
    def fixed(codes, labels, drop):
        return torch.arange(64.0).view(1, 64, 1) % 7 * torch.arange(6.0) + torch.zeros(len(codes), 64, 6)

    drawn = draw_samples(fixed, *blank(3, 8, 8, 5), config, 9, 5).flatten(1)
    assert torch.equal(drawn, torch.where(torch.arange(64) % 7 > 0, 4, 0).expand(3, -1))


def test_top_k_changes_the_reports_sampler_too():
    network = toy_network(7, 9)
    drawn = [
        confidence_sampler(network, *blank(50, 3, 3, 7), ConfidenceConfig(top_k=k), 0, 7) for k in (0, 2)
    ]
    assert not torch.equal(*drawn)
