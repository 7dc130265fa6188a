"""What holds for every registered sampler; a new one is covered as soon as it is in SAMPLERS."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from device_without_float64 import DEVICE, Simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import (
    GUIDANCE_RAMPS,
    PRESETS,
    SAMPLERS,
    ConfidenceConfig,
    GoogleSamplerConfig,
    HaltonSamplerConfig,
    RasterConfig,
    SamplerConfig,
    changed,
    preset_for,
)
from maskgit_cli.errors import ConfigError
from maskgit_cli.runtime import distributed
from maskgit_cli.sampling.samplers.registry import sample_tokens, sampler_of, step_counts

EACH = pytest.mark.parametrize("kind", SAMPLERS.values(), ids=SAMPLERS)


@st.composite
def problems(draw, redraw=False):
    """(partly masked tokens, mask token, settings of any sampler, seed)"""
    kind = draw(st.sampled_from(list(SAMPLERS.values())))
    height, mask = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    width = height if kind is HaltonSamplerConfig else draw(st.integers(1, 4))  # its grids are square
    n = height * width
    rows = draw(st.lists(st.lists(st.integers(0, mask), min_size=n, max_size=n), min_size=1, max_size=4))
    tokens = torch.tensor(rows).view(-1, height, width)
    values = {
        "cfg": draw(st.sampled_from([0.0, 1.0, 3.0])),
        "ramp": draw(st.sampled_from(GUIDANCE_RAMPS)),
        "cfg_interval": draw(st.sampled_from([(0.0, 1.0), (0.2, 0.7)])),
        "sm_temp": draw(st.sampled_from([0.5, 1.0, 30.0])),
        "top_k": draw(st.integers(0, 3)),
    }
    for field in dataclasses.fields(kind):
        if field.name in values:
            continue
        if type(field.default) is bool:
            values[field.name] = draw(st.booleans())
        elif field.metadata.get("choices"):
            values[field.name] = draw(st.sampled_from(field.metadata["choices"]))
    if not redraw:
        values.pop("redraw", None)
    fewest = min([int((row == mask).sum()) for row in tokens if (row == mask).any()] or [3])
    config = kind(**values).limited(steps=draw(st.integers(1, fewest)))
    return tokens, mask, config, draw(st.integers(0, 2**64 - 1))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_every_sampler_keeps_its_counts_and_given_tokens_never_change(problem):
    tokens, mask, config, seed = problem
    labels, indices = torch.arange(len(tokens)) % 5, torch.arange(len(tokens)) + 17
    steps = []
    network = toy_network(mask, tokens[0].numel())
    result = sample_tokens(network, tokens, labels, indices, config, seed, mask, steps.append)

    given = tokens != mask
    assert torch.equal(result[given], tokens[given])
    assert ((result >= 0) & (result < mask)).all()
    before = tokens
    for step in steps:
        assert not (step.kept & (before != mask)).any()
        assert torch.equal(step.tokens, torch.where(step.kept, step.sampled, before))
        assert torch.equal(step.confidence.isfinite(), before == mask)
        before = step.tokens
    assert torch.equal(before, result)
    for row in range(len(tokens)):
        total = int((~given[row]).sum())
        kept = [int(step.kept[row].sum()) for step in steps]
        # The raster sampler has steps for positions that are masked in another image only.
        assert [n for n in kept if n] == (step_counts(config, total) if total else [])


@settings(max_examples=50, deadline=None)
@given(problems(redraw=True), st.data())
def test_an_image_does_not_depend_on_its_batch(problem, data):
    tokens, mask, config, seed = problem
    labels, indices = torch.arange(len(tokens)) % 5, torch.arange(len(tokens)) * 1000 + 3
    network = toy_network(mask, tokens[0].numel())
    whole = sample_tokens(network, tokens, labels, indices, config, seed, mask)
    rows = data.draw(st.lists(st.sampled_from(range(len(tokens))), min_size=1, unique=True))
    part = sample_tokens(network, tokens[rows], labels[rows], indices[rows], config, seed, mask)
    assert torch.equal(part, whole[rows])


@EACH
def test_seeds_and_indices_make_a_difference(kind):
    network, config = toy_network(5, 9), kind().limited(steps=3)
    sampled = [sample_tokens(network, *blank(4, 3, 3, 5), config, seed, 5) for seed in (0, 1)]
    assert len(torch.cat(sampled).flatten(1).unique(dim=0)) > 4


@EACH
def test_logits_with_or_without_those_of_the_mask_token(kind):
    """Google's network gives K logits per position, the others K+1."""
    with_mask = toy_network(4, 4)

    def without_mask(tokens, labels, drop):
        return with_mask(tokens, labels, drop)[..., :4]

    sampled = [
        sample_tokens(network, *blank(5, 2, 2, 4), kind().limited(steps=2), 3, 4)
        for network in (with_mask, without_mask)
    ]
    assert torch.equal(*sampled)


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("seed", [3, torch.arange(3)])
@EACH
def test_every_tensor_is_on_the_device_of_the_tokens(kind, seed, top_k):
    """PyTorch's default device is "meta" here, whose tensors mix with no others and have no content."""

    def predict(tokens, labels, drop):
        assert {tokens.device.type, labels.device.type, drop.device.type} == {"cpu"}
        return torch.zeros(len(tokens), 16, 6, device="cpu")

    config = kind(top_k=top_k).limited(steps=4)
    tokens, labels, indices = blank(3, 4, 4, 5)
    with torch.device("meta"):
        result = sample_tokens(predict, tokens, labels, indices, config, seed, 5, lambda step: None)
    assert (result < 5).all()


@EACH
def test_a_device_without_float64(kind, monkeypatch):
    """The network's tensors stay on the device, the result returns to it, and is that of a CPU."""
    monkeypatch.setattr(distributed, "WITHOUT_FLOAT64", {DEVICE.type})
    network, config = toy_network(5, 16), kind(cfg=1.0, top_k=3).limited(steps=4)
    expected = sample_tokens(network, *blank(3, 4, 4, 5), config, 0, 5)

    def predict(*inputs):
        assert {x.device.type for x in inputs} == {DEVICE.type}
        return network(*(x.cpu() for x in inputs)).to(DEVICE)

    with Simulated():
        inputs = [x.to(DEVICE) for x in blank(3, 4, 4, 5)]
        result = sample_tokens(predict, *inputs, config, 0, 5, lambda step: None)
        assert result.device == DEVICE
        assert torch.equal(result.cpu(), expected)


@EACH
def test_the_single_most_probable_token_leaves_nothing_to_chance(kind):
    def fixed(tokens, labels, drop):
        return torch.arange(64.0).view(1, 64, 1) % 7 * torch.arange(6.0) + torch.zeros(len(tokens), 64, 6)

    sampled = sample_tokens(fixed, *blank(3, 8, 8, 5), kind(top_k=1), 9, 5).flatten(1)
    assert torch.equal(sampled, torch.where(torch.arange(64) % 7 > 0, 4, 0).expand(3, -1))


@EACH
def test_top_k_changes_the_samples(kind):
    network = toy_network(7, 9)
    sampled = [
        sample_tokens(network, *blank(50, 3, 3, 7), kind(top_k=k).limited(steps=4), 0, 7) for k in (0, 2)
    ]
    assert not torch.equal(*sampled)


# --- the registry -----------------------------------------------------------------------------------


@EACH
def test_every_sampler_has_a_module(kind):
    assert sampler_of(kind()).config is kind


def test_settings_of_no_registered_sampler_are_refused():
    @dataclass(frozen=True)
    class OtherConfig(ConfidenceConfig):
        method: ClassVar[str] = "other"

    for config in (OtherConfig(), SamplerConfig()):
        with pytest.raises(ConfigError, match=type(config).__name__):
            step_counts(config, 16)
        with pytest.raises(ConfigError, match=type(config).__name__):
            sample_tokens(toy_network(5, 4), *blank(1, 2, 2, 5), config, 0, 5)


@EACH
def test_limits(kind):
    """No more steps than tokens, for samplers with steps and without; no guidance."""
    config = kind(cfg=2.0)
    assert config.limited() == config
    assert config.limited(guided=False) == dataclasses.replace(config, cfg=0.0)
    counts = step_counts(config.limited(steps=3), 3)
    assert (sum(counts), min(counts) >= 1) == (3, True)
    assert config.limited(steps=10_000) == config


@pytest.mark.parametrize("config", [ConfidenceConfig(), HaltonSamplerConfig(steps=8), GoogleSamplerConfig()])
def test_more_steps_than_tokens_are_refused(config):
    assert sum(step_counts(config, 8)) == 8
    with pytest.raises(ConfigError, match=r"--steps 8: .* 7 tokens"):
        step_counts(config, 7)


# --- settings ---------------------------------------------------------------------------------------


def test_every_sampler_has_a_preset():
    assert [preset_for(side) for side in (16, 64)] == ["small-64"] * 2
    assert [preset_for(side) for side in (65, 256, 384, 512)] == ["paper-256"] * 3 + ["paper-512"]
    assert [preset_for(side, "google") for side in (256, 512)] == ["google-256", "google-512"]
    for method, kind in SAMPLERS.items():
        assert type(PRESETS[preset_for(384, method)]) is kind
    assert all(SAMPLERS[config.method] is type(config) for config in PRESETS.values())
    assert PRESETS["halton"].cfg == 2.0  # constant, a scale of 3 in s·cond + (1−s)·uncond
    with pytest.raises(ConfigError, match="--sampler best"):
        preset_for(256, "best")


@pytest.mark.parametrize(
    ("method", "name", "others"),
    [
        ("halton", "gumbel_temp", "confidence"),
        ("raster", "schedule", "confidence or google"),
        ("confidence", "choice_temp", "google"),
    ],
)
def test_a_setting_that_a_sampler_lacks(method, name, others):
    """The line names the settings it has, and the samplers that have that one."""
    option = "--" + name.replace("_", "-")
    with pytest.raises(ConfigError, match=f"^{option}: .*{method}.* --cfg, .*--sampler {others} "):
        changed(PRESETS[preset_for(256, method)], {name: 1.0})


@pytest.mark.parametrize(
    ("kind", "values", "shown"),
    [
        (ConfidenceConfig, {"cfg_interval": (0.6, 0.4)}, "--cfg-interval 0.6:0.4"),
        (ConfidenceConfig, {"cfg_interval": (0.0, 1.5)}, "--cfg-interval 0:1.5"),
        (ConfidenceConfig, {"schedule": "pow"}, "--schedule pow"),
        (ConfidenceConfig, {"schedule": "pow0"}, "--schedule pow0"),
        (GoogleSamplerConfig, {"choice_temp": -1.0}, "--choice-temp -1.0"),
        (ConfidenceConfig, {"cfg": 1e39}, r"--cfg 1e\+39"),
        (RasterConfig, {"sm_temp": 1e308}, r"--sm-temp 1e\+308"),
        (HaltonSamplerConfig, {"sm_temp_end": 0.0}, "--sm-temp-end 0.0"),
        (RasterConfig, {"top_k": -1}, "--top-k -1"),
    ],
)
def test_values_out_of_range(kind, values, shown):
    with pytest.raises(ConfigError, match=f"^{shown}: must be "):
        kind(**values)


def test_a_record_of_a_sampler_makes_it_again():
    for config in PRESETS.values():
        record = config.describe()
        assert SAMPLERS[record.pop("method")].from_json(record) == config
